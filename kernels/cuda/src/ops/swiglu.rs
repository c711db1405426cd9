//! Gated activations.

use luthier_kernels::device::{Slice, SliceMut};

use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// `out = silu(gate) · up`.
///
/// # Panics
/// If the lengths differ.
pub fn forward(device: &CudaDevice, gate: Slice<'_, f32>, up: Slice<'_, f32>, out: SliceMut<'_, f32>) {
    let len = gate.len();
    assert_eq!(up.len(), len, "gate and up must have one length");
    assert_eq!(out.len(), len, "out must have gate's length");
    if len == 0 {
        return;
    }
    let aligned = |view: Slice<'_, f32>| view.address().as_ptr().addr().is_multiple_of(16);
    let quads = len.is_multiple_of(4) && aligned(gate) && aligned(up) && aligned(out.freeze());
    let blocks = len.div_ceil(if quads { 4 * THREADS } else { THREADS });
    let mut arguments = Arguments::new();
    arguments.address(gate.address()).address(up.address()).long(len).flag(quads).address(out.address());
    device.launch("swiglu", [blocks, 1, 1], THREADS, arguments);
}

/// `dup = dout · silu(gate)`, `dgate = dout · up · silu'(gate)`.
///
/// # Panics
/// If the lengths differ.
pub fn backward(
    device: &CudaDevice,
    gate: Slice<'_, f32>,
    up: Slice<'_, f32>,
    dout: Slice<'_, f32>,
    dgate: SliceMut<'_, f32>,
    dup: SliceMut<'_, f32>,
) {
    let len = gate.len();
    let lengths = [up.len(), dout.len(), dgate.len(), dup.len()];
    assert_eq!(lengths, [len; 4], "up, dout, dgate and dup must have gate's length");
    if len == 0 {
        return;
    }
    let mut arguments = Arguments::new();
    arguments.address(gate.address()).address(up.address()).address(dout.address()).long(len);
    arguments.address(dgate.address()).address(dup.address());
    device.launch("swiglu_backward", [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}
