//! Gated activations.

use luthier_kernels::device::{Values, ValuesMut};

use super::rms_norm::has_quads;
use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// `out = silu(gate) · up`.
///
/// # Panics
/// If the lengths or types differ.
pub fn forward(device: &CudaDevice, gate: Values<'_>, up: Values<'_>, out: ValuesMut<'_>) {
    let len = gate.len();
    assert_eq!(up.len(), len, "gate and up must have one length");
    assert_eq!(out.len(), len, "out must have gate's length");
    assert_eq!([up.kind(), out.kind()], [gate.kind(); 2], "up and out must have gate's type");
    if len == 0 {
        return;
    }
    let quads = len.is_multiple_of(4) && [gate, up, out.freeze()].into_iter().all(has_quads);
    let mut arguments = Arguments::new();
    arguments.address(gate.address()).address(up.address()).long(len).flag(quads).address(out.address());
    let name = format!("swiglu_{}", gate.kind().name());
    device.launch(&name, [blocks(len, quads), 1, 1], THREADS, arguments);
}

/// `dout` becomes `dout · silu(gate)`, the gradient of `up`, and `gate` becomes `dout · up · silu'(gate)`.
///
/// # Panics
/// If the lengths or types differ.
pub fn backward(device: &CudaDevice, gate: ValuesMut<'_>, up: Values<'_>, dout: ValuesMut<'_>) {
    let len = up.len();
    assert_eq!([gate.len(), dout.len()], [len; 2], "gate and dout must have up's length");
    assert_eq!([gate.kind(), dout.kind()], [up.kind(); 2], "gate and dout must have up's type");
    if len == 0 {
        return;
    }
    let quads = len.is_multiple_of(4) && [gate.freeze(), up, dout.freeze()].into_iter().all(has_quads);
    let mut arguments = Arguments::new();
    arguments.address(gate.address()).address(up.address()).address(dout.address()).long(len).flag(quads);
    arguments.address(gate.address()).address(dout.address());
    let name = format!("swiglu_backward_{}", up.kind().name());
    device.launch(&name, [blocks(len, quads), 1, 1], THREADS, arguments);
}

fn blocks(len: usize, quads: bool) -> usize {
    len.div_ceil(if quads { 4 * THREADS } else { THREADS })
}
