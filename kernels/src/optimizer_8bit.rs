//! AdamW with both moments in 8 bits, in blocks of 256 with a scale each (Dettmers et al., "8-bit optimizers via
//! block-wise quantization", 2022), as bitsandbytes' own PyTorch implementation does it: the moments are restored,
//! updated and applied in `f32`, and only then rounded to the nearest value of the dynamic maps.

use rayon::prelude::*;

use crate::nf4::{dynamic_map, unsigned_dynamic_map};
use crate::optimizer::Factors;

/// Elements that share one scale.
pub const STATE_BLOCK: usize = 256;

/// One moment of a tensor: a code for each element, a scale for each block of [`STATE_BLOCK`]. Zeros stand for zeros.
pub struct Moment8<'a> {
    pub codes: &'a mut [u8],
    pub scales: &'a mut [f32],
}

/// Updates one tensor and both of its moments in place; the first moment is signed, the second is not.
///
/// # Panics
/// If the lengths do not fit.
pub fn adamw_8bit(params: &mut [f32], grads: &[f32], first: Moment8<'_>, second: Moment8<'_>, factors: &Factors) {
    let (count, blocks) = (params.len(), params.len().div_ceil(STATE_BLOCK));
    assert_eq!(grads.len(), count, "grads must have the length of params");
    for moment in [&first, &second] {
        assert_eq!(moment.codes.len(), count, "a code for each parameter");
        assert_eq!(moment.scales.len(), blocks, "a scale for each block");
    }
    params
        .par_chunks_mut(STATE_BLOCK)
        .zip(grads.par_chunks(STATE_BLOCK))
        .zip(first.codes.par_chunks_mut(STATE_BLOCK).zip(first.scales))
        .zip(second.codes.par_chunks_mut(STATE_BLOCK).zip(second.scales))
        .with_min_len(16)
        .for_each(|(((params, grads), first), second)| block(params, grads, first, second, factors));
}

fn block(
    params: &mut [f32],
    grads: &[f32],
    (codes1, scale1): (&mut [u8], &mut f32),
    (codes2, scale2): (&mut [u8], &mut f32),
    factors: &Factors,
) {
    let (signed, unsigned) = (dynamic_map(), unsigned_dynamic_map());
    let (mut first, mut second) = ([0f32; STATE_BLOCK], [0f32; STATE_BLOCK]);
    for (index, (param, gradient)) in params.iter_mut().zip(grads).enumerate() {
        let m = signed[codes1[index] as usize] * *scale1 * factors.beta1 + factors.rest1 * gradient;
        let v = unsigned[codes2[index] as usize] * *scale2 * factors.beta2 + factors.rest2 * gradient * gradient;
        (first[index], second[index]) = (m, v);
        *param = *param * factors.decay - factors.step_size * (m / (v.sqrt() / factors.root + factors.eps));
    }
    *scale1 = encode(signed, &first[..params.len()], codes1);
    *scale2 = encode(unsigned, &second[..params.len()], codes2);
}

/// Rounds a block to the nearest codes of `map`, the lower of two equally near; returns the block's scale.
fn encode(map: &[f32; 256], values: &[f32], codes: &mut [u8]) -> f32 {
    let top = values.iter().fold(0.0f32, |top, value| top.max(value.abs()));
    let scale = if top == 0.0 { 1.0 } else { top };
    for (code, value) in codes.iter_mut().zip(values) {
        let scaled = value / scale;
        let above = map.partition_point(|entry| *entry < scaled).clamp(1, 255);
        let upper = (map[above] - scaled).abs() < (scaled - map[above - 1]).abs();
        *code = (above - usize::from(!upper)) as u8;
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{AdamW, adamw};
    use crate::random::Stream;

    #[test]
    fn codes_are_the_nearest_of_both_maps() {
        for map in [dynamic_map(), unsigned_dynamic_map()] {
            let mut values: Vec<f32> = (0..255).map(|step| map[0] + step as f32 / 255.0 * (1.0 - map[0])).collect();
            values.push(1.0);
            let mut codes = vec![0; 256];
            assert_eq!(encode(map, &values, &mut codes), 1.0);
            for (value, code) in values.iter().zip(codes) {
                let distance = (value - map[code as usize]).abs();
                assert!(map.iter().all(|entry| (value - entry).abs() >= distance), "{value}");
            }
        }
        let mut codes = [9; 3];
        assert_eq!(encode(dynamic_map(), &[0.0; 3], &mut codes), 1.0);
        assert_eq!(codes, [127; 3]);
    }

    #[test]
    fn first_step_equals_the_exact_one_and_later_ones_stay_near() {
        let count = 1000;
        let stream = Stream::new(5, "adamw");
        let mut params = vec![0f32; count];
        stream.fill_normal(0, 0.0, 1.0, &mut params);
        let mut exact = params.clone();
        let (mut m, mut v) = (vec![0f32; count], vec![0f32; count]);
        let (mut codes, mut scales) = ([vec![0u8; count], vec![0u8; count]], [vec![0f32; 4], vec![0f32; 4]]);
        for step in 1..=20 {
            let mut grads = vec![0f32; count];
            stream.fill_normal(1000 * step, 0.1, 1.0, &mut grads);
            let config = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step }.factors();
            adamw(&mut exact, &grads, &mut m, &mut v, &config);
            let ([c1, c2], [s1, s2]) = (&mut codes, &mut scales);
            let first = Moment8 { codes: c1, scales: s1 };
            adamw_8bit(&mut params, &grads, first, Moment8 { codes: c2, scales: s2 }, &config);
            // The first step's moments are exact before they are rounded; rounding errs by up to 2 % of a moment later.
            let bound = if step == 1 { 1e-6 } else { 1e-3 * step as f32 };
            assert!(params.iter().zip(&exact).all(|(a, b)| (a - b).abs() < bound), "step {step}");
        }
    }
}
