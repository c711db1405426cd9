//! What gated activations, `out = activation(gate) · up`, share: their buffers, in pieces.

use crate::parallel;
use crate::scratch::Shared;
use crate::simd::LANES;

/// Calls `piece(gate, up, out)` for corresponding pieces.
///
/// # Panics
/// If the lengths differ.
pub fn forward(gate: &[f32], up: &[f32], out: &mut [f32], piece: impl Fn(&[f32], &[f32], &mut [f32]) + Sync) {
    assert_eq!(gate.len(), up.len(), "gate and up must have one length");
    assert_eq!(gate.len(), out.len(), "out must have gate's length");
    parallel::pieces(out, [gate, up], |out, [gate, up]| piece(gate, up, out));
}

/// Calls `piece(gate, up, dout, dgate, dup)` for corresponding pieces.
///
/// # Panics
/// If the lengths differ.
pub fn backward(
    [gate, up, dout]: [&[f32]; 3],
    [dgate, dup]: [&mut [f32]; 2],
    piece: impl Fn(&[f32], &[f32], &[f32], &mut [f32], &mut [f32]) + Sync,
) {
    let length = gate.len();
    assert_eq!(length, up.len(), "gate and up must have one length");
    assert_eq!(length, dout.len(), "dout must have gate's length");
    assert_eq!(length, dgate.len(), "dgate must have gate's length");
    assert_eq!(length, dup.len(), "dup must have gate's length");
    let (dgate, dup) = (Shared::new(dgate), Shared::new(dup));
    parallel::rows(length.div_ceil(LANES), LANES, |rows| {
        let range = rows.start * LANES..length.min(rows.end * LANES);
        // SAFETY: both buffers have `length` elements, and no other task has this range.
        let (dgate, dup) = unsafe {
            (
                std::slice::from_raw_parts_mut(dgate.get().add(range.start), range.len()),
                std::slice::from_raw_parts_mut(dup.get().add(range.start), range.len()),
            )
        };
        piece(&gate[range.clone()], &up[range.clone()], &dout[range], dgate, dup);
    });
}

/// Calls `piece(gate, up, dout)` for corresponding pieces, whose `gate` and `dout` it may overwrite.
///
/// # Panics
/// If the lengths differ.
pub fn backward_in_place(
    [gate, dout]: [&mut [f32]; 2],
    up: &[f32],
    piece: impl Fn(&mut [f32], &[f32], &mut [f32]) + Sync,
) {
    let length = up.len();
    assert_eq!(length, gate.len(), "gate and up must have one length");
    assert_eq!(length, dout.len(), "dout must have up's length");
    let (gate, dout) = (Shared::new(gate), Shared::new(dout));
    parallel::rows(length.div_ceil(LANES), LANES, |rows| {
        let range = rows.start * LANES..length.min(rows.end * LANES);
        // SAFETY: both buffers have `length` elements, and no other task has this range.
        let (gate, dout) = unsafe {
            (
                std::slice::from_raw_parts_mut(gate.get().add(range.start), range.len()),
                std::slice::from_raw_parts_mut(dout.get().add(range.start), range.len()),
            )
        };
        piece(gate, &up[range], dout);
    });
}
