//! Embedding rows by token id.

use luthier_kernels::device::{Operand, Slice, SliceMut};

use super::matrix::{MatrixArguments, start, start_mut};
use crate::{Arguments, CudaDevice};

/// `out[i] = table[ids[i]]`; NaN where an id is outside the table.
///
/// # Panics
/// If `out` is not `[ids, width]`.
pub fn gather(device: &CudaDevice, table: Operand<'_>, ids: Slice<'_, u32>, width: usize, out: SliceMut<'_, f32>) {
    assert_eq!(out.len(), ids.len() * width, "out must be [{}, {width}]", ids.len());
    if out.is_empty() {
        return;
    }
    let matrix = MatrixArguments::of(table);
    let mut arguments = Arguments::new();
    matrix.push(&mut arguments);
    arguments.int(matrix.len / width).address(start(ids)).int(width).address(start_mut(&out));
    device.launch(&format!("embedding_{}", matrix.kind), [ids.len(), 1, 1], 256, arguments);
}
