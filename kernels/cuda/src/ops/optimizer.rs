//! AdamW, norms, clipping and sums over flat buffers.

use luthier_kernels::device::{Factors, Moments8, Slice, SliceMut};
use luthier_kernels::optimizer_8bit::STATE_BLOCK;

use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;
/// Elements whose squares one block sums.
const NORM_PIECE: usize = 8192;

/// # Panics
/// If the lengths do not fit.
pub fn adamw(
    device: &CudaDevice,
    grads: Slice<'_, f32>,
    factors: Slice<'_, f32>,
    params: SliceMut<'_, f32>,
    m: SliceMut<'_, f32>,
    v: SliceMut<'_, f32>,
) {
    let len = params.len();
    assert_eq!([grads.len(), m.len(), v.len()], [len; 3], "grads, m and v must have the length of params");
    assert_eq!(factors.len(), Factors::COUNT, "the factors of a step");
    let mut arguments = Arguments::new();
    arguments.address(grads.address()).long(len).address(factors.address());
    arguments.address(params.address()).address(m.address()).address(v.address());
    device.launch("adamw", [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}

/// # Panics
/// If the lengths do not fit.
pub fn adamw_8bit(
    device: &CudaDevice,
    grads: Slice<'_, f32>,
    factors: Slice<'_, f32>,
    params: SliceMut<'_, f32>,
    moments: Moments8<'_>,
) {
    let len = params.len();
    let blocks = len.div_ceil(STATE_BLOCK);
    let ([codes1, codes2], [scales1, scales2]) = (moments.codes, moments.scales);
    assert_eq!([grads.len(), codes1.len(), codes2.len()], [len; 3], "grads and codes must have the length of params");
    assert_eq!([scales1.len(), scales2.len()], [blocks; 2], "a scale for each block");
    assert_eq!(factors.len(), Factors::COUNT, "the factors of a step");
    let mut arguments = Arguments::new();
    arguments.address(grads.address()).long(len).address(factors.address()).address(params.address());
    arguments.address(codes1.address()).address(codes2.address());
    arguments.address(scales1.address()).address(scales2.address());
    device.launch("adamw_8bit", [blocks, 1, 1], STATE_BLOCK, arguments);
}

/// `out[0] = √Σ x²` in `f64`.
///
/// # Panics
/// If `out` is empty.
pub fn norm(device: &CudaDevice, x: Slice<'_, f32>, out: SliceMut<'_, f64>) {
    assert!(!out.is_empty(), "a norm needs a place");
    let pieces = x.len().div_ceil(NORM_PIECE);
    let sums = if pieces > 0 { device.scratch(norm_bytes(x.len())) } else { 0 };
    let mut arguments = Arguments::new();
    arguments.address(x.address()).long(x.len()).address(sums);
    device.launch("norm_pieces", [pieces, 1, 1], THREADS, arguments);
    let mut arguments = Arguments::new();
    arguments.address(sums).int(pieces).address(out.address());
    device.launch("norm_join", [1, 1, 1], THREADS, arguments);
}

/// Scratch that [`norm`] borrows.
#[must_use]
pub fn norm_bytes(len: usize) -> usize {
    len.div_ceil(NORM_PIECE) * size_of::<f64>()
}

/// # Panics
/// If there is no norm.
pub fn clip(device: &CudaDevice, norm: Slice<'_, f64>, limit: f64, out: SliceMut<'_, f32>) {
    assert!(!norm.is_empty(), "clipping needs a norm");
    let len = out.len();
    let mut arguments = Arguments::new();
    arguments.address(norm.address()).double(limit).long(len).address(out.address());
    device.launch("clip", [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}

/// `out[0] = Σ x (+ out[0])` in `f64`.
///
/// # Panics
/// If `out` is empty.
pub fn sum(device: &CudaDevice, x: Slice<'_, f32>, accumulate: bool, out: SliceMut<'_, f64>) {
    assert!(!out.is_empty(), "a sum needs a place");
    let mut arguments = Arguments::new();
    arguments.address(x.address()).long(x.len()).flag(accumulate).address(out.address());
    device.launch("sum", [1, 1, 1], THREADS, arguments);
}
