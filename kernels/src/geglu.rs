//! The gated activation of Gemma's feed-forward block: `out = gelu(gate) · up`, with the tanh form of GELU (Hendrycks
//! and Gimpel, 2016): `gelu(x) = x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.

use crate::Backend;
use crate::gated;
use crate::simd::math::tanh;
use crate::simd::{LANES, Simd, kernel};

/// √(2/π).
const INNER: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

/// `out = gelu(gate) · up`.
///
/// # Panics
/// If the lengths differ.
pub fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let backend = Backend::current();
    gated::forward(gate, up, out, |gate, up, out| forward_piece(backend, gate, up, out));
}

/// Half of `1 + tanh(..)`, and the tanh.
#[inline(always)]
fn bent<S: Simd>(simd: S, x: S::F) -> (S::F, S::F) {
    let square = simd.mul(x, x);
    let inner = simd.mul(simd.mul(x, simd.splat(INNER)), simd.fma(square, simd.splat(CUBE), simd.splat(1.0)));
    let bent = tanh(simd, inner);
    (simd.fma(bent, simd.splat(0.5), simd.splat(0.5)), bent)
}

kernel! {
    fn forward_piece(simd, gate: &[f32], up: &[f32], out: &mut [f32]) {
        for at in (0..gate.len()).step_by(LANES) {
            let gate = simd.get(gate, at);
            let (share, _) = bent(simd, gate);
            simd.put(out, at, simd.mul(simd.mul(gate, share), simd.get(up, at)));
        }
    }
}

/// `dup = dout · gelu(gate)`, `dgate = dout · up · gelu'(gate)`.
///
/// # Panics
/// If the lengths differ.
pub fn backward(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let backend = Backend::current();
    gated::backward([gate, up, dout], [dgate, dup], |gate, up, dout, dgate, dup| {
        backward_piece(backend, gate, up, dout, dgate, dup);
    });
}

kernel! {
    fn backward_piece(simd, gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let one = simd.splat(1.0);
        for at in (0..gate.len()).step_by(LANES) {
            let (gate, up, dout) = (simd.get(gate, at), simd.get(up, at), simd.get(dout, at));
            let (share, bent) = bent(simd, gate);
            simd.put(dup, at, simd.mul(dout, simd.mul(gate, share)));
            // The derivative of tanh, times that of its argument.
            let slope = simd.fma(simd.mul(bent, simd.splat(-1.0)), bent, one);
            let square = simd.mul(gate, gate);
            let inner = simd.mul(simd.fma(square, simd.splat(3.0 * CUBE), one), simd.splat(INNER));
            let half = simd.mul(simd.mul(gate, simd.splat(0.5)), simd.mul(slope, inner));
            simd.put(dgate, at, simd.mul(simd.mul(dout, up), simd.add(share, half)));
        }
    }
}
