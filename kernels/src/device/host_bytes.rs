//! Host memory that somebody else keeps, for devices that compute on host memory in place.

use std::any::Any;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes that stay where they are, such as those of a mapped file.
#[derive(Clone)]
pub struct HostBytes {
    address: NonNull<u8>,
    len: usize,
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: it stands for a shared `[u8]` that its owner keeps alive.
unsafe impl Send for HostBytes {}
// SAFETY: as above.
unsafe impl Sync for HostBytes {}

impl HostBytes {
    /// # Safety
    /// `bytes` must stay at their address, readable and unchanged, until the last clone of `owner` is dropped.
    #[must_use]
    pub unsafe fn new(bytes: &[u8], owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { address: NonNull::from(bytes).cast(), len: bytes.len(), owner }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `new` was promised that they stay readable while the owner lives, which `self` keeps alive.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }

    /// A part of them.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is out of bounds of {} bytes", self.len);
        // SAFETY: the start is inside the bytes or one past their end.
        let address = unsafe { self.address.add(range.start) };
        Self { address, len: range.len(), owner: Arc::clone(&self.owner) }
    }

    /// Whether a `T` may be read at their start.
    #[must_use]
    pub fn is_aligned_for<T>(&self) -> bool {
        self.address.as_ptr().addr().is_multiple_of(align_of::<T>())
    }

    pub(super) fn into_parts(self) -> (NonNull<u8>, usize, Arc<dyn Any + Send + Sync>) {
        (self.address, self.len, self.owner)
    }
}
