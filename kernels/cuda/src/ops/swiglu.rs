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

/// `dout` becomes `dout · silu(gate)`, the gradient of `up`, and `gate` becomes `dout · up · silu'(gate)`.
///
/// # Panics
/// If the lengths differ.
pub fn backward(device: &CudaDevice, gate: SliceMut<'_, f32>, up: Slice<'_, f32>, dout: SliceMut<'_, f32>) {
    let len = up.len();
    assert_eq!([gate.len(), dout.len()], [len; 2], "gate and dout must have up's length");
    if len == 0 {
        return;
    }
    let mut arguments = Arguments::new();
    arguments.address(gate.address()).address(up.address()).address(dout.address()).long(len);
    arguments.address(gate.address()).address(dout.address());
    device.launch("swiglu_backward", [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}
