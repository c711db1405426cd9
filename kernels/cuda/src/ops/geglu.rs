//! The gated activation with GELU, which no model of the engine has: candle's users do.

use luthier_kernels::device::{Slice, SliceMut};

use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// `out = gelu(gate) · up`.
///
/// # Panics
/// If the lengths differ.
pub fn forward(device: &CudaDevice, gate: Slice<'_, f32>, up: Slice<'_, f32>, out: SliceMut<'_, f32>) {
    let len = gate.len();
    assert_eq!([up.len(), out.len()], [len; 2], "up and out must have gate's length");
    let aligned = |view: Slice<'_, f32>| view.address().as_ptr().addr().is_multiple_of(16);
    let quads = len.is_multiple_of(4) && aligned(gate) && aligned(up) && aligned(out.freeze());
    let blocks = len.div_ceil(if quads { 4 * THREADS } else { THREADS });
    let mut arguments = Arguments::new();
    arguments.address(gate.address()).address(up.address()).long(len).flag(quads).address(out.address());
    device.launch("geglu_f32", [blocks, 1, 1], THREADS, arguments);
}

/// `dup = dout · gelu(gate)`, `dgate = dout · up · gelu'(gate)`.
///
/// # Panics
/// If the lengths differ.
pub fn backward(
    device: &CudaDevice,
    [gate, up, dout]: [Slice<'_, f32>; 3],
    dgate: SliceMut<'_, f32>,
    dup: SliceMut<'_, f32>,
) {
    let len = gate.len();
    assert_eq!([up.len(), dout.len(), dgate.len(), dup.len()], [len; 4], "all must have gate's length");
    let mut arguments = Arguments::new();
    arguments.address(gate.address()).address(up.address()).address(dout.address()).long(len).flag(false);
    arguments.address(dgate.address()).address(dup.address());
    device.launch("geglu_backward_f32", [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}
