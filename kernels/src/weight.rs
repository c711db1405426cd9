//! A matrix operand in one of the storage types that base models have.

use half::{bf16, f16};

use crate::blocks::BlockView;
use crate::nf4::{self, Nf4View};

/// A row-major matrix, logically `[n, k]`; its shape is given where it is used.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    Nf4(Nf4View<'a>),
    Blocks(BlockView<'a>),
}

impl Weight<'_> {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::F16(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::Nf4(view) => view.rows * view.cols,
            Self::Blocks(view) => view.len(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of storage, scales included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(data) => size_of_val(*data),
            Self::F16(data) => size_of_val(*data),
            Self::Bf16(data) => size_of_val(*data),
            Self::Nf4(view) => view.bytes(),
            Self::Blocks(view) => view.bytes.len(),
        }
    }

    /// Converts elements `start..start + out.len()` of the flattened matrix to `f32`.
    ///
    /// # Panics
    /// If the range is outside the matrix.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        let end = start + out.len();
        match self {
            Self::F32(data) => out.copy_from_slice(&data[start..end]),
            Self::F16(data) => {
                for (to, from) in out.iter_mut().zip(&data[start..end]) {
                    *to = from.to_f32();
                }
            }
            Self::Bf16(data) => {
                for (to, from) in out.iter_mut().zip(&data[start..end]) {
                    *to = from.to_f32();
                }
            }
            Self::Nf4(view) => nf4::dequantize_range(view, start, out),
            Self::Blocks(view) => view.read_f32(start, out),
        }
    }
}

impl<'a> From<&'a [f32]> for Weight<'a> {
    fn from(data: &'a [f32]) -> Self {
        Self::F32(data)
    }
}
