//! Values to codes. Clean-room from the format's constants and the rounding order that stored files show.

use rayon::prelude::*;

use super::{BLOCK, NESTED_BLOCK, Nf4Scales, Nf4Tensor, dynamic_map};

/// Blocks of one task.
const BLOCKS_EACH: usize = 256;

/// The value of each code.
pub const CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A normalised value gets the code that counts the thresholds strictly below it. These are the literals of the GPU
/// code; some differ in the last bit from the midpoints of [`CODE`], which the CPU code uses.
const THRESHOLDS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_43,
    -0.234_607_41,
    -0.137_911_73,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_77,
    0.389_312_54,
    0.501_663_4,
    0.642_786_9,
    0.861_478_4,
];

/// bitsandbytes (0.50.2) rounds a few corner cases differently on its two kinds of device. Files dequantise alike. On the
/// projections of SmolLM2-135M all 106,168,320 codes are the same and 3,694 of the 1,658,880 codes of scales are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flavour {
    /// Multiplies by the reciprocal of the block maximum everywhere. A block of zeros gives `0 · ∞ = NaN`, which is
    /// above no threshold: code 0.
    #[default]
    Cuda,
    /// Compares with the midpoints of [`CODE`], clamps the maximum to 1e-38 (a block of zeros gets code 7), divides in
    /// a last incomplete block, and rounds second-level codes through a table of 65536 bins.
    Cpu,
}

impl Flavour {
    fn thresholds(self) -> [f32; 15] {
        match self {
            Self::Cuda => THRESHOLDS,
            Self::Cpu => std::array::from_fn(|i| (CODE[i] + CODE[i + 1]) / 2.0),
        }
    }
}

fn code_of(x: f32, thresholds: &[f32; 15]) -> u8 {
    thresholds.iter().map(|threshold| u8::from(x > *threshold)).sum()
}

fn absmax_of(block: &[f32]) -> f32 {
    block.iter().fold(0.0f32, |top, x| if x.abs() > top { x.abs() } else { top })
}

/// Quantises `w[rows, cols]` with the rounding of `flavour`.
///
/// # Panics
/// If `w` has another length.
#[must_use]
pub fn quantize_flavour(w: &[f32], rows: usize, cols: usize, double: bool, flavour: Flavour) -> Nf4Tensor {
    assert_eq!(w.len(), rows * cols, "w must be [{rows}, {cols}]");
    let thresholds = flavour.thresholds();
    let mut packed = vec![0u8; w.len().div_ceil(2)];
    let mut absmax = vec![0.0; w.len().div_ceil(BLOCK)];
    w.par_chunks(BLOCKS_EACH * BLOCK)
        .zip(packed.par_chunks_mut(BLOCKS_EACH * BLOCK / 2))
        .zip(absmax.par_chunks_mut(BLOCKS_EACH))
        .for_each(|((w, packed), absmax)| {
            for ((block, packed), top) in w.chunks(BLOCK).zip(packed.chunks_mut(BLOCK / 2)).zip(absmax) {
                *top = quantize_block(block, packed, &thresholds, flavour);
            }
        });
    let absmax = if double { nest(&absmax, flavour) } else { Nf4Scales::Plain(absmax) };
    Nf4Tensor { packed, absmax, rows, cols }
}

/// Writes the codes of one block and returns its scale.
fn quantize_block(block: &[f32], packed: &mut [u8], thresholds: &[f32; 15], flavour: Flavour) -> f32 {
    let top = absmax_of(block);
    let partial = block.len() < BLOCK;
    let clamped = top.max(1e-38);
    let inverse = 1.0 / if flavour == Flavour::Cpu { clamped } else { top };
    let divides = flavour == Flavour::Cpu && partial;
    let code = |x: f32| code_of(if divides { x / clamped } else { x * inverse }, thresholds);
    for (pair, byte) in block.chunks(2).zip(packed) {
        // A missing last element is packed as a zero would be.
        *byte = code(pair[0]) << 4 | code(pair.get(1).copied().unwrap_or(0.0));
    }
    if divides { clamped } else { top }
}

/// Second-level quantisation of the block maxima, less their mean.
fn nest(absmax: &[f32], flavour: Flavour) -> Nf4Scales {
    let offset = mean(absmax);
    let (codes, scales) = quantize_absmax(absmax, offset, flavour);
    Nf4Scales::Nested { codes, scales, offset }
}

/// Quantises block maxima, less `offset`, in blocks of 256: a code for each, a scale for each block.
#[must_use]
pub fn quantize_absmax(absmax: &[f32], offset: f32, flavour: Flavour) -> (Vec<u8>, Vec<f32>) {
    let mut codes = Vec::with_capacity(absmax.len());
    let mut scales = Vec::with_capacity(absmax.len().div_ceil(NESTED_BLOCK));
    for block in absmax.chunks(NESTED_BLOCK) {
        let centred: Vec<f32> = block.iter().map(|x| x - offset).collect();
        let top = absmax_of(&centred);
        let inverse = 1.0 / top;
        codes.extend(centred.iter().map(|x| match flavour {
            _ if top == 0.0 => 0,
            Flavour::Cuda => nearest(x * inverse),
            Flavour::Cpu => nearest_binned(x * inverse),
        }));
        scales.push(top);
    }
    (codes, scales)
}

/// The mean, accumulated in `f64`. (torch's own depends on its thread count and vector width in the last bit.)
fn mean(values: &[f32]) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    (values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64) as f32
}

/// The dynamic code nearest to `x`; on a midpoint, the one on the side that the search came from last.
fn nearest(x: f32) -> u8 {
    let map = dynamic_map();
    let above = map.partition_point(|value| *value < x);
    if above == 0 {
        return 0;
    }
    if above == map.len() {
        return 255;
    }
    let midpoint = (map[above - 1] + map[above]) * 0.5;
    let upper = if search_ends_above(x, above) { x >= midpoint } else { x > midpoint };
    (if upper { above } else { above - 1 }) as u8
}

/// Whether a binary search with steps 64, 32, …, 1 from 127 ends on `above` rather than on the entry below it; it
/// decides ties only.
fn search_ends_above(x: f32, above: usize) -> bool {
    let map = dynamic_map();
    let mut pivot = 127usize;
    for step in [64, 32, 16, 8, 4, 2, 1] {
        pivot = if x > map[pivot] { pivot + step } else { pivot - step };
    }
    pivot == above
}

/// As [`nearest`], but of the centre of the bin of width `2 / 65535` that `x` falls in.
fn nearest_binned(x: f32) -> u8 {
    let map = dynamic_map();
    let bin = ((x.clamp(-1.0, 1.0) + 1.0) * 0.5 * 65535.0 + 0.5) as u16;
    let centre = -1.0 + (2.0 * f32::from(bin)) / 65535.0;
    map.windows(2).take_while(|pair| 0.5 * (pair[0] + pair[1]) < centre).count() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_follow_the_flavour() {
        let zeros = [0.0; 64];
        let cuda = quantize(&zeros, Flavour::Cuda);
        assert!(cuda.packed.iter().all(|byte| *byte == 0x00));
        let mut out = [1.0; 64];
        super::super::dequantize(&cuda.view(), 0..1, &mut out);
        assert!(out.iter().all(|x| *x == 0.0 && x.is_sign_negative()));
        assert!(quantize(&zeros, Flavour::Cpu).packed.iter().all(|byte| *byte == 0x77));
    }

    #[test]
    fn thresholds_are_strict() {
        for (index, threshold) in THRESHOLDS.iter().enumerate() {
            assert_eq!(code_of(*threshold, &THRESHOLDS) as usize, index);
            assert_eq!(code_of(threshold.next_up(), &THRESHOLDS) as usize, index + 1);
        }
    }

    #[test]
    fn every_code_survives_a_round_trip() {
        let tensor = quantize_flavour(&CODE, 1, 16, false, Flavour::Cuda);
        let mut out = [0.0; 16];
        super::super::dequantize(&tensor.view(), 0..1, &mut out);
        assert_eq!(out, CODE);
        assert_eq!(tensor.packed[0], 0x01);
    }

    #[test]
    fn dynamic_codes_are_nearest() {
        let map = dynamic_map();
        for step in 0..=4000 {
            let x = step as f32 / 2000.0 - 1.0;
            let code = nearest(x) as usize;
            let distance = (x - map[code]).abs();
            assert!(map.iter().all(|value| (x - value).abs() >= distance - 1e-7), "{x}");
        }
    }

    fn quantize(w: &[f32], flavour: Flavour) -> Nf4Tensor {
        quantize_flavour(w, 1, w.len(), true, flavour)
    }
}
