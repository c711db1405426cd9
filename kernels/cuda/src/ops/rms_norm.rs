//! Root-mean-square normalisation.

use luthier_kernels::device::{Slice, SliceMut, Values, ValuesMut};

use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// `out = x / rms(x) · weight` per row; `inverse` keeps `1 / rms(x)`.
///
/// # Panics
/// If a view does not have the length that its shape says.
pub fn forward(
    device: &CudaDevice,
    x: Values<'_>,
    weight: Slice<'_, f32>,
    eps: f32,
    out: ValuesMut<'_>,
    inverse: SliceMut<'_, f32>,
) {
    let (rows, d) = shape(x, weight, inverse.len());
    assert_eq!(out.len(), x.len(), "out must have the shape of x");
    let quads = d.is_multiple_of(4) && [x, weight.into(), out.freeze()].into_iter().all(has_quads);
    let single = if quads { "" } else { "_single" };
    let name = format!("rms_norm{single}_{}_{}", x.kind().name(), out.kind().name());
    let mut arguments = Arguments::new();
    arguments.address(x.address()).address(weight.address()).float(eps).int(d);
    arguments.address(out.address()).address(inverse.address());
    device.launch(&name, [rows, 1, 1], THREADS, arguments);
}

/// The gradient of `x`, added to `dx` if `accumulate`.
///
/// # Panics
/// If a view does not have the length that its shape says.
pub fn backward(
    device: &CudaDevice,
    x: Values<'_>,
    weight: Slice<'_, f32>,
    inverse: Slice<'_, f32>,
    dy: Values<'_>,
    accumulate: bool,
    dx: ValuesMut<'_>,
) {
    let (rows, d) = shape(x, weight, inverse.len());
    assert_eq!(dy.len(), x.len(), "dy must have the shape of x");
    assert_eq!(dx.len(), x.len(), "dx must have the shape of x");
    assert_eq!([dy.kind(), dx.kind()], [x.kind(); 2], "dy and dx must have the type of x");
    let quads = d.is_multiple_of(4) && [x, weight.into(), dy, dx.freeze()].into_iter().all(has_quads);
    let name = format!("rms_norm_backward{}_{}", if quads { "" } else { "_single" }, x.kind().name());
    let mut arguments = Arguments::new();
    arguments.address(x.address()).address(weight.address()).address(inverse.address()).address(dy.address());
    arguments.flag(accumulate).int(d).address(dx.address());
    device.launch(&name, [rows, 1, 1], THREADS, arguments);
}

fn shape(x: Values<'_>, weight: Slice<'_, f32>, rows: usize) -> (usize, usize) {
    assert!(!weight.is_empty(), "rows must not be empty");
    assert_eq!(x.len(), rows * weight.len(), "x must be [{rows}, {}]", weight.len());
    (rows, weight.len())
}

/// Whether four elements can be loaded at once.
pub(super) fn has_quads(view: Values<'_>) -> bool {
    view.address().as_ptr().addr().is_multiple_of(4 * view.kind().bytes())
}
