//! Device memory with explicit lifetimes, and typed views into it.
//!
//! A [`Buffer`] owns memory of one device and is counted in its [`Ledger`] until it is dropped. Operations take
//! [`Slice`] and [`SliceMut`], which borrow from a buffer as `&[T]` and `&mut [T]` borrow from a vector, so the compiler
//! keeps an operation's output apart from its inputs on every device. Only the device itself looks behind the address.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, Range, RangeBounds};
use std::ptr::NonNull;
use std::sync::Arc;

use bytemuck::Pod;

use super::host_bytes::HostBytes;
use super::ledger::{Component, Ledger};

/// Which address space an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Host,
    /// A CUDA device by ordinal.
    Cuda(u8),
}

/// Untyped memory of a device, freed when its owner is dropped.
pub struct Allocation {
    address: NonNull<u8>,
    bytes: usize,
    /// Bytes that the ledger was told of.
    counted: usize,
    space: Space,
    component: Component,
    ledger: Arc<Ledger>,
    writable: bool,
    /// Frees the memory; never looked at.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: an allocation is a unique owner of its memory, which is only reached through borrows of it.
unsafe impl Send for Allocation {}
// SAFETY: shared borrows give out read-only views only.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// Takes over memory and counts it.
    ///
    /// # Safety
    /// `address` must be valid for reads and writes of `bytes` bytes in `space`, aligned to 64, initialised, unaliased,
    /// and stay so until `owner` is dropped.
    pub unsafe fn new(
        address: NonNull<u8>,
        bytes: usize,
        space: Space,
        component: Component,
        ledger: Arc<Ledger>,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Self {
        ledger.add(component, bytes);
        Self { address, bytes, counted: bytes, space, component, ledger, writable: true, _owner: owner }
    }

    /// Takes over host memory that no component counts: a file backs it, so that the system may write it out and take it
    /// back at any time, or it is page-locked and counted as the host's.
    ///
    /// # Safety
    /// As of [`Allocation::new`].
    pub unsafe fn paged(
        address: NonNull<u8>,
        bytes: usize,
        component: Component,
        ledger: Arc<Ledger>,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Self { address, bytes, counted: 0, space: Space::Host, component, ledger, writable: true, _owner: owner }
    }

    /// A part of memory that its owner counts and writes to, only to be read.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[must_use]
    pub fn part(whole: &Arc<Self>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= whole.bytes, "{range:?} is out of {} bytes", whole.bytes);
        // SAFETY: the start is inside the memory or one past its end.
        let address = unsafe { whole.address.add(range.start) };
        let (space, component, ledger) = (whole.space, whole.component, Arc::clone(&whole.ledger));
        let owner = Box::new(Arc::clone(whole));
        Self { address, bytes: range.len(), counted: 0, space, component, ledger, writable: false, _owner: owner }
    }

    /// All of it, to write to while parts of it are read.
    ///
    /// # Safety
    /// The memory is a device's, whose queues order whatever reads and writes it.
    #[must_use]
    pub unsafe fn shared_mut(&self) -> SliceMut<'_, u8> {
        SliceMut { address: self.address, len: self.bytes, space: self.space, marker: PhantomData }
    }

    /// Host memory that is only ever read and that is not counted: whoever keeps it says when it is resident, with
    /// [`Ledger::hold`].
    #[must_use]
    pub fn adopt(memory: HostBytes, component: Component, ledger: Arc<Ledger>) -> Self {
        let (address, bytes, owner) = memory.into_parts();
        let owner = Box::new(owner);
        Self { address, bytes, counted: 0, space: Space::Host, component, ledger, writable: false, _owner: owner }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.ledger.remove(self.component, self.counted);
    }
}

/// `len` elements of device memory.
pub struct Buffer<T> {
    allocation: Allocation,
    len: usize,
    marker: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// Types an allocation.
    ///
    /// # Panics
    /// If the allocation is too small; the device made it, so that is a defect.
    #[must_use]
    pub fn new(allocation: Allocation, len: usize) -> Self {
        assert!(len * size_of::<T>() <= allocation.bytes, "the allocation holds fewer than {len} elements");
        assert!(allocation.address.as_ptr().addr().is_multiple_of(align_of::<T>()), "the allocation is not aligned");
        Self { allocation, len, marker: PhantomData }
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
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    #[must_use]
    pub fn all(&self) -> Slice<'_, T> {
        Slice {
            address: self.allocation.address.cast(),
            len: self.len,
            space: self.allocation.space,
            marker: PhantomData,
        }
    }

    /// All of it, to write to.
    ///
    /// # Panics
    /// If the memory is somebody else's, to be read only.
    #[must_use]
    pub fn all_mut(&mut self) -> SliceMut<'_, T> {
        assert!(self.allocation.writable, "adopted memory is only read");
        SliceMut {
            address: self.allocation.address.cast(),
            len: self.len,
            space: self.allocation.space,
            marker: PhantomData,
        }
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Slice<'_, T> {
        self.all().slice(range)
    }

    /// A part of it, to write to.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[must_use]
    pub fn slice_mut(&mut self, range: impl RangeBounds<usize>) -> SliceMut<'_, T> {
        self.all_mut().slice(range)
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} × {}, {})", self.len, std::any::type_name::<T>(), self.allocation.component)
    }
}

fn bounds(range: &impl RangeBounds<usize>, len: usize) -> (usize, usize) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => *start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => *end + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    assert!(start <= end && end <= len, "range {start}..{end} is out of bounds of a view of {len} elements");
    (start, end)
}

/// A shared view, as `&[T]`.
pub struct Slice<'a, T> {
    address: NonNull<T>,
    len: usize,
    space: Space,
    marker: PhantomData<&'a [T]>,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<'_, T> {}

// SAFETY: it stands for `&[T]`.
unsafe impl<T: Sync> Send for Slice<'_, T> {}
// SAFETY: it stands for `&[T]`.
unsafe impl<T: Sync> Sync for Slice<'_, T> {}

impl<'a, T> Slice<'a, T> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn space(&self) -> Space {
        self.space
    }

    #[must_use]
    pub fn address(&self) -> NonNull<T> {
        self.address
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[must_use]
    pub fn slice(self, range: impl RangeBounds<usize>) -> Self {
        let (start, end) = bounds(&range, self.len);
        // SAFETY: `start <= len`, so the address stays inside the allocation or one past its end.
        let address = unsafe { self.address.add(start) };
        Self { address, len: end - start, ..self }
    }

    /// The same memory as elements of another type.
    ///
    /// # Panics
    /// If it holds no whole number of them, or does not start where one may be.
    #[must_use]
    pub fn cast<U: Pod>(self) -> Slice<'a, U>
    where
        T: Pod,
    {
        let bytes = self.len * size_of::<T>();
        assert!(bytes.is_multiple_of(size_of::<U>()), "{bytes} bytes are no whole number of elements");
        assert!(self.address.as_ptr().addr().is_multiple_of(align_of::<U>()), "the view is not aligned");
        Slice { address: self.address.cast(), len: bytes / size_of::<U>(), space: self.space, marker: PhantomData }
    }

    /// The same memory as bytes.
    #[must_use]
    pub fn as_bytes(self) -> Slice<'a, u8>
    where
        T: Pod,
    {
        Slice { address: self.address.cast(), len: self.len * size_of::<T>(), space: self.space, marker: PhantomData }
    }

    /// Memory that something else than a [`Buffer`] owns.
    ///
    /// # Safety
    /// `len` initialised elements of `space` are at `address`, and nobody writes to them for as long as the view lives.
    #[must_use]
    pub unsafe fn of_memory(address: NonNull<T>, len: usize, space: Space) -> Self {
        Self { address, len, space, marker: PhantomData }
    }

    /// The elements, when they are in host memory.
    ///
    /// # Panics
    /// If they are not: a buffer was handed to another device than its own, a defect of the caller.
    #[must_use]
    pub fn host(self) -> &'a [T] {
        assert_eq!(self.space, Space::Host, "a view of {:?} memory was handed to the host", self.space);
        // SAFETY: the buffer's memory is initialised and valid for its length, and borrowed for 'a.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }
}

/// How many elements bytes are.
fn whole<T>(address: NonNull<u8>, bytes: usize) -> usize {
    assert!(bytes.is_multiple_of(size_of::<T>()), "{bytes} bytes are not whole elements of {}", size_of::<T>());
    assert!(bytes == 0 || address.as_ptr().addr().is_multiple_of(align_of::<T>()), "the view is not aligned");
    bytes / size_of::<T>()
}

impl<'a, T: Pod> From<&'a [T]> for Slice<'a, T> {
    /// Host memory as a view, for what the CPU reads in place.
    fn from(slice: &'a [T]) -> Self {
        Self { address: NonNull::from(slice).cast(), len: slice.len(), space: Space::Host, marker: PhantomData }
    }
}

/// An exclusive view, as `&mut [T]`.
pub struct SliceMut<'a, T> {
    address: NonNull<T>,
    len: usize,
    space: Space,
    marker: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for `&mut [T]`.
unsafe impl<T: Send> Send for SliceMut<'_, T> {}
// SAFETY: it stands for `&mut [T]`.
unsafe impl<T: Sync> Sync for SliceMut<'_, T> {}

impl<'a, T> SliceMut<'a, T> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn space(&self) -> Space {
        self.space
    }

    #[must_use]
    pub fn address(&self) -> NonNull<T> {
        self.address
    }

    /// The same view for a shorter time.
    #[must_use]
    pub fn borrow(&mut self) -> SliceMut<'_, T> {
        SliceMut { address: self.address, len: self.len, space: self.space, marker: PhantomData }
    }

    /// Becomes a shared view for as long as it lives.
    #[must_use]
    pub fn into_shared(self) -> Slice<'a, T> {
        Slice { address: self.address, len: self.len, space: self.space, marker: PhantomData }
    }

    /// As a shared view.
    #[must_use]
    pub fn freeze(&self) -> Slice<'_, T> {
        Slice { address: self.address, len: self.len, space: self.space, marker: PhantomData }
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[must_use]
    pub fn slice(self, range: impl RangeBounds<usize>) -> Self {
        let (start, end) = bounds(&range, self.len);
        // SAFETY: `start <= len`, so the address stays inside the allocation or one past its end.
        let address = unsafe { self.address.add(start) };
        Self { address, len: end - start, ..self }
    }

    /// Two views that do not overlap.
    ///
    /// # Panics
    /// If `middle` is out of bounds.
    #[must_use]
    pub fn split_at(self, middle: usize) -> (Self, Self) {
        assert!(middle <= self.len, "split at {middle} of {}", self.len);
        let (address, len, space) = (self.address, self.len, self.space);
        // SAFETY: `middle <= len`, as above.
        let second = unsafe { address.add(middle) };
        (
            Self { address, len: middle, space, marker: PhantomData },
            Self { address: second, len: len - middle, space, marker: PhantomData },
        )
    }

    /// The same memory as bytes.
    #[must_use]
    pub fn into_bytes(self) -> SliceMut<'a, u8>
    where
        T: Pod,
    {
        SliceMut {
            address: self.address.cast(),
            len: self.len * size_of::<T>(),
            space: self.space,
            marker: PhantomData,
        }
    }

    /// Memory that something else than a [`Buffer`] owns.
    ///
    /// # Safety
    /// There is room for `len` elements of `space` at `address`, and nobody else uses it for as long as the view lives.
    #[must_use]
    pub unsafe fn of_memory(address: NonNull<T>, len: usize, space: Space) -> Self {
        Self { address, len, space, marker: PhantomData }
    }

    /// The elements, when they are in host memory.
    ///
    /// # Panics
    /// If they are not: a buffer was handed to another device than its own, a defect of the caller.
    #[must_use]
    pub fn host(self) -> &'a mut [T] {
        assert_eq!(self.space, Space::Host, "a view of {:?} memory was handed to the host", self.space);
        // SAFETY: the buffer's memory is initialised and valid for its length, and borrowed exclusively for 'a.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len) }
    }
}

impl<'a> SliceMut<'a, u8> {
    /// The same memory as elements.
    ///
    /// # Panics
    /// If it is not whole elements, or not aligned for one.
    #[must_use]
    pub fn cast<T: Pod>(self) -> SliceMut<'a, T> {
        let len = whole::<T>(self.address, self.len);
        SliceMut { address: self.address.cast(), len, space: self.space, marker: PhantomData }
    }
}

impl<'a, T: Pod> From<&'a mut [T]> for SliceMut<'a, T> {
    fn from(slice: &'a mut [T]) -> Self {
        let len = slice.len();
        Self { address: NonNull::from(slice).cast(), len, space: Space::Host, marker: PhantomData }
    }
}
