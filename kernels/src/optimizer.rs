//! AdamW and gradient norms over flat buffers.

use rayon::prelude::*;

use crate::Backend;
use crate::parallel::PIECE;
use crate::simd::{LANES, kernel};

/// Added to the norm that clipping divides by.
const CLIP_GUARD: f64 = 1e-6;

/// Parameters of one AdamW step (Loshchilov and Hutter, 2019; as torch.optim.AdamW).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// 1 at the first step.
    pub step: u64,
}

impl AdamW {
    /// # Panics
    /// If `step` is 0.
    #[must_use]
    pub fn factors(&self) -> Factors {
        assert!(self.step > 0, "the first step is 1");
        let correction = |beta: f32| 1.0 - power(f64::from(beta), self.step);
        let root = correction(self.beta2).sqrt() as f32;
        Factors {
            decay: (1.0 - f64::from(self.lr) * f64::from(self.weight_decay)) as f32,
            beta1: self.beta1,
            rest1: 1.0 - self.beta1,
            beta2: self.beta2,
            rest2: 1.0 - self.beta2,
            root,
            inverse_root: 1.0 / root,
            eps: self.eps,
            step_size: (f64::from(self.lr) / correction(self.beta1)) as f32,
        }
    }
}

/// Updates `params` and both moments in place.
///
/// # Panics
/// If the lengths differ.
pub fn adamw(params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32], factors: &Factors) {
    assert_eq!(params.len(), grads.len(), "grads must have the length of params");
    assert_eq!(params.len(), m.len(), "m must have the length of params");
    assert_eq!(params.len(), v.len(), "v must have the length of params");
    let backend = Backend::current();
    params
        .par_chunks_mut(PIECE)
        .zip(grads.par_chunks(PIECE))
        .zip(m.par_chunks_mut(PIECE))
        .zip(v.par_chunks_mut(PIECE))
        .for_each(|(((p, g), m), v)| adamw_piece(backend, p, g, m, v, factors));
}

/// What a step multiplies by, worked out once in `f64`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factors {
    pub decay: f32,
    pub beta1: f32,
    pub rest1: f32,
    pub beta2: f32,
    pub rest2: f32,
    /// √(1 - beta2^step), and its inverse.
    pub root: f32,
    pub inverse_root: f32,
    pub eps: f32,
    pub step_size: f32,
}

impl Factors {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// In the order of the fields, as devices take them.
    #[must_use]
    pub fn to_array(&self) -> [f32; Self::COUNT] {
        let Self { decay, beta1, rest1, beta2, rest2, root, inverse_root, eps, step_size } = *self;
        [decay, beta1, rest1, beta2, rest2, root, inverse_root, eps, step_size]
    }

    /// From [`Factors::to_array`].
    #[must_use]
    pub fn from_array(values: [f32; Self::COUNT]) -> Self {
        let [decay, beta1, rest1, beta2, rest2, root, inverse_root, eps, step_size] = values;
        Self { decay, beta1, rest1, beta2, rest2, root, inverse_root, eps, step_size }
    }
}

kernel! {
    fn adamw_piece(simd, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], factors: &Factors) {
        let c = |value: f32| simd.splat(value);
        for at in (0..p.len()).step_by(LANES) {
            let gradient = simd.get(g, at);
            let first = simd.fma(c(factors.beta1), simd.get(m, at), simd.mul(c(factors.rest1), gradient));
            let square = simd.mul(gradient, gradient);
            let second = simd.fma(c(factors.beta2), simd.get(v, at), simd.mul(c(factors.rest2), square));
            simd.put(m, at, first);
            simd.put(v, at, second);
            let below = simd.fma(simd.sqrt(second), c(factors.inverse_root), c(factors.eps));
            let update = simd.div(first, below);
            let decayed = simd.mul(simd.get(p, at), c(factors.decay));
            simd.put(p, at, simd.fma(c(-factors.step_size), update, decayed));
        }
    }
}

/// `base^exponent` by squaring, in a fixed order.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

/// Euclidean norm: `f64` sums of fixed pieces, added in their order.
#[must_use]
pub fn global_norm(grads: &[f32]) -> f64 {
    let pieces: Vec<f64> = grads.par_chunks(PIECE).map(squares).collect();
    pieces.iter().sum::<f64>().sqrt()
}

/// Eight lanes and one tree. The square of an `f32` is exact in `f64`.
fn squares(piece: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let chunks = piece.chunks_exact(8);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*x) * f64::from(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane += f64::from(*x) * f64::from(*x);
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Brings `x`, whose norm is `norm`, down to a norm of about `limit` if it is above, as torch's `clip_grad_norm_` does.
pub fn clip(x: &mut [f32], norm: f64, limit: f64) {
    if norm > limit {
        scale(x, (limit / (norm + CLIP_GUARD)) as f32);
    }
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    x.par_chunks_mut(PIECE).for_each(|piece| {
        for x in piece {
            *x *= factor;
        }
    });
}
