//! The gated activation of Llama's feed-forward block: `out = silu(gate) · up`.

use crate::Backend;
use crate::gated;
use crate::simd::{LANES, kernel, math};

/// `out = silu(gate) · up`.
///
/// # Panics
/// If the lengths differ.
pub fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let backend = Backend::current();
    gated::forward(gate, up, out, |gate, up, out| forward_piece(backend, gate, up, out));
}

kernel! {
    fn forward_piece(simd, gate: &[f32], up: &[f32], out: &mut [f32]) {
        for at in (0..gate.len()).step_by(LANES) {
            let gate = simd.get(gate, at);
            let silu = simd.mul(gate, math::sigmoid(simd, gate));
            simd.put(out, at, simd.mul(silu, simd.get(up, at)));
        }
    }
}

/// [`backward`] with its outputs where two of its inputs were: `gate` becomes its gradient, and `dout` that of `up`.
///
/// # Panics
/// If the lengths differ.
pub fn backward_in_place(gate: &mut [f32], up: &[f32], dout: &mut [f32]) {
    let backend = Backend::current();
    gated::backward_in_place([gate, dout], up, |gate, up, dout| in_place_piece(backend, gate, up, dout));
}

kernel! {
    fn in_place_piece(simd, gate: &mut [f32], up: &[f32], dout: &mut [f32]) {
        let one = simd.splat(1.0);
        for at in (0..up.len()).step_by(LANES) {
            let (x, y, slope) = (simd.get(gate, at), simd.get(up, at), simd.get(dout, at));
            let sigmoid = math::sigmoid(simd, x);
            simd.put(dout, at, simd.mul(slope, simd.mul(x, sigmoid)));
            let bend = simd.mul(sigmoid, simd.fma(x, simd.sub(one, sigmoid), one));
            simd.put(gate, at, simd.mul(simd.mul(slope, y), bend));
        }
    }
}

/// `dup = dout · silu(gate)`, `dgate = dout · up · σ(gate) · (1 + gate · (1 - σ(gate)))`.
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
            let sigmoid = math::sigmoid(simd, gate);
            simd.put(dup, at, simd.mul(dout, simd.mul(gate, sigmoid)));
            let slope = simd.mul(sigmoid, simd.fma(gate, simd.sub(one, sigmoid), one));
            simd.put(dgate, at, simd.mul(simd.mul(dout, up), slope));
        }
    }
}
