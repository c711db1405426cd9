//! AdamW and norms over flat buffers.

use luthier_kernels::device::{AdamW, Moments8, Slice, SliceMut};
use luthier_kernels::optimizer_8bit::STATE_BLOCK;

use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;
/// Elements whose squares one block sums.
const NORM_PIECE: usize = 8192;

/// # Panics
/// If the lengths differ or the step is 0.
pub fn adamw(
    device: &CudaDevice,
    grads: Slice<'_, f32>,
    step: AdamW,
    params: SliceMut<'_, f32>,
    m: SliceMut<'_, f32>,
    v: SliceMut<'_, f32>,
) {
    let len = params.len();
    assert_eq!([grads.len(), m.len(), v.len()], [len; 3], "grads, m and v must have the length of params");
    let factors = step.factors();
    let mut arguments = Arguments::new();
    arguments.address(grads.address()).long(len).float(factors.decay);
    arguments.float(factors.beta1).float(factors.rest1).float(factors.beta2).float(factors.rest2);
    arguments.float(factors.inverse_root).float(factors.eps).float(factors.step_size);
    arguments.address(params.address()).address(m.address()).address(v.address());
    device.launch("adamw", [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}

/// # Panics
/// If the lengths do not fit or the step is 0.
pub fn adamw_8bit(
    device: &CudaDevice,
    grads: Slice<'_, f32>,
    step: AdamW,
    params: SliceMut<'_, f32>,
    moments: Moments8<'_>,
) {
    let len = params.len();
    let blocks = len.div_ceil(STATE_BLOCK);
    let ([codes1, codes2], [scales1, scales2]) = (moments.codes, moments.scales);
    assert_eq!([grads.len(), codes1.len(), codes2.len()], [len; 3], "grads and codes must have the length of params");
    assert_eq!([scales1.len(), scales2.len()], [blocks; 2], "a scale for each block");
    let factors = step.factors();
    let mut arguments = Arguments::new();
    arguments.address(grads.address()).long(len).float(factors.decay);
    arguments.float(factors.beta1).float(factors.rest1).float(factors.beta2).float(factors.rest2);
    arguments.float(factors.root).float(factors.eps).float(factors.step_size).address(params.address());
    arguments.address(codes1.address()).address(codes2.address());
    arguments.address(scales1.address()).address(scales2.address());
    device.launch("adamw_8bit", [blocks, 1, 1], STATE_BLOCK, arguments);
}

/// `√Σ x²` in `f64`; waits for it.
pub fn norm(device: &CudaDevice, x: Slice<'_, f32>) -> f64 {
    if x.is_empty() {
        return 0.0;
    }
    let pieces = x.len().div_ceil(NORM_PIECE);
    let sums = device.scratch(8 * (pieces + 1));
    let total = sums + 8 * pieces as u64;
    let mut arguments = Arguments::new();
    arguments.address(x.address()).long(x.len()).address(sums);
    device.launch("norm_pieces", [pieces, 1, 1], THREADS, arguments);
    let mut arguments = Arguments::new();
    arguments.address(sums).int(pieces).address(total);
    device.launch("norm_join", [1, 1, 1], THREADS, arguments);
    let mut bytes = [0; 8];
    device.read_address(total, &mut bytes);
    f64::from_le_bytes(bytes)
}
