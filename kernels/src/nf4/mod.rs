//! NF4: four-bit NormalFloat in blocks of 64 (Dettmers et al., "QLoRA", 2023), byte for byte in the layout of
//! bitsandbytes: blocks run over the flattened row-major matrix and may cross rows, the element of even index sits in
//! the high nibble. With double quantisation the block maxima, less their mean, are themselves quantised in blocks of
//! 256 with the signed dynamic 8-bit map.

mod codec;
mod dynamic_map;

pub use codec::{CODE, Flavour, quantize_absmax, quantize_flavour};
pub use dynamic_map::{dynamic_map, unsigned_dynamic_map};

use crate::Backend;
use crate::simd::{LANES, kernel};

/// Elements that share one scale.
pub const BLOCK: usize = 64;

/// Scales that share one second-level scale.
pub const NESTED_BLOCK: usize = 256;

/// The scale of each block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AbsMax<'a> {
    Plain(&'a [f32]),
    /// `scale[b] = dynamic_map[codes[b]] · scales[b / 256] + offset`.
    Nested {
        codes: &'a [u8],
        scales: &'a [f32],
        offset: f32,
    },
}

impl AbsMax<'_> {
    /// The scale of block `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[index],
            // Rounded after the product: bitsandbytes dequantises, then adds the offset in place.
            Self::Nested { codes, scales, offset } => {
                dynamic_map()[codes[index] as usize] * scales[index / NESTED_BLOCK] + offset
            }
        }
    }

    /// Number of blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(scales) => scales.len(),
            Self::Nested { codes, .. } => codes.len(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A quantised matrix that somebody else owns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nf4View<'a> {
    /// `ceil(rows · cols / 2)` bytes.
    pub packed: &'a [u8],
    /// `ceil(rows · cols / 64)` scales.
    pub absmax: AbsMax<'a>,
    pub rows: usize,
    pub cols: usize,
}

impl Nf4View<'_> {
    /// Whether the buffers have the lengths that the shape asks for.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let Some(count) = self.rows.checked_mul(self.cols) else { return false };
        let blocks = count.div_ceil(BLOCK);
        self.packed.len() == count.div_ceil(2)
            && self.absmax.len() == blocks
            && match self.absmax {
                AbsMax::Plain(_) => true,
                AbsMax::Nested { scales, .. } => scales.len() == blocks.div_ceil(NESTED_BLOCK),
            }
    }

    /// Bytes of storage.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.packed.len()
            + match self.absmax {
                AbsMax::Plain(scales) => size_of_val(scales),
                AbsMax::Nested { codes, scales, .. } => codes.len() + size_of_val(scales) + size_of::<f32>(),
            }
    }

    /// The value of element `index` of the flattened matrix.
    fn get(&self, index: usize) -> f32 {
        let byte = self.packed[index / 2];
        let code = if index & 1 == 0 { byte >> 4 } else { byte & 15 };
        CODE[code as usize] * self.absmax.get(index / BLOCK)
    }
}

/// The scales of an [`Nf4Tensor`].
#[derive(Debug, Clone, PartialEq)]
pub enum Nf4Scales {
    Plain(Vec<f32>),
    Nested { codes: Vec<u8>, scales: Vec<f32>, offset: f32 },
}

/// A quantised matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf4Tensor {
    pub packed: Vec<u8>,
    pub absmax: Nf4Scales,
    pub rows: usize,
    pub cols: usize,
}

impl Nf4Tensor {
    #[must_use]
    pub fn view(&self) -> Nf4View<'_> {
        let absmax = match &self.absmax {
            Nf4Scales::Plain(scales) => AbsMax::Plain(scales),
            Nf4Scales::Nested { codes, scales, offset } => AbsMax::Nested { codes, scales, offset: *offset },
        };
        Nf4View { packed: &self.packed, absmax, rows: self.rows, cols: self.cols }
    }

    /// Bytes of storage.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.view().bytes()
    }
}

/// Quantises `w[rows, cols]` as bitsandbytes does on a GPU ([`Flavour::Cuda`]), with double quantisation if `double`.
///
/// # Panics
/// If `w` has another length.
#[must_use]
pub fn quantize(w: &[f32], rows: usize, cols: usize, double: bool) -> Nf4Tensor {
    quantize_flavour(w, rows, cols, double, Flavour::Cuda)
}

/// Writes rows `rows` of the matrix to `out`.
///
/// # Panics
/// If `out` does not hold exactly those rows, or they are outside the matrix.
pub fn dequantize(view: &Nf4View<'_>, rows: std::ops::Range<usize>, out: &mut [f32]) {
    assert!(rows.start <= rows.end && rows.end <= view.rows, "rows {rows:?} are outside 0..{}", view.rows);
    assert_eq!(out.len(), rows.len() * view.cols, "out must hold {} rows", rows.len());
    dequantize_range(view, rows.start * view.cols, out);
}

/// Writes elements `start..start + out.len()` of the flattened matrix to `out`.
///
/// # Panics
/// If they are outside the matrix, or the buffers do not have the lengths of its shape.
pub fn dequantize_range(view: &Nf4View<'_>, start: usize, out: &mut [f32]) {
    assert!(view.is_consistent(), "the NF4 buffers must have the lengths of their shape");
    assert!(start + out.len() <= view.rows * view.cols, "the range is outside the matrix");
    // Whole sixteens lie in one block and start on a byte.
    let head = (start.next_multiple_of(LANES) - start).min(out.len());
    let (head, rest) = out.split_at_mut(head);
    let body = rest.len() / LANES * LANES;
    let (body, tail) = rest.split_at_mut(body);
    let mut at = start;
    for out in head {
        *out = view.get(at);
        at += 1;
    }
    let length = body.len();
    dequantize_sixteens(Backend::current(), view, at, body);
    at += length;
    for out in tail {
        *out = view.get(at);
        at += 1;
    }
}

kernel! {
    fn dequantize_sixteens(simd, view: &Nf4View<'_>, start: usize, out: &mut [f32]) {
        let mut scale = 0.0;
        let mut last = usize::MAX;
        for (index, out) in out.chunks_exact_mut(LANES).enumerate() {
            let at = start + index * LANES;
            if at / BLOCK != last {
                last = at / BLOCK;
                scale = view.absmax.get(last);
            }
            let mut codes = [0; 8];
            codes.copy_from_slice(&view.packed[at / 2..at / 2 + 8]);
            simd.put(out, 0, simd.load_nf4(codes, scale));
        }
    }
}
