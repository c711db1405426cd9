//! Norms of changed rows and gradients of magnitudes.

use luthier_kernels::device::{DoraRows, Operand, Slice, SliceMut, Values};

use super::matrix::MatrixArguments;
use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// # Panics
/// If the lengths do not fit.
pub fn row_squares(device: &CudaDevice, w: Operand<'_>, [rows, cols]: [usize; 2], out: SliceMut<'_, f32>) {
    let matrix = MatrixArguments::of(w);
    assert_eq!(matrix.len, rows * cols, "w must be [{rows}, {cols}]");
    assert_eq!(out.len(), rows, "a value for each row");
    let mut arguments = Arguments::new();
    matrix.push(&mut arguments);
    arguments.int(cols).address(out.address());
    device.launch(&format!("row_squares_{}", matrix.kind), [rows, 1, 1], THREADS, arguments);
}

/// # Panics
/// If the lengths do not fit.
pub fn gains(
    device: &CudaDevice,
    changed: DoraRows<'_>,
    magnitude: Option<Slice<'_, f32>>,
    gains: SliceMut<'_, f32>,
    inverse: SliceMut<'_, f32>,
) {
    let rows = changed.squares.len();
    assert_eq!([gains.len(), inverse.len()], [rows; 2], "values for each row");
    let rank = changed.b.len() / rows.max(1);
    assert_eq!(changed.b.len(), rows * rank, "b must be [{rows}, {rank}]");
    assert_eq!(changed.cross.len(), rank * rows, "cross must be [{rank}, {rows}]");
    assert_eq!(changed.gram.len(), rank * rank, "gram must be [{rank}, {rank}]");
    let mut arguments = Arguments::new();
    arguments.address(changed.squares.address()).address(changed.cross.address()).address(changed.gram.address());
    arguments.address(changed.b.address()).float(changed.scale).int(rows).int(rank);
    match magnitude {
        Some(magnitude) => arguments.address(magnitude.address()),
        None => arguments.address(0),
    };
    arguments.address(gains.address()).address(inverse.address());
    device.launch("dora_gains", [rows.div_ceil(THREADS), 1, 1], THREADS, arguments);
}

/// # Panics
/// If the lengths do not fit.
pub fn column_dots(
    device: &CudaDevice,
    dy: Values<'_>,
    x: Values<'_>,
    factors: Slice<'_, f32>,
    accumulate: bool,
    out: SliceMut<'_, f32>,
) {
    let width = factors.len();
    assert_eq!(dy.len(), x.len(), "x must have the length of dy");
    assert_eq!(out.len(), width, "a value for each column");
    let mut arguments = Arguments::new();
    arguments.address(dy.address()).address(x.address()).address(factors.address());
    arguments.int(dy.len() / width.max(1)).int(width).flag(accumulate).address(out.address());
    assert_eq!(dy.kind(), x.kind(), "x must have the type of dy");
    device.launch(&format!("column_dots_{}", x.kind().name()), [width.div_ceil(THREADS), 1, 1], THREADS, arguments);
}
