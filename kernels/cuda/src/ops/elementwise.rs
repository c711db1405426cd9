//! Loops over whole buffers and over rows.

use luthier_kernels::device::{Slice, SliceMut, Values, ValuesMut};

use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

pub fn zero(device: &CudaDevice, out: SliceMut<'_, f32>) {
    let len = out.len();
    let mut arguments = Arguments::new();
    arguments.address(out.address()).long(len);
    device.launch("zero", [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}

/// # Panics
/// If the lengths differ.
pub fn copy(device: &CudaDevice, source: Values<'_>, out: ValuesMut<'_>) {
    assert_eq!(source.len(), out.len(), "a copy between different lengths");
    let name = format!("copy_{}_{}", source.kind().name(), out.kind().name());
    pair(device, &name, source, out);
}

/// # Panics
/// If the lengths differ.
pub fn add(device: &CudaDevice, source: Values<'_>, out: ValuesMut<'_>) {
    assert_eq!(source.len(), out.len(), "both buffers must have one length");
    assert_eq!(source.kind(), out.kind(), "both buffers must have one type");
    pair(device, &format!("add_{}", out.kind().name()), source, out);
}

fn pair(device: &CudaDevice, name: &str, source: Values<'_>, out: ValuesMut<'_>) {
    let len = out.len();
    let mut arguments = Arguments::new();
    arguments.address(source.address()).address(out.address()).long(len);
    device.launch(name, [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}

pub fn scale(device: &CudaDevice, factor: f32, out: ValuesMut<'_>) {
    let len = out.len();
    let mut arguments = Arguments::new();
    arguments.float(factor).address(out.address()).long(len);
    device.launch(&format!("scale_{}", out.kind().name()), [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}

/// # Panics
/// If `out` has no whole number of rows.
pub fn add_bias(device: &CudaDevice, bias: Slice<'_, f32>, out: ValuesMut<'_>) {
    let (len, width) = (out.len(), bias.len());
    assert!(width > 0 && len.is_multiple_of(width), "out must have rows of {width}");
    let mut arguments = Arguments::new();
    arguments.address(bias.address()).long(len).int(width).address(out.address());
    device.launch(&format!("add_bias_{}", out.kind().name()), [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}

/// # Panics
/// If the lengths do not fit.
pub fn scale_columns(
    device: &CudaDevice,
    x: Values<'_>,
    factors: Slice<'_, f32>,
    accumulate: bool,
    out: ValuesMut<'_>,
) {
    let (len, width) = (out.len(), factors.len());
    assert_eq!(x.len(), len, "out must have the length of x");
    assert!(width > 0 && len.is_multiple_of(width), "x must have rows of {width}");
    let mut arguments = Arguments::new();
    arguments.address(x.address()).address(factors.address()).long(len).int(width).flag(accumulate);
    arguments.address(out.address());
    let name = format!("scale_columns_{}_{}", x.kind().name(), out.kind().name());
    device.launch(&name, [len.div_ceil(THREADS), 1, 1], THREADS, arguments);
}

/// # Panics
/// If `out` does not have a row for each of `rows`.
pub fn gather_rows(device: &CudaDevice, x: Values<'_>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>) {
    assert_eq!(out.len(), rows.len() * width, "gathered rows");
    assert_eq!(x.kind(), out.kind(), "rows keep their type");
    row_by_row(device, &format!("gather_rows_{}", x.kind().name()), x, rows, width, out);
}

/// # Panics
/// If `x` does not have a row for each of `rows`.
pub fn scatter_rows(
    device: &CudaDevice,
    x: Slice<'_, f32>,
    rows: Slice<'_, u32>,
    width: usize,
    out: SliceMut<'_, f32>,
) {
    assert_eq!(x.len(), rows.len() * width, "scattered rows");
    row_by_row(device, "scatter_rows", x.into(), rows, width, out.into());
}

fn row_by_row(device: &CudaDevice, name: &str, x: Values<'_>, rows: Slice<'_, u32>, width: usize, out: ValuesMut<'_>) {
    let mut arguments = Arguments::new();
    arguments.address(x.address()).address(rows.address()).int(width).address(out.address());
    device.launch(name, [rows.len(), 1, 1], THREADS, arguments);
}

/// # Panics
/// If `out` does not have a row for each pair of `offsets`.
pub fn sum_rows(
    device: &CudaDevice,
    x: Values<'_>,
    offsets: Slice<'_, u32>,
    rows: Slice<'_, u32>,
    width: usize,
    out: ValuesMut<'_>,
) {
    assert_eq!(out.len() + width, offsets.len() * width, "summed rows");
    let mut arguments = Arguments::new();
    arguments.address(x.address()).address(offsets.address()).address(rows.address()).int(width);
    arguments.address(out.address());
    assert_eq!(x.kind(), out.kind(), "rows keep their type");
    device.launch(&format!("sum_rows_{}", x.kind().name()), [offsets.len() - 1, 1, 1], THREADS, arguments);
}
