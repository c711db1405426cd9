//! The gated activation of Llama's feed-forward block: `out = silu(gate) · up`.

use crate::Backend;
use crate::parallel;
use crate::scratch::Shared;
use crate::simd::{LANES, kernel, math};

/// `out = silu(gate) · up`.
///
/// # Panics
/// If the lengths differ.
pub fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up must have one length");
    assert_eq!(gate.len(), out.len(), "out must have gate's length");
    let backend = Backend::current();
    parallel::pieces(out, [gate, up], |out, [gate, up]| forward_piece(backend, gate, up, out));
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

/// `dup = dout · silu(gate)`, `dgate = dout · up · σ(gate) · (1 + gate · (1 - σ(gate)))`.
///
/// # Panics
/// If the lengths differ.
pub fn backward(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up must have one length");
    assert_eq!(gate.len(), dout.len(), "dout must have gate's length");
    assert_eq!(gate.len(), dgate.len(), "dgate must have gate's length");
    assert_eq!(gate.len(), dup.len(), "dup must have gate's length");
    let backend = Backend::current();
    let dup = Shared::new(dup);
    let length = gate.len();
    let dgate = Shared::new(dgate);
    parallel::rows(length.div_ceil(LANES), LANES, |rows| {
        let range = rows.start * LANES..length.min(rows.end * LANES);
        // SAFETY: both buffers have `length` elements, and no other task has this range.
        let (dgate, dup) = unsafe {
            (
                std::slice::from_raw_parts_mut(dgate.get().add(range.start), range.len()),
                std::slice::from_raw_parts_mut(dup.get().add(range.start), range.len()),
            )
        };
        backward_piece(backend, &gate[range.clone()], &up[range.clone()], &dout[range], dgate, dup);
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
