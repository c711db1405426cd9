//! Decoding of blocks. Source: the block layouts of ggml (`ggml-common.h`) as the GGUF format documents them.
//!
//! Callers have checked that `bytes` and `out` hold the same whole number of blocks.

use half::{bf16, f16};

use super::TensorType;

/// The 16 levels of the non-linear 4-bit types.
pub(super) const IQ4_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

pub(super) fn decode(kind: TensorType, bytes: &[u8], out: &mut [f32]) {
    match kind {
        TensorType::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
            }
        }
        TensorType::F16 => {
            for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = f16::from_le_bytes([raw[0], raw[1]]).to_f32();
            }
        }
        TensorType::BF16 => {
            for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = bf16::from_le_bytes([raw[0], raw[1]]).to_f32();
            }
        }
        TensorType::Q4_0 => blocks(kind, bytes, out, q4_0),
        TensorType::Q4_1 => blocks(kind, bytes, out, q4_1),
        TensorType::Q5_0 => blocks(kind, bytes, out, q5_0),
        TensorType::Q5_1 => blocks(kind, bytes, out, q5_1),
        TensorType::Q8_0 => blocks(kind, bytes, out, q8_0),
        TensorType::Q2_K => blocks(kind, bytes, out, q2_k),
        TensorType::Q3_K => blocks(kind, bytes, out, q3_k),
        TensorType::Q4_K => blocks(kind, bytes, out, q4_k),
        TensorType::Q5_K => blocks(kind, bytes, out, q5_k),
        TensorType::Q6_K => blocks(kind, bytes, out, q6_k),
        TensorType::IQ4_NL => blocks(kind, bytes, out, iq4_nl),
        TensorType::IQ4_XS => blocks(kind, bytes, out, iq4_xs),
        // Refused by the caller.
        _ => {}
    }
}

fn blocks(kind: TensorType, bytes: &[u8], out: &mut [f32], one: fn(&[u8], &mut [f32])) {
    for (block, out) in bytes.chunks_exact(kind.block_bytes()).zip(out.chunks_exact_mut(kind.block_len())) {
        one(block, out);
    }
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..18]) {
        *low = f32::from((byte & 15) as i8 - 8) * scale;
        *high = f32::from((byte >> 4) as i8 - 8) * scale;
    }
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[4..20]) {
        *low = f32::from(byte & 15) * scale + least;
        *high = f32::from(byte >> 4) * scale + least;
    }
}

/// The 5-bit values of a block: `bits` holds the fifth bit of element `i` at position `i`.
fn five_bits(bits: &[u8], nibbles: &[u8]) -> [u8; 32] {
    let bits = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
    let mut values = [0; 32];
    for (index, byte) in nibbles.iter().enumerate().take(16) {
        values[index] = (byte & 15) | ((((bits >> index) & 1) as u8) << 4);
        values[index + 16] = (byte >> 4) | ((((bits >> (index + 16)) & 1) as u8) << 4);
    }
    values
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (out, value) in out.iter_mut().zip(five_bits(&block[2..6], &block[6..22])) {
        *out = f32::from(value as i8 - 16) * scale;
    }
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    for (out, value) in out.iter_mut().zip(five_bits(&block[4..8], &block[8..24])) {
        *out = f32::from(value) * scale + least;
    }
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (out, byte) in out.iter_mut().zip(&block[2..34]) {
        *out = f32::from(*byte as i8) * scale;
    }
}

fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, quants) = (&block[0..16], &block[16..80]);
    let (super_scale, super_least) = (half_at(block, 80), half_at(block, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        // 128 elements share 32 bytes; within them, 32 elements share a pair of bits.
        let (half, pair, side) = (group / 8, group % 8 / 2, group % 2);
        let scale = super_scale * f32::from(scales[group] & 15);
        let least = super_least * f32::from(scales[group] >> 4);
        let bytes = &quants[half * 32 + side * 16..][..16];
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = scale * f32::from((byte >> (2 * pair)) & 3) - least;
        }
    }
}

/// The sixteen 6-bit scales of a Q3_K block: four low bits in the first 8 bytes, two high bits in the last 4.
fn q3_k_scales(packed: &[u8]) -> [i8; 16] {
    let mut scales = [0; 16];
    for (index, scale) in scales.iter_mut().enumerate() {
        let low = if index < 8 { packed[index] & 15 } else { packed[index - 8] >> 4 };
        let high = (packed[8 + index % 4] >> (2 * (index / 4))) & 3;
        *scale = (low | (high << 4)) as i8 - 32;
    }
    scales
}

fn q3_k(block: &[u8], out: &mut [f32]) {
    let (mask, quants) = (&block[0..32], &block[32..96]);
    let scales = q3_k_scales(&block[96..108]);
    let super_scale = half_at(block, 108);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (half, pair, side) = (group / 8, group % 8 / 2, group % 2);
        let scale = super_scale * f32::from(scales[group]);
        let bit = half * 4 + pair;
        let bytes = &quants[half * 32 + side * 16..][..16];
        for ((out, byte), mask) in out.iter_mut().zip(bytes).zip(&mask[side * 16..][..16]) {
            let value = ((byte >> (2 * pair)) & 3) as i8 - if (mask >> bit) & 1 == 1 { 0 } else { 4 };
            *out = scale * f32::from(value);
        }
    }
}

/// Scale and minimum of group `index` of a Q4_K or Q5_K block: eight of each, 6 bits wide, in 12 bytes.
pub(super) fn six_bit_pair(packed: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        (
            (packed[index + 4] & 15) | ((packed[index - 4] >> 6) << 4),
            (packed[index + 4] >> 4) | ((packed[index] >> 6) << 4),
        )
    }
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    let (super_scale, super_least) = (half_at(block, 0), half_at(block, 2));
    let (packed, quants) = (&block[4..16], &block[16..144]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = six_bit_pair(packed, group);
        let (scale, least) = (super_scale * f32::from(scale), super_least * f32::from(least));
        let shift = 4 * (group % 2);
        for (out, byte) in out.iter_mut().zip(&quants[group / 2 * 32..][..32]) {
            *out = scale * f32::from((byte >> shift) & 15) - least;
        }
    }
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    let (super_scale, super_least) = (half_at(block, 0), half_at(block, 2));
    let (packed, fifth, quants) = (&block[4..16], &block[16..48], &block[48..176]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = six_bit_pair(packed, group);
        let (scale, least) = (super_scale * f32::from(scale), super_least * f32::from(least));
        let shift = 4 * (group % 2);
        for ((out, byte), fifth) in out.iter_mut().zip(&quants[group / 2 * 32..][..32]).zip(fifth) {
            let value = ((byte >> shift) & 15) | (((fifth >> group) & 1) << 4);
            *out = scale * f32::from(value) - least;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[0..128], &block[128..192], &block[192..208]);
    let super_scale = half_at(block, 208);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        // 128 elements share 64 low bytes and 32 high bytes.
        let (half, quarter) = (group / 4, group % 4);
        let low = &low[half * 64 + (quarter % 2) * 32..][..32];
        let high = &high[half * 32..][..32];
        for (index, out) in out.iter_mut().enumerate() {
            let nibble = (low[index] >> (4 * (quarter / 2))) & 15;
            let value = (nibble | (((high[index] >> (2 * quarter)) & 3) << 4)) as i8 - 32;
            let scale = scales[group * 2 + index / 16] as i8;
            *out = super_scale * f32::from(scale) * f32::from(value);
        }
    }
}

fn iq4_nl(block: &[u8], out: &mut [f32]) {
    iq4(half_at(block, 0), &block[2..18], out);
}

fn iq4(scale: f32, nibbles: &[u8], out: &mut [f32]) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(nibbles) {
        *low = scale * f32::from(IQ4_LEVELS[usize::from(byte & 15)]);
        *high = scale * f32::from(IQ4_LEVELS[usize::from(byte >> 4)]);
    }
}

fn iq4_xs(block: &[u8], out: &mut [f32]) {
    let super_scale = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let low = &block[4..8];
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let low = (low[group / 2] >> (4 * (group % 2))) & 15;
        let scale = (low | ((((high >> (2 * group)) & 3) as u8) << 4)) as i8 - 32;
        iq4(super_scale * f32::from(scale), &block[8 + group * 16..][..16], out);
    }
}
