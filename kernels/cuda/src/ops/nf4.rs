//! Matrices of any storage type to one that is multiplied directly.

use half::bf16;
use luthier_kernels::device::{Operand, SliceMut};

use super::matrix::{MatrixArguments, start_mut};
use crate::{Arguments, CudaDevice};

/// Elements of one block of the kernels.
const TILE: usize = 8192;

/// Writes elements `start..start + count` of the flattened matrix to `out` as `to`: `f32`, `bf16` or `f16`. `start` is a
/// multiple of 256 unless it is that of rows of whole multiples of 64, and `out` of 16 bytes.
pub fn dequantize(device: &CudaDevice, matrix: &MatrixArguments, start: usize, count: usize, to: &str, out: u64) {
    if count == 0 {
        return;
    }
    let mut arguments = Arguments::new();
    matrix.push(&mut arguments);
    arguments.long(start).long(count).address(out);
    device.launch(&format!("dequantize_{}_{to}", matrix.kind), [count.div_ceil(TILE), 1, 1], 256, arguments);
}

impl CudaDevice {
    /// All of a matrix in `f32`, with the bits of the CPU's decoding.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn dequantize(&self, matrix: Operand<'_>, out: SliceMut<'_, f32>) {
        let matrix = MatrixArguments::of(matrix);
        assert_eq!(out.len(), matrix.len, "out must have the length of the matrix");
        dequantize(self, &matrix, 0, matrix.len, "f32", start_mut(&out));
    }

    /// As [`CudaDevice::dequantize`], rounded to bf16.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn dequantize_bf16(&self, matrix: Operand<'_>, out: SliceMut<'_, bf16>) {
        let matrix = MatrixArguments::of(matrix);
        assert_eq!(out.len(), matrix.len, "out must have the length of the matrix");
        dequantize(self, &matrix, 0, matrix.len, "bf16", start_mut(&out));
    }
}
