//! Searches for the scale (and offset) of a group of values that minimise the weighted squared error.
//!
//! Both searches try a fixed list of slightly stretched scales, round, and solve the remaining least-squares problem for
//! the rounded integers exactly; the best of the list wins, the earliest on a tie. All arithmetic is plain `f32` in a
//! fixed order, so the result is the same on every machine.

/// Below this, every scale of every format is zero in half precision.
const VANISHING: f32 = 1e-12;

/// `x ≈ scale * q - least` with `q` in `0..=levels`, `scale >= 0` and `least >= 0`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Affine {
    pub scale: f32,
    pub least: f32,
}

/// Rounds to the nearest integer, ties to even; for `|value| < 2^22`. Adding 1.5 · 2^23 leaves the integer in the low
/// bits of the mantissa, which the baseline instruction set can vectorise, unlike `f32::round`.
pub(super) fn nearest(value: f32) -> i32 {
    (value + 12_582_912.0).to_bits() as i32 - 0x4B40_0000
}

fn level(value: f32, low: f32, high: f32) -> f32 {
    nearest(value.max(low).min(high)) as f32
}

/// Fits scale and offset. `stretch` is the list of numbers added to `levels` when the first scale is guessed.
pub(super) fn affine(x: &[f32], weights: &[f32], levels: f32, stretch: &[f32]) -> Affine {
    let low = x.iter().fold(0.0f32, |low, value| low.min(*value));
    let high = x.iter().fold(low, |high, value| high.max(*value));
    let range = high - low;
    if range < VANISHING {
        return Affine { scale: 0.0, least: -low };
    }
    let mut best = Affine { scale: range / levels, least: -low };
    let mut best_error = affine_error(x, weights, levels, best);
    for extra in stretch {
        let inverse = (levels + extra) / range;
        let (mut w, mut wq, mut wqq, mut wx, mut wqx) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
        for (x, weight) in x.iter().zip(weights) {
            let q = level((x - low) * inverse, 0.0, levels);
            w += weight;
            wq += weight * q;
            wqq += weight * q * q;
            wx += weight * x;
            wqx += weight * q * x;
        }
        let determinant = w * wqq - wq * wq;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (w * wqx - wx * wq) / determinant;
        let mut offset = (wqq * wx - wq * wqx) / determinant;
        if offset > 0.0 {
            offset = 0.0;
            scale = wqx / wqq;
        }
        let candidate = Affine { scale, least: -offset };
        let valid = scale.is_finite() && scale > 0.0;
        let error = if valid { affine_error(x, weights, levels, candidate) } else { f32::INFINITY };
        if error < best_error {
            (best, best_error) = (candidate, error);
        }
    }
    best
}

/// The weighted squared error of a fit, each value rounded to its best level.
pub(super) fn affine_error(x: &[f32], weights: &[f32], levels: f32, fit: Affine) -> f32 {
    let inverse = if fit.scale > 0.0 { 1.0 / fit.scale } else { 0.0 };
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let mut error = 0.0;
    for (x, weight) in x.iter().zip(weights) {
        let q = level((x + fit.least) * inverse, 0.0, levels);
        let difference = fit.scale * q - fit.least - x;
        error += weight * difference * difference;
    }
    error
}

/// The level of one value under a fit.
pub(super) fn affine_level(x: f32, levels: f32, fit: Affine) -> u8 {
    let inverse = if fit.scale > 0.0 { 1.0 / fit.scale } else { 0.0 };
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    level((x + fit.least) * inverse, 0.0, levels) as u8
}

/// `x ≈ scale * q` with `q` in `-levels..levels`; the scale takes the sign that gives the largest value the level
/// `-levels`, the one end that has no counterpart.
pub(super) fn symmetric(x: &[f32], weights: &[f32], levels: f32) -> f32 {
    let peak = x.iter().fold(0.0f32, |peak, value| if value.abs() > peak.abs() { *value } else { peak });
    if peak.abs() < VANISHING {
        return 0.0;
    }
    let (mut best_scale, mut best_gain) = (0.0f32, 0.0f32);
    for step in [0i8, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let inverse = -(levels + 0.1 * f32::from(step)) / peak;
        let (mut wqx, mut wqq) = (0.0f32, 0.0f32);
        for (x, weight) in x.iter().zip(weights) {
            let q = level(x * inverse, -levels, levels - 1.0);
            wqx += weight * q * x;
            wqq += weight * q * q;
        }
        // The error is the sum of `w x²` less this gain.
        if wqq > 0.0 && wqx * wqx > best_gain * wqq {
            best_scale = wqx / wqq;
            best_gain = best_scale * wqx;
        }
    }
    best_scale
}

/// The level of one value, in `-levels..levels`, given the inverse of the scale.
pub(super) fn symmetric_level(x: f32, levels: f32, inverse: f32) -> f32 {
    level(x * inverse, -levels, levels - 1.0)
}

/// `1 / scale`, or 0 where that is not finite.
pub(super) fn invert(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rounds_ties_to_even() {
        for (value, expected) in [(0.5, 0), (1.5, 2), (-0.5, 0), (-1.5, -2), (2.4999, 2), (-7.51, -8), (127.0, 127)] {
            assert_eq!(nearest(value), expected, "{value}");
        }
    }

    #[test]
    fn exact_data_is_fitted_exactly() {
        let x: Vec<f32> = (0..32).map(|i| (i % 16) as f32 * 0.25 - 1.0).collect();
        let fit = affine(&x, &[1.0; 32], 15.0, &[-0.5, 0.0, 0.5]);
        assert_eq!(fit, Affine { scale: 0.25, least: 1.0 });
        assert_eq!(affine_error(&x, &[1.0; 32], 15.0, fit), 0.0);
        let x: Vec<f32> = (-8..8).map(|i| i as f32 * 0.5).collect();
        assert_eq!(symmetric(&x, &[1.0; 16], 8.0), 0.5);
        assert!(x.iter().all(|x| symmetric_level(*x, 8.0, invert(0.5)) * 0.5 == *x));
    }

    #[test]
    fn zeros_and_vanishing_values_give_no_scale() {
        assert_eq!(affine(&[0.0; 32], &[1.0; 32], 15.0, &[0.0]), Affine::default());
        assert_eq!(symmetric(&[1e-40; 16], &[1.0; 16], 8.0), 0.0);
        assert_eq!(symmetric_level(1.0, 8.0, invert(0.0)), 0.0);
    }
}
