//! The soft cap of scores.

use crate::simd::math::tanh;
use crate::simd::{LANES, kernel};

kernel! {
    /// Each score becomes `cap · tanh(score / cap)`.
    pub fn bend(simd, scores: &mut [f32], cap: f32) {
        let inverse = simd.splat(1.0 / cap);
        let cap = simd.splat(cap);
        for at in (0..scores.len()).step_by(LANES) {
            let bent = tanh(simd, simd.mul(simd.get(scores, at), inverse));
            simd.put(scores, at, simd.mul(cap, bent));
        }
    }
}

kernel! {
    /// [`bend`], and its derivative at each score.
    pub fn bend_with_slopes(simd, scores: &mut [f32], cap: f32, slopes: &mut [f32]) {
        let inverse = simd.splat(1.0 / cap);
        let cap = simd.splat(cap);
        let one = simd.splat(1.0);
        let minus = simd.splat(-1.0);
        for at in (0..scores.len()).step_by(LANES) {
            let bent = tanh(simd, simd.mul(simd.get(scores, at), inverse));
            simd.put(scores, at, simd.mul(cap, bent));
            simd.put(slopes, at, simd.fma(simd.mul(bent, minus), bent, one));
        }
    }
}

kernel! {
    /// `values *= factors`.
    pub fn multiply(simd, values: &mut [f32], factors: &[f32]) {
        for at in (0..values.len()).step_by(LANES) {
            let product = simd.mul(simd.get(values, at), simd.get(factors, at));
            simd.put(values, at, product);
        }
    }
}
