//! Activations: views of floats in the type that the device keeps them in.
//!
//! A device answers its type from [`super::Device::activation_type`]. What is small or sums over many steps stays `f32` on
//! every device and is a [`Slice`]; what is wide and read by products is a [`Values`].

use std::ops::{Bound, RangeBounds};
use std::ptr::NonNull;

use half::{bf16, f16};

use super::buffer::{Slice, SliceMut};

/// How an activation is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FloatType {
    #[default]
    F32,
    /// The upper half of an `f32`, rounded to nearest, ties to even.
    Bf16,
    /// IEEE's binary16, rounded likewise: three more bits than bf16, and infinities beyond 65,504.
    F16,
}

impl FloatType {
    /// Of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// `f32`, `bf16`, `f16`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    fn scaled(self, range: &impl RangeBounds<usize>, len: usize) -> std::ops::Range<usize> {
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
        start * self.bytes()..end * self.bytes()
    }
}

/// A shared view, as [`Slice`], of elements of one type.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    bytes: Slice<'a, u8>,
    kind: FloatType,
}

impl<'a> Values<'a> {
    /// Bytes as elements.
    ///
    /// # Panics
    /// If they are not whole elements, or not aligned for one.
    #[must_use]
    pub fn new(bytes: Slice<'a, u8>, kind: FloatType) -> Self {
        match kind {
            FloatType::F32 => bytes.cast::<f32>().into(),
            FloatType::Bf16 => bytes.cast::<bf16>().into(),
            FloatType::F16 => bytes.cast::<f16>().into(),
        }
    }

    #[must_use]
    pub fn kind(&self) -> FloatType {
        self.kind
    }

    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.bytes()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        self.bytes.address()
    }

    #[must_use]
    pub fn as_bytes(self) -> Slice<'a, u8> {
        self.bytes
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[must_use]
    pub fn slice(self, range: impl RangeBounds<usize>) -> Self {
        Self { bytes: self.bytes.slice(self.kind.scaled(&range, self.len())), kind: self.kind }
    }

    /// As what the caller knows it to be.
    ///
    /// # Panics
    /// If it is of another type: a device was handed activations that it does not keep, a defect of the caller.
    #[must_use]
    pub fn f32(self) -> Slice<'a, f32> {
        assert_eq!(self.kind, FloatType::F32, "the operation takes f32");
        self.bytes.cast()
    }

    /// The elements, when they are in host memory.
    ///
    /// # Panics
    /// As [`Values::f32`] and [`Slice::host`].
    #[must_use]
    pub fn host(self) -> &'a [f32] {
        self.f32().host()
    }
}

impl<'a> From<Slice<'a, f32>> for Values<'a> {
    fn from(slice: Slice<'a, f32>) -> Self {
        Self { bytes: slice.as_bytes(), kind: FloatType::F32 }
    }
}

impl<'a> From<Slice<'a, bf16>> for Values<'a> {
    fn from(slice: Slice<'a, bf16>) -> Self {
        Self { bytes: slice.as_bytes(), kind: FloatType::Bf16 }
    }
}

impl<'a> From<Slice<'a, f16>> for Values<'a> {
    fn from(slice: Slice<'a, f16>) -> Self {
        Self { bytes: slice.as_bytes(), kind: FloatType::F16 }
    }
}

/// An exclusive view, as [`SliceMut`], of elements of one type.
pub struct ValuesMut<'a> {
    bytes: SliceMut<'a, u8>,
    kind: FloatType,
}

impl<'a> ValuesMut<'a> {
    /// Bytes as elements.
    ///
    /// # Panics
    /// As [`Values::new`].
    #[must_use]
    pub fn new(bytes: SliceMut<'a, u8>, kind: FloatType) -> Self {
        match kind {
            FloatType::F32 => bytes.cast::<f32>().into(),
            FloatType::Bf16 => bytes.cast::<bf16>().into(),
            FloatType::F16 => bytes.cast::<f16>().into(),
        }
    }

    #[must_use]
    pub fn kind(&self) -> FloatType {
        self.kind
    }

    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.bytes()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        self.bytes.address()
    }

    #[must_use]
    pub fn into_bytes(self) -> SliceMut<'a, u8> {
        self.bytes
    }

    /// The same view for a shorter time.
    #[must_use]
    pub fn borrow(&mut self) -> ValuesMut<'_> {
        ValuesMut { bytes: self.bytes.borrow(), kind: self.kind }
    }

    /// As a shared view.
    #[must_use]
    pub fn freeze(&self) -> Values<'_> {
        Values { bytes: self.bytes.freeze(), kind: self.kind }
    }

    /// Becomes a shared view for as long as it lives.
    #[must_use]
    pub fn into_shared(self) -> Values<'a> {
        Values { bytes: self.bytes.into_shared(), kind: self.kind }
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[must_use]
    pub fn slice(self, range: impl RangeBounds<usize>) -> Self {
        let range = self.kind.scaled(&range, self.len());
        Self { bytes: self.bytes.slice(range), kind: self.kind }
    }

    /// Two views that do not overlap.
    ///
    /// # Panics
    /// If `middle` is out of bounds.
    #[must_use]
    pub fn split_at(self, middle: usize) -> (Self, Self) {
        let (first, second) = self.bytes.split_at(middle * self.kind.bytes());
        (Self { bytes: first, kind: self.kind }, Self { bytes: second, kind: self.kind })
    }

    /// As what the caller knows it to be.
    ///
    /// # Panics
    /// As [`Values::f32`].
    #[must_use]
    pub fn f32(self) -> SliceMut<'a, f32> {
        assert_eq!(self.kind, FloatType::F32, "the operation writes f32");
        self.bytes.cast()
    }

    /// The elements, when they are in host memory.
    ///
    /// # Panics
    /// As [`Values::host`].
    #[must_use]
    pub fn host(self) -> &'a mut [f32] {
        self.f32().host()
    }
}

impl<'a> From<SliceMut<'a, f32>> for ValuesMut<'a> {
    fn from(slice: SliceMut<'a, f32>) -> Self {
        Self { bytes: slice.into_bytes(), kind: FloatType::F32 }
    }
}

impl<'a> From<SliceMut<'a, bf16>> for ValuesMut<'a> {
    fn from(slice: SliceMut<'a, bf16>) -> Self {
        Self { bytes: slice.into_bytes(), kind: FloatType::Bf16 }
    }
}

impl<'a> From<SliceMut<'a, f16>> for ValuesMut<'a> {
    fn from(slice: SliceMut<'a, f16>) -> Self {
        Self { bytes: slice.into_bytes(), kind: FloatType::F16 }
    }
}
