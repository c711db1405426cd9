//! Root-mean-square normalisation.

use luthier_kernels::device::{Slice, SliceMut};

use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// `out = x / rms(x) · weight` per row; `inverse` keeps `1 / rms(x)`.
///
/// # Panics
/// If a view does not have the length that its shape says.
pub fn forward(
    device: &CudaDevice,
    x: Slice<'_, f32>,
    weight: Slice<'_, f32>,
    eps: f32,
    out: SliceMut<'_, f32>,
    inverse: SliceMut<'_, f32>,
) {
    let (rows, d) = shape(x, weight, inverse.len());
    assert_eq!(out.len(), x.len(), "out must have the shape of x");
    let quads = d.is_multiple_of(4) && [x, weight, out.freeze()].into_iter().all(is_aligned);
    let name = if quads { "rms_norm" } else { "rms_norm_single" };
    let mut arguments = Arguments::new();
    arguments.address(x.address()).address(weight.address()).float(eps).int(d);
    arguments.address(out.address()).address(inverse.address());
    device.launch(name, [rows, 1, 1], THREADS, arguments);
}

/// The gradient of `x`, added to `dx` if `accumulate`.
///
/// # Panics
/// If a view does not have the length that its shape says.
pub fn backward(
    device: &CudaDevice,
    x: Slice<'_, f32>,
    weight: Slice<'_, f32>,
    inverse: Slice<'_, f32>,
    dy: Slice<'_, f32>,
    accumulate: bool,
    dx: SliceMut<'_, f32>,
) {
    let (rows, d) = shape(x, weight, inverse.len());
    assert_eq!(dy.len(), x.len(), "dy must have the shape of x");
    assert_eq!(dx.len(), x.len(), "dx must have the shape of x");
    let quads = d.is_multiple_of(4) && [x, weight, dy, dx.freeze()].into_iter().all(is_aligned);
    let name = if quads { "rms_norm_backward" } else { "rms_norm_backward_single" };
    let mut arguments = Arguments::new();
    arguments.address(x.address()).address(weight.address()).address(inverse.address()).address(dy.address());
    arguments.flag(accumulate).int(d).address(dx.address());
    device.launch(name, [rows, 1, 1], THREADS, arguments);
}

fn shape(x: Slice<'_, f32>, weight: Slice<'_, f32>, rows: usize) -> (usize, usize) {
    assert!(!weight.is_empty(), "rows must not be empty");
    assert_eq!(x.len(), rows * weight.len(), "x must be [{rows}, {}]", weight.len());
    (rows, weight.len())
}

fn is_aligned(view: Slice<'_, f32>) -> bool {
    view.address().as_ptr().addr().is_multiple_of(16)
}
