//! Buffers that live as long as their thread, so that a steady state allocates nothing.

use std::cell::RefCell;

use bytemuck::{Pod, Zeroable};

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of `f32`, aligned to 64 bytes, with whatever values its last user left. Returns to its thread when dropped.
pub struct Scratch {
    lines: Vec<Line>,
    len: usize,
}

impl Scratch {
    /// A buffer of `len` values: the smallest free one that is large enough, else the largest one, grown.
    pub fn take(len: usize) -> Self {
        let lines = len.div_ceil(16);
        let mut buffer = FREE.with_borrow_mut(|free| {
            let fitting = free.iter().enumerate().filter(|(_, buffer)| buffer.len() >= lines);
            let chosen = fitting.min_by_key(|(_, buffer)| buffer.len()).map(|(index, _)| index);
            let chosen = chosen
                .or_else(|| free.iter().enumerate().max_by_key(|(_, buffer)| buffer.len()).map(|(index, _)| index));
            chosen.map(|index| free.swap_remove(index)).unwrap_or_default()
        });
        if buffer.len() < lines {
            // Nothing worth copying is in it.
            buffer.clear();
            buffer.resize(lines, Line([0.0; 16]));
        }
        Self { lines: buffer, len }
    }

    pub fn as_slice(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread that is ending has no list any more; the buffer is then simply freed.
        let _ = FREE.try_with(|free| free.borrow_mut().push(lines));
    }
}

/// A pointer that tasks share to write disjoint parts of one buffer.
#[derive(Clone, Copy)]
pub struct Shared<T>(*mut T);

// SAFETY: whoever dereferences it vouches that no two tasks touch the same element.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    pub fn get(self) -> *mut T {
        self.0
    }
}
