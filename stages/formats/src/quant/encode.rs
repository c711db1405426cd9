//! Encoding of the plain types and of the types with blocks of 32.
//!
//! Without importance weights the block types are encoded as the format's reference does it, in one step: the value of
//! largest magnitude (or the range) sets the scale. With weights, a search finds the scale.

use half::{bf16, f16};

use super::TensorType;
use super::decode::IQ4_LEVELS;
use super::fit;

/// Stretches tried by the affine search.
const STRETCH: [f32; 13] = [-1.0, -0.8, -0.6, -0.4, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8];

pub(super) fn put_half(block: &mut [u8], at: usize, value: f32) -> f32 {
    let value = f16::from_f32(value);
    block[at..at + 2].copy_from_slice(&value.to_le_bytes());
    value.to_f32()
}

/// Encodes one block. `weights` is empty or as long as `x`. The caller has checked lengths and finiteness.
pub(super) fn encode(kind: TensorType, x: &[f32], weights: &[f32], block: &mut [u8]) {
    match kind {
        TensorType::F32 => block.copy_from_slice(&x[0].to_le_bytes()),
        TensorType::F16 => block.copy_from_slice(&f16::from_f32(x[0]).to_le_bytes()),
        TensorType::BF16 => block.copy_from_slice(&bf16::from_f32(x[0]).to_le_bytes()),
        TensorType::Q4_0 => q4_0(x, weights, block),
        TensorType::Q4_1 => q4_1(x, weights, block),
        TensorType::Q5_0 => q5_0(x, weights, block),
        TensorType::Q5_1 => q5_1(x, weights, block),
        TensorType::Q8_0 => q8_0(x, block),
        TensorType::IQ4_NL => iq4_nl(x, weights, block),
        _ => super::encode_k::encode(kind, x, weights, block),
    }
}

/// The value of largest magnitude, with its sign; the first of several.
fn peak(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |peak, value| if value.abs() > peak.abs() { *value } else { peak })
}

fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
}

/// Unsigned levels of a symmetric block, `levels` standing for zero.
fn symmetric_levels(x: &[f32], weights: &[f32], levels: f32) -> (f32, [u8; 32]) {
    let scale = match weights {
        [] => peak(x) / -levels,
        weights => fit::symmetric(x, weights, levels),
    };
    let inverse = fit::invert(scale);
    let mut quants = [0; 32];
    for (quant, x) in quants.iter_mut().zip(x) {
        // Truncation after adding a half: the reference's rounding.
        *quant = ((x * inverse + levels + 0.5) as u8).min((2.0 * levels) as u8 - 1);
    }
    (scale, quants)
}

fn affine_levels(x: &[f32], weights: &[f32], levels: f32) -> (f32, f32, [u8; 32]) {
    let (low, high) = range(x);
    let (mut scale, mut least) = ((high - low) / levels, low);
    if !weights.is_empty() {
        // The search assumes an offset of the other sign; shifting by the minimum keeps a positive one possible.
        let shifted: Vec<f32> = x.iter().map(|x| x - low).collect();
        let found = fit::affine(&shifted, weights, levels, &STRETCH);
        (scale, least) = (found.scale, low - found.least);
    }
    let inverse = fit::invert(scale);
    let mut quants = [0; 32];
    for (quant, x) in quants.iter_mut().zip(x) {
        *quant = (((x - least) * inverse + 0.5) as u8).min(levels as u8);
    }
    (scale, least, quants)
}

fn put_nibbles(quants: &[u8; 32], out: &mut [u8]) {
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = (quants[index] & 15) | ((quants[index + 16] & 15) << 4);
    }
}

fn put_fifth_bits(quants: &[u8; 32], out: &mut [u8]) {
    let bits = quants.iter().enumerate().fold(0u32, |bits, (index, quant)| bits | (u32::from(quant >> 4) << index));
    out.copy_from_slice(&bits.to_le_bytes());
}

fn q4_0(x: &[f32], weights: &[f32], block: &mut [u8]) {
    let (scale, quants) = symmetric_levels(x, weights, 8.0);
    put_half(block, 0, scale);
    put_nibbles(&quants, &mut block[2..18]);
}

fn q4_1(x: &[f32], weights: &[f32], block: &mut [u8]) {
    let (scale, least, quants) = affine_levels(x, weights, 15.0);
    put_half(block, 0, scale);
    put_half(block, 2, least);
    put_nibbles(&quants, &mut block[4..20]);
}

fn q5_0(x: &[f32], weights: &[f32], block: &mut [u8]) {
    let (scale, quants) = symmetric_levels(x, weights, 16.0);
    put_half(block, 0, scale);
    put_fifth_bits(&quants, &mut block[2..6]);
    put_nibbles(&quants, &mut block[6..22]);
}

fn q5_1(x: &[f32], weights: &[f32], block: &mut [u8]) {
    let (scale, least, quants) = affine_levels(x, weights, 31.0);
    put_half(block, 0, scale);
    put_half(block, 2, least);
    put_fifth_bits(&quants, &mut block[4..8]);
    put_nibbles(&quants, &mut block[8..24]);
}

fn q8_0(x: &[f32], block: &mut [u8]) {
    let scale = peak(x).abs() / 127.0;
    let inverse = fit::invert(scale);
    put_half(block, 0, scale);
    for (byte, x) in block[2..34].iter_mut().zip(x) {
        *byte = (x * inverse).round() as i8 as u8;
    }
}

/// The index of the codebook level nearest to `value`.
pub(super) fn iq4_level(value: f32) -> u8 {
    let above = IQ4_LEVELS.partition_point(|level| f32::from(*level) < value);
    match above {
        0 => 0,
        16 => 15,
        above => {
            let (low, high) = (f32::from(IQ4_LEVELS[above - 1]), f32::from(IQ4_LEVELS[above]));
            (if value - low < high - value { above - 1 } else { above }) as u8
        }
    }
}

/// Fits `x ≈ scale * codebook[q]`.
pub(super) fn iq4_scale(x: &[f32], weights: &[f32]) -> f32 {
    let peak = peak(x);
    if peak.abs() < 1e-12 {
        return 0.0;
    }
    let (mut best_scale, mut best_gain) = (0.0f32, 0.0f32);
    // Both ends of the codebook may meet the peak: it reaches further down than up.
    for end in [-127.0f32, 113.0] {
        for step in -7i8..=7 {
            let inverse = (end + 1.5 * f32::from(step)) / peak;
            let (mut wqx, mut wqq) = (0.0f32, 0.0f32);
            for (x, weight) in x.iter().zip(weights) {
                let q = f32::from(IQ4_LEVELS[usize::from(iq4_level(x * inverse))]);
                wqx += weight * q * x;
                wqq += weight * q * q;
            }
            if wqq > 0.0 && wqx * wqx > best_gain * wqq {
                best_scale = wqx / wqq;
                best_gain = best_scale * wqx;
            }
        }
    }
    best_scale
}

fn iq4_nl(x: &[f32], weights: &[f32], block: &mut [u8]) {
    let squares: Vec<f32>;
    let weights = match weights {
        [] => {
            squares = x.iter().map(|x| x * x).collect();
            &squares
        }
        weights => weights,
    };
    let scale = put_half(block, 0, iq4_scale(x, weights));
    let inverse = fit::invert(scale);
    let mut quants = [0; 32];
    for (quant, x) in quants.iter_mut().zip(x) {
        *quant = iq4_level(x * inverse);
    }
    put_nibbles(&quants, &mut block[2..18]);
}
