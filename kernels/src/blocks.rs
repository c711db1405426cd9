//! Matrices in blocks of 32 with a scale, as GGUF files hold them: kept as they are stored and converted where they are
//! used. Source: the layouts of ggml (`ggml-common.h`). A value is its integer times the scale, rounded, plus the least
//! value, rounded; so a product has the bits of one with the matrix in `f32`.

use crate::Backend;
use crate::simd::{LANES, Simd, kernel};

/// Elements of a block.
pub const BLOCK_ELEMENTS: usize = 32;

/// How a block is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Scale, 16 bytes of nibbles: element `i` low, `i + 16` high, less 8.
    Q4_0,
    /// Scale, least value, nibbles.
    Q4_1,
    /// Scale, 32 signed bytes.
    Q8_0,
}

impl BlockKind {
    pub const ALL: [Self; 3] = [Self::Q4_0, Self::Q4_1, Self::Q8_0];

    /// Bytes of a block.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
        }
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q8_0 => "q8_0",
        }
    }
}

/// A matrix in blocks that somebody else owns; its rows are whole blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockView<'a> {
    pub kind: BlockKind,
    pub bytes: &'a [u8],
}

/// The value of a half-precision number that is finite.
#[inline(always)]
fn half(bytes: &[u8], at: usize) -> f32 {
    let bits = u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    // The exponents differ by 112; the product is exact, for subnormal numbers too.
    let size = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}

impl<'a> BlockView<'a> {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.bytes() * BLOCK_ELEMENTS
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every value is finite: scales and least values are.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        let finite = |bytes: &[u8], at: usize| bytes[at + 1] & 0x7c != 0x7c;
        let pairs = if self.kind == BlockKind::Q4_1 { 2 } else { 1 };
        self.bytes.chunks_exact(self.kind.bytes()).all(|block| (0..pairs).all(|pair| finite(block, 2 * pair)))
    }

    /// Sixteen values from `index` on, a multiple of 16.
    #[inline(always)]
    pub(crate) fn sixteen<S: Simd>(self, simd: S, index: usize) -> S::F {
        let (size, half_block) = (self.kind.bytes(), index / LANES % 2);
        let block = &self.bytes[index / BLOCK_ELEMENTS * size..][..size];
        let scale = simd.splat(half(block, 0));
        match self.kind {
            BlockKind::Q4_0 => {
                let values = simd.load_nibbles(sixteen_bytes(block, 2), half_block == 1);
                simd.mul(simd.sub(values, simd.splat(8.0)), scale)
            }
            BlockKind::Q4_1 => {
                let values = simd.load_nibbles(sixteen_bytes(block, 4), half_block == 1);
                simd.add(simd.mul(values, scale), simd.splat(half(block, 2)))
            }
            BlockKind::Q8_0 => simd.mul(simd.load_signed(sixteen_bytes(block, 2 + LANES * half_block)), scale),
        }
    }

    /// Writes elements `start..start + out.len()` to `out`.
    ///
    /// # Panics
    /// If they are outside the matrix.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        assert!(start + out.len() <= self.len(), "the range is outside the matrix");
        read(Backend::current(), *self, start, out);
    }
}

#[inline(always)]
fn sixteen_bytes(block: &[u8], at: usize) -> [u8; LANES] {
    let mut bytes = [0; LANES];
    bytes.copy_from_slice(&block[at..at + LANES]);
    bytes
}

kernel! {
    fn read(simd, view: BlockView<'_>, start: usize, out: &mut [f32]) {
        let mut at = 0;
        while at < out.len() {
            let first = (start + at) % LANES;
            let lanes = simd.to_array(view.sixteen(simd, start + at - first));
            let count = (LANES - first).min(out.len() - at);
            out[at..at + count].copy_from_slice(&lanes[first..first + count]);
            at += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use crate::{Weight, matmul};

    /// The definition, a byte at a time.
    fn decode(view: &BlockView<'_>) -> Vec<f32> {
        let half = |block: &[u8], at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let mut values = Vec::new();
        for block in view.bytes.chunks_exact(view.kind.bytes()) {
            let scale = half(block, 0);
            for index in 0..BLOCK_ELEMENTS {
                let nibble = |from: usize| {
                    let byte = block[from + index % 16];
                    f32::from(if index < 16 { byte & 15 } else { byte >> 4 })
                };
                values.push(match view.kind {
                    BlockKind::Q4_0 => (nibble(2) - 8.0) * scale,
                    BlockKind::Q4_1 => nibble(4) * scale + half(block, 2),
                    BlockKind::Q8_0 => f32::from(block[2 + index] as i8) * scale,
                });
            }
        }
        values
    }

    fn random(kind: BlockKind, blocks: usize) -> Vec<u8> {
        let stream = Stream::new(5, kind.name());
        let mut bytes: Vec<u8> = (0..(blocks * kind.bytes()) as u64).map(|at| stream.word(at) as u8).collect();
        for (index, block) in bytes.chunks_exact_mut(kind.bytes()).enumerate() {
            // Normal, subnormal and negative scales, all finite.
            for (pair, value) in [0.0123, -6e-8, 3e-6, 0.5].into_iter().enumerate().cycle().skip(index).take(2) {
                let at = 2 * (pair % 2);
                if at == 0 || kind == BlockKind::Q4_1 {
                    block[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
                }
            }
        }
        bytes
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn values_and_products_have_the_bits_of_the_decoded_matrix() {
        // 800 is walked in blocks of 267, which start inside sixteens.
        let (m, n, k) = (7, 37, 800);
        for backend in Backend::supported() {
            for kind in BlockKind::ALL {
                let bytes = random(kind, n * k / BLOCK_ELEMENTS);
                let view = BlockView { kind, bytes: &bytes };
                assert!(view.is_finite());
                let decoded = decode(&view);
                backend.with(|| {
                    for (start, count) in [(0, n * k), (5, 1), (17, 100), (31, 33)] {
                        let mut out = vec![0.0; count];
                        view.read_f32(start, &mut out);
                        assert_eq!(bits(&out), bits(&decoded[start..start + count]), "{backend} {kind:?} {start}");
                    }
                    let x: Vec<f32> = (0..m * k.max(n)).map(|index| (index % 13) as f32 * 0.25 - 1.5).collect();
                    let (mut found, mut expected) = (vec![0.0; m * n], vec![0.0; m * n]);
                    matmul::nt(&x[..m * k], m, k, &Weight::Blocks(view), n, &mut found, 1.0, false);
                    matmul::nt(&x[..m * k], m, k, &Weight::F32(&decoded), n, &mut expected, 1.0, false);
                    assert_eq!(bits(&found), bits(&expected), "{backend} {kind:?} nt");
                    let (mut found, mut expected) = (vec![0.0; m * k], vec![0.0; m * k]);
                    matmul::nn(&x[..m * n], m, n, &Weight::Blocks(view), k, &mut found, 1.0, false);
                    matmul::nn(&x[..m * n], m, n, &Weight::F32(&decoded), k, &mut expected, 1.0, false);
                    assert_eq!(bits(&found), bits(&expected), "{backend} {kind:?} nn");
                });
            }
        }
    }

    #[test]
    fn infinite_scales_are_found() {
        let mut bytes = random(BlockKind::Q4_1, 3);
        bytes[43] = 0x7c;
        assert!(!BlockView { kind: BlockKind::Q4_1, bytes: &bytes }.is_finite());
    }
}
