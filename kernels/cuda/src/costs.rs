//! Memory that the device takes for itself. The operations borrow by these numbers, and a plan adds them up.

use luthier_kernels::device::{AttentionShape, Costs, FloatType, Operation, Storage};

use crate::cublas::WORKSPACE_BYTES;
use crate::memory::STAGING_BYTES;
use crate::ops::attention::parts_bytes;
use crate::ops::optimizer::norm_bytes;
use crate::{CudaOptions, Precision};

/// Rows up to which NF4 is decoded where it is used.
pub(crate) const FEW_ROWS: usize = 32;
/// Trainable matrices with at most so many rows or columns are multiplied in `f32`: that is bound by memory anyway.
pub(crate) const NARROW: usize = 64;
/// Rows from which cuBLAS is used.
pub(crate) const LIBRARY_ROWS: usize = 128;
/// Steps of a tall sum that one block adds up.
const TALL_PART: usize = 512;
/// Bytes that converted rows of a matrix, or parts of a tall sum, may take.
pub(crate) const SCRATCH_BYTES: usize = 128 << 20;

/// What decides how much memory a device takes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaCosts {
    pub precision: Precision,
    /// Its tensor cores take bfloat16: compute capability 8.0 and later.
    pub bf16: bool,
    /// Large products are cuBLAS's.
    pub cublas: bool,
}

/// Bytes of both pieces of scratch memory: what matrices and sums need, and what rows need.
pub(crate) type Borrowed = [usize; 2];

impl CudaCosts {
    /// Of a device that computes as told, on a machine that has cuBLAS: what is planned for where none is at hand. Devices
    /// without bf16, which compute in f16, take the same.
    #[must_use]
    pub fn new(options: CudaOptions) -> Self {
        Self { precision: options.precision, bf16: true, cublas: options.wants_cublas() }
    }

    /// What activations are kept in, and the factors of products.
    #[must_use]
    pub fn activations(&self) -> FloatType {
        match self.precision {
            Precision::F32 => FloatType::F32,
            Precision::Bf16 if self.bf16 => FloatType::Bf16,
            Precision::Bf16 => FloatType::F16,
        }
    }

    /// Of a product with a frozen or trained matrix that is `[rows, cols]` in memory, `[m, n, k]` as it is computed.
    fn product(&self, [m, n, k]: [usize; 3], weight: Storage, transposed: bool) -> Borrowed {
        let [rows, cols] = if transposed { [n, k] } else { [k, n] };
        if m == 0 || n == 0 || k == 0 || self.precision == Precision::F32 {
            return [0, 0];
        }
        // Trained matrices are converted too.
        let element = if self.bf16 { Storage::Bf16 } else { Storage::F16 };
        let decoded = transposed && weight == Storage::Nf4 && m <= FEW_ROWS && k.is_multiple_of(64);
        [if weight == element || decoded { 0 } else { converted(rows_at_once(rows, cols), cols) }, 0]
    }

    /// Whether a product on the tensor cores is cuBLAS's: it wants both operands narrow and on sixteen bytes.
    pub(crate) fn takes_library(&self, m: usize, n: usize, k: usize) -> bool {
        self.cublas && m >= LIBRARY_ROWS && n.is_multiple_of(8) && k.is_multiple_of(8)
    }

    fn operation(&self, operation: &Operation) -> Borrowed {
        match *operation {
            Operation::MatmulNt(shape, weight) => self.product(shape, weight, true),
            Operation::MatmulNn([m, n, k], weight) => self.product([m, k, n], weight, false),
            // In f16 a power of two for each row takes less.
            Operation::Narrow(len) => [0, if self.precision == Precision::Bf16 { narrowed(1, len) } else { 0 }],
            Operation::MatmulTn([m, p, q]) => [tall(m, p * q), 0],
            Operation::Norm(len) => [norm_bytes(len), 0],
            Operation::AttentionDecode(shape, sequences, capacity) => decode(&shape, sequences, capacity),
        }
    }

    /// The most of each piece that one of `operations` borrows.
    pub(crate) fn borrowed(&self, operations: &[Operation]) -> Borrowed {
        operations.iter().map(|operation| self.operation(operation)).fold([0, 0], |most, one| {
            let [a, b] = most;
            [a.max(one[0]), b.max(one[1])]
        })
    }
}

impl Costs for CudaCosts {
    fn fixed(&self) -> usize {
        if self.cublas { WORKSPACE_BYTES } else { 0 }
    }

    fn staging(&self) -> Option<usize> {
        Some(STAGING_BYTES)
    }

    fn scratch(&self, operations: &[Operation]) -> usize {
        self.borrowed(operations).iter().sum()
    }

    fn rotary(&self, positions: usize, head_dim: usize) -> usize {
        2 * positions * (head_dim / 2) * size_of::<f32>()
    }
}

fn decode(shape: &AttentionShape, sequences: usize, capacity: usize) -> Borrowed {
    [parts_bytes(shape, sequences, capacity), 0]
}

/// Rows of a matrix that are converted at once: all, or a multiple of 64 that fits the scratch. A function of the matrix
/// alone, as it decides where sums over rows are cut.
pub(crate) fn rows_at_once(rows: usize, cols: usize) -> usize {
    let fit = SCRATCH_BYTES / 2 / cols.max(1);
    if rows <= fit { rows } else { (fit / 64 * 64).max(64) }
}

/// Of so many rows in 16 bits.
pub(crate) fn converted(rows: usize, cols: usize) -> usize {
    2 * rows * cols
}

/// Of the left operand in sixteen bits.
pub(crate) fn narrowed(m: usize, k: usize) -> usize {
    2 * m * k
}

/// Of a power of two for each row.
pub(crate) fn powers(m: usize) -> usize {
    4 * m
}

/// Steps that one part of a tall sum of `len` elements has: more than usual where the parts would not fit the scratch.
pub(crate) fn tall_part(m: usize, len: usize) -> usize {
    TALL_PART.max(m.div_ceil(most_parts(len)))
}

fn most_parts(len: usize) -> usize {
    (SCRATCH_BYTES / 4 / len.max(1)).max(1)
}

/// Of the parts of a tall sum, and of one with fewer steps.
pub(crate) fn tall(m: usize, len: usize) -> usize {
    match m.div_ceil(TALL_PART).min(most_parts(len)) {
        0 | 1 => 0,
        parts => 4 * parts * len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_rows_borrow_no_more() {
        for len in [1, 4096, 1 << 22, 1 << 26] {
            for m in (0..200_000_usize).step_by(97) {
                let parts = m.div_ceil(tall_part(m, len)).max(1);
                let taken = if parts == 1 { 0 } else { 4 * parts * len };
                assert!(taken <= tall(m, len) && tall(m, len) <= tall(m + 1, len), "{m} steps of {len}");
            }
        }
        let usual = CudaCosts::new(CudaOptions { cublas: true, ..CudaOptions::default() });
        let kinds = [true, false].map(|bf16| CudaCosts { bf16, ..usual });
        for (weight, costs) in
            [Storage::F32, Storage::Bf16, Storage::Nf4].into_iter().flat_map(|one| kinds.map(|kind| (one, kind)))
        {
            let mut before = 0;
            for m in 0..400 {
                let operations = [Operation::MatmulNt([m, 96, 128], weight), Operation::MatmulNn([m, 96, 128], weight)];
                let bytes = costs.scratch(&operations);
                assert!(bytes >= before, "{m} rows, {weight:?}");
                before = bytes;
            }
        }
    }
}
