//! Encoding of the types with super-blocks of 256.
//!
//! Three steps: fit every group on its own; round the groups' scales to integers under one half-precision super-scale,
//! trying the neighbours of each integer; round the values to the levels that the rounded scales leave.

use super::TensorType;
use super::decode::IQ4_LEVELS;
use super::encode::{iq4_level, iq4_scale, put_half};
use super::fit::{self, Affine};

const BLOCK: usize = 256;

pub(super) fn encode(kind: TensorType, x: &[f32], weights: &[f32], block: &mut [u8]) {
    block.fill(0);
    let weights = effective_weights(x, weights);
    match kind {
        TensorType::Q2_K => q2_k(x, &weights, block),
        TensorType::Q3_K => q3_k(x, &weights, block),
        TensorType::Q4_K => q4_k(x, &weights, block),
        TensorType::Q5_K => q5_k(x, &weights, block),
        TensorType::Q6_K => q6_k(x, &weights, block),
        TensorType::IQ4_XS => iq4_xs(x, &weights, block),
        // Refused by the caller.
        _ => {}
    }
}

/// What an error in each value costs. Large weights matter more than small ones, but none is free: without importance
/// the cost is `rms + |x|`; with it, importance times `sqrt(rms² + x²)`.
fn effective_weights(x: &[f32], importance: &[f32]) -> [f32; BLOCK] {
    let square = x.iter().fold(0.0f32, |sum, x| sum + x * x) / BLOCK as f32;
    let rms = square.sqrt();
    let mut weights = [0.0; BLOCK];
    for (index, (weight, x)) in weights.iter_mut().zip(x).enumerate() {
        *weight = match importance.get(index) {
            Some(importance) => importance * (square + x * x).sqrt(),
            None => rms + x.abs(),
        };
    }
    weights
}

/// Scales and offsets of all groups as integers of `limit` at most, under two super-scales.
struct AffinePlan {
    codes: Vec<(u8, u8)>,
    fits: Vec<Affine>,
    super_scale: f32,
    super_least: f32,
}

fn plan_affine(x: &[f32], weights: &[f32], group: usize, levels: f32, limit: f32, stretch: &[f32]) -> AffinePlan {
    let fits: Vec<Affine> = x
        .chunks_exact(group)
        .zip(weights.chunks_exact(group))
        .map(|(x, weights)| fit::affine(x, weights, levels, stretch))
        .collect();
    let largest = fits.iter().fold(Affine::default(), |most, fit| Affine {
        scale: most.scale.max(fit.scale),
        least: most.least.max(fit.least),
    });
    let super_scale = half::f16::from_f32(largest.scale / limit).to_f32();
    let super_least = half::f16::from_f32(largest.least / limit).to_f32();
    let (scale_inverse, least_inverse) = (fit::invert(super_scale), fit::invert(super_least));
    let mut plan = AffinePlan { codes: Vec::new(), fits: Vec::new(), super_scale, super_least };
    for ((x, weights), found) in x.chunks_exact(group).zip(weights.chunks_exact(group)).zip(&fits) {
        let first_scale = fit::nearest((found.scale * scale_inverse).min(limit));
        let first_least = fit::nearest((found.least * least_inverse).min(limit));
        let mut best = (f32::INFINITY, (0u8, 0u8), Affine::default());
        for scale_step in [0, 1, -1] {
            for least_step in [0, 1, -1] {
                let code = (first_scale + scale_step, first_least + least_step);
                if code.0 < 0 || code.1 < 0 || code.0 as f32 > limit || code.1 as f32 > limit {
                    continue;
                }
                let candidate = Affine { scale: super_scale * code.0 as f32, least: super_least * code.1 as f32 };
                let error = fit::affine_error(x, weights, levels, candidate);
                if error < best.0 {
                    best = (error, (code.0 as u8, code.1 as u8), candidate);
                }
            }
        }
        plan.codes.push(best.1);
        plan.fits.push(best.2);
    }
    let refined = plan.refined(x, weights, group, levels);
    if refined.error(x, weights, group, levels) < plan.error(x, weights, group, levels) { refined } else { plan }
}

impl AffinePlan {
    fn error(&self, x: &[f32], weights: &[f32], group: usize, levels: f32) -> f32 {
        let groups = x.chunks_exact(group).zip(weights.chunks_exact(group)).zip(&self.fits);
        groups.fold(0.0, |sum, ((x, weights), fit)| sum + fit::affine_error(x, weights, levels, *fit))
    }

    /// The same codes under the super-scales of least squares for the levels that the codes led to.
    fn refined(&self, x: &[f32], weights: &[f32], group: usize, levels: f32) -> Self {
        let (mut uu, mut uv, mut vv, mut ux, mut vx) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
        for (index, (x, weight)) in x.iter().zip(weights).enumerate() {
            let (scale, least) = self.codes[index / group];
            let u = f32::from(scale) * f32::from(fit::affine_level(*x, levels, self.fits[index / group]));
            let v = f32::from(least);
            uu += weight * u * u;
            uv += weight * u * v;
            vv += weight * v * v;
            ux += weight * u * x;
            vx += weight * v * x;
        }
        // Minimises the sum of w (scale u - least v - x)².
        let determinant = uu * vv - uv * uv;
        let (scale, least) = if determinant > 0.0 {
            ((ux * vv - uv * vx) / determinant, (uv * ux - uu * vx) / determinant)
        } else if uu > 0.0 {
            (ux / uu, self.super_least)
        } else {
            (self.super_scale, self.super_least)
        };
        let half = |value: f32, otherwise: f32| {
            let value = half::f16::from_f32(value).to_f32();
            if value.is_finite() && value >= 0.0 { value } else { otherwise }
        };
        let (super_scale, super_least) = (half(scale, self.super_scale), half(least, self.super_least));
        let fits = self.codes.iter().map(|(scale, least)| Affine {
            scale: super_scale * f32::from(*scale),
            least: super_least * f32::from(*least),
        });
        Self { codes: self.codes.clone(), fits: fits.collect(), super_scale, super_least }
    }

    /// The level of every value.
    fn levels(&self, x: &[f32], group: usize, levels: f32) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        for (index, (out, x)) in out.iter_mut().zip(x).enumerate() {
            *out = fit::affine_level(*x, levels, self.fits[index / group]);
        }
        out
    }
}

fn q2_k(x: &[f32], weights: &[f32], block: &mut [u8]) {
    const STRETCH: [f32; 16] = [-0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
    let plan = plan_affine(x, weights, 16, 3.0, 15.0, &STRETCH);
    let levels = plan.levels(x, 16, 3.0);
    for (byte, (scale, least)) in block[..16].iter_mut().zip(&plan.codes) {
        *byte = scale | (least << 4);
    }
    put_pairs(&levels, &mut block[16..80]);
    put_half(block, 80, plan.super_scale);
    put_half(block, 82, plan.super_least);
}

/// Two bits of each value: 128 values share 32 bytes, a quarter of them each pair of bits.
fn put_pairs(levels: &[u8; BLOCK], out: &mut [u8]) {
    for (index, level) in levels.iter().enumerate() {
        let (half, pair, within) = (index / 128, index % 128 / 32, index % 32);
        out[half * 32 + within] |= (level & 3) << (2 * pair);
    }
}

/// Scales of all groups as signed integers in `-limit..limit`, under one super-scale.
struct SymmetricPlan {
    codes: Vec<i32>,
    scales: Vec<f32>,
    super_scale: f32,
}

/// How a group of values becomes `scale * level`.
struct Levels<F, L> {
    /// The best scale of a group, given its weights.
    fit: F,
    /// The level nearest to a value under a scale.
    level: L,
}

impl<F: Fn(&[f32], &[f32]) -> f32, L: Fn(f32, f32) -> f32> Levels<F, L> {
    fn error(&self, x: &[f32], weights: &[f32], scale: f32) -> f32 {
        x.iter().zip(weights).fold(0.0, |error, (x, weight)| {
            let difference = scale * (self.level)(*x, fit::invert(scale)) - x;
            error + weight * difference * difference
        })
    }

    fn plan(&self, x: &[f32], weights: &[f32], group: usize, limit: f32) -> SymmetricPlan {
        let fits: Vec<f32> =
            x.chunks_exact(group).zip(weights.chunks_exact(group)).map(|(x, weights)| (self.fit)(x, weights)).collect();
        let peak = fits.iter().fold(0.0f32, |peak, scale| if scale.abs() > peak.abs() { *scale } else { peak });
        let super_scale = half::f16::from_f32(-peak / limit).to_f32();
        let plan = self.choose_codes(x, weights, group, limit, &fits, super_scale);
        // The super-scale of least squares for the levels just chosen, and the codes once more under it.
        let (mut uu, mut ux) = (0.0f32, 0.0f32);
        for (index, (x, weight)) in x.iter().zip(weights).enumerate() {
            let scale = plan.scales[index / group];
            let u = plan.codes[index / group] as f32 * (self.level)(*x, fit::invert(scale));
            uu += weight * u * u;
            ux += weight * u * x;
        }
        let refined = half::f16::from_f32(if uu > 0.0 { ux / uu } else { super_scale }).to_f32();
        if !refined.is_finite() || refined == super_scale {
            return plan;
        }
        let other = self.choose_codes(x, weights, group, limit, &fits, refined);
        if self.total(x, weights, group, &other) < self.total(x, weights, group, &plan) { other } else { plan }
    }

    fn total(&self, x: &[f32], weights: &[f32], group: usize, plan: &SymmetricPlan) -> f32 {
        let groups = x.chunks_exact(group).zip(weights.chunks_exact(group)).zip(&plan.scales);
        groups.fold(0.0, |sum, ((x, weights), scale)| sum + self.error(x, weights, *scale))
    }

    fn choose_codes(
        &self,
        x: &[f32],
        weights: &[f32],
        group: usize,
        limit: f32,
        fits: &[f32],
        super_scale: f32,
    ) -> SymmetricPlan {
        let inverse = fit::invert(super_scale);
        let mut plan = SymmetricPlan { codes: Vec::new(), scales: Vec::new(), super_scale };
        for ((x, weights), found) in x.chunks_exact(group).zip(weights.chunks_exact(group)).zip(fits) {
            let first = fit::nearest((found * inverse).clamp(-limit, limit - 1.0));
            let mut best = (f32::INFINITY, 0, 0.0);
            for step in [0, 1, -1] {
                let code = first + step;
                if (code as f32) < -limit || code as f32 > limit - 1.0 {
                    continue;
                }
                let scale = super_scale * code as f32;
                let error = self.error(x, weights, scale);
                if error < best.0 {
                    best = (error, code, scale);
                }
            }
            plan.codes.push(best.1);
            plan.scales.push(best.2);
        }
        plan
    }
}

fn q3_k(x: &[f32], weights: &[f32], block: &mut [u8]) {
    let levels = Levels {
        fit: |x: &[f32], weights: &[f32]| fit::symmetric(x, weights, 4.0),
        level: |x, inverse| fit::symmetric_level(x, 4.0, inverse),
    };
    let plan = levels.plan(x, weights, 16, 32.0);
    let mut levels = [0u8; BLOCK];
    for (index, x) in x.iter().enumerate() {
        levels[index] = (fit::symmetric_level(*x, 4.0, fit::invert(plan.scales[index / 16])) + 4.0) as u8;
        // The third bit goes into the mask: bit `index / 32` of byte `index % 32`.
        block[index % 32] |= (levels[index] >> 2) << (index / 32);
    }
    put_pairs(&levels, &mut block[32..96]);
    for (index, code) in plan.codes.iter().enumerate() {
        let code = (code + 32) as u8;
        block[96 + index % 8] |= (code & 15) << (4 * (index / 8));
        block[104 + index % 4] |= (code >> 4) << (2 * (index / 4));
    }
    put_half(block, 108, plan.super_scale);
}

/// Eight 6-bit scales and eight 6-bit offsets in 12 bytes; see `decode::six_bit_pair`.
fn put_six_bit_pairs(codes: &[(u8, u8)], out: &mut [u8]) {
    for (index, (scale, least)) in codes.iter().enumerate() {
        if index < 4 {
            out[index] |= scale;
            out[index + 4] |= least;
        } else {
            out[index + 4] |= (scale & 15) | ((least & 15) << 4);
            out[index - 4] |= (scale >> 4) << 6;
            out[index] |= (least >> 4) << 6;
        }
    }
}

/// Four bits of each value: 64 values share 32 bytes, the first half of them the low nibble.
fn put_group_nibbles(levels: &[u8; BLOCK], out: &mut [u8]) {
    for (index, level) in levels.iter().enumerate() {
        out[index / 64 * 32 + index % 32] |= (level & 15) << (4 * (index / 32 % 2));
    }
}

fn q4_k(x: &[f32], weights: &[f32], block: &mut [u8]) {
    const STRETCH: [f32; 21] = [
        -1.0, -0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9,
        1.0,
    ];
    let plan = plan_affine(x, weights, 32, 15.0, 63.0, &STRETCH);
    put_half(block, 0, plan.super_scale);
    put_half(block, 2, plan.super_least);
    put_six_bit_pairs(&plan.codes, &mut block[4..16]);
    put_group_nibbles(&plan.levels(x, 32, 15.0), &mut block[16..144]);
}

fn q5_k(x: &[f32], weights: &[f32], block: &mut [u8]) {
    const STRETCH: [f32; 16] = [-0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
    let plan = plan_affine(x, weights, 32, 31.0, 63.0, &STRETCH);
    let levels = plan.levels(x, 32, 31.0);
    put_half(block, 0, plan.super_scale);
    put_half(block, 2, plan.super_least);
    put_six_bit_pairs(&plan.codes, &mut block[4..16]);
    for (index, level) in levels.iter().enumerate() {
        block[16 + index % 32] |= (level >> 4) << (index / 32);
    }
    put_group_nibbles(&levels, &mut block[48..176]);
}

fn q6_k(x: &[f32], weights: &[f32], block: &mut [u8]) {
    let levels = Levels {
        fit: |x: &[f32], weights: &[f32]| fit::symmetric(x, weights, 32.0),
        level: |x, inverse| fit::symmetric_level(x, 32.0, inverse),
    };
    let plan = levels.plan(x, weights, 16, 128.0);
    for (index, x) in x.iter().enumerate() {
        let level = (fit::symmetric_level(*x, 32.0, fit::invert(plan.scales[index / 16])) + 32.0) as u8;
        let (half, quarter, within) = (index / 128, index % 128 / 32, index % 32);
        block[half * 64 + (quarter % 2) * 32 + within] |= (level & 15) << (4 * (quarter / 2));
        block[128 + half * 32 + within] |= (level >> 4) << (2 * quarter);
    }
    for (byte, code) in block[192..208].iter_mut().zip(&plan.codes) {
        *byte = *code as i8 as u8;
    }
    put_half(block, 208, plan.super_scale);
}

fn iq4_xs(x: &[f32], weights: &[f32], block: &mut [u8]) {
    let levels =
        Levels { fit: iq4_scale, level: |x: f32, inverse| f32::from(IQ4_LEVELS[usize::from(iq4_level(x * inverse))]) };
    let plan = levels.plan(x, weights, 32, 32.0);
    put_half(block, 0, plan.super_scale);
    let mut high = 0u16;
    for (group, code) in plan.codes.iter().enumerate() {
        let code = (code + 32) as u8;
        block[4 + group / 2] |= (code & 15) << (4 * (group % 2));
        high |= u16::from(code >> 4) << (2 * group);
    }
    block[2..4].copy_from_slice(&high.to_le_bytes());
    for (index, x) in x.iter().enumerate() {
        let (group, within) = (index / 32, index % 32);
        let level = iq4_level(x * fit::invert(plan.scales[group]));
        block[8 + group * 16 + within % 16] |= level << (4 * (within / 16));
    }
}
