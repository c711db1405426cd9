//! What the generated bindings call: constructors that run once, and a guard for buffers handed to the host.
//!
//! `cabi_realloc`, through which the host allocates in the guest, comes with the C library of `wasm32-wasip2`.

use std::alloc::Layout;

/// Runs static constructors once, though every export starts with a call of this.
pub fn run_ctors_once() {
    static DONE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    if !DONE.swap(true, std::sync::atomic::Ordering::Relaxed) {
        unsafe extern "C" {
            fn __wasm_call_ctors();
        }
        // SAFETY: wasm-ld provides the function; it is called before any other code of the guest, and once.
        unsafe { __wasm_call_ctors() }
    }
}

/// Keeps the linker from dropping `cabi_realloc`; the C library exports it on this target.
pub fn maybe_link_cabi_realloc() {}

/// Owns a buffer until it is forgotten, which leaves it to the host's post-return call.
pub struct Cleanup {
    pointer: *mut u8,
    layout: Layout,
}

impl Cleanup {
    #[must_use]
    pub fn new(layout: Layout) -> (*mut u8, Option<Self>) {
        if layout.size() == 0 {
            return (std::ptr::null_mut(), None);
        }
        // SAFETY: the size of the layout is not zero.
        let pointer = unsafe { std::alloc::alloc(layout) };
        if pointer.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        (pointer, Some(Self { pointer, layout }))
    }

    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout and not freed since.
        unsafe { std::alloc::dealloc(self.pointer, self.layout) }
    }
}
