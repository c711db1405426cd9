//! Matrix products. Which kernel runs:
//!
//! ```text
//! precision f32, or trainable f32 operands of few rows or columns  →  matmul.cu, exact decoding in the tiles
//! otherwise, at most 32 rows times NF4                             →  matmul_mma.cu, decoded in the fragments
//! otherwise                                                        →  to bf16 in the shared scratch, then matmul_mma.cu,
//!                                                                     or cuBLAS where it was asked for
//! ```
//! A choice that changes bits depends on the matrix and on `k` alone; tiles, which do not change them, are chosen by the
//! number of rows too.

use luthier_kernels::device::{Operand, Slice, SliceMut};

use super::matrix::{MatrixArguments, start, start_mut};
use super::nf4::dequantize;
use crate::costs::{self, FEW_ROWS, NARROW};
use crate::cublas::Call;
use crate::{Arguments, CudaDevice, Precision};

/// Which way the right operand lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `[n, k]`.
    Nt,
    /// `[k, n]`.
    Nn,
}

impl Layout {
    const fn name(self) -> &'static str {
        match self {
            Self::Nt => "nt",
            Self::Nn => "nn",
        }
    }
}

/// `c[m, n] = scale · a[m, k] · b (+ c)`, with rows `lda` and `ldc` apart.
#[derive(Clone, Copy)]
struct Product {
    layout: Layout,
    a: u64,
    c: u64,
    m: usize,
    n: usize,
    k: usize,
    lda: usize,
    ldc: usize,
    scale: f32,
    accumulate: bool,
}

/// # Panics
/// If a view does not have the length that its shape says.
pub fn nt(
    device: &CudaDevice,
    x: Slice<'_, f32>,
    w: Operand<'_>,
    [m, n, k]: [usize; 3],
    scale: f32,
    accumulate: bool,
    out: SliceMut<'_, f32>,
) {
    assert_eq!(x.len(), m * k, "x must be [{m}, {k}]");
    assert_eq!(out.len(), m * n, "out must be [{m}, {n}]");
    let (a, c) = (start(x), start_mut(&out));
    let product = Product { layout: Layout::Nt, a, c, m, n, k, lda: k, ldc: n, scale, accumulate };
    product.run(device, w, [n, k]);
}

/// # Panics
/// If a view does not have the length that its shape says.
pub fn nn(
    device: &CudaDevice,
    dy: Slice<'_, f32>,
    w: Operand<'_>,
    [m, n, k]: [usize; 3],
    scale: f32,
    accumulate: bool,
    out: SliceMut<'_, f32>,
) {
    assert_eq!(dy.len(), m * n, "dy must be [{m}, {n}]");
    assert_eq!(out.len(), m * k, "out must be [{m}, {k}]");
    let (a, c) = (start(dy), start_mut(&out));
    let product = Product { layout: Layout::Nn, a, c, m, n: k, k: n, lda: n, ldc: k, scale, accumulate };
    product.run(device, w, [n, k]);
}

/// # Panics
/// If a view does not have the length that its shape says.
pub fn tn(
    device: &CudaDevice,
    a: Slice<'_, f32>,
    b: Slice<'_, f32>,
    [m, p, q]: [usize; 3],
    scale: f32,
    accumulate: bool,
    out: SliceMut<'_, f32>,
) {
    assert_eq!(a.len(), m * p, "a must be [{m}, {p}]");
    assert_eq!(b.len(), m * q, "b must be [{m}, {q}]");
    assert_eq!(out.len(), p * q, "out must be [{p}, {q}]");
    if p == 0 || q == 0 {
        return;
    }
    let (name, rows, columns, threads) = match (p <= 16, q <= 16) {
        (_, true) => ("matmul_tn_narrow", 64, 16, 128),
        (true, false) => ("matmul_tn_low", 16, 64, 128),
        (false, false) => ("matmul_tn_middle", 64, 64, 256),
    };
    let part = costs::tall_part(m, p * q);
    let parts = m.div_ceil(part).max(1);
    let out = start_mut(&out);
    let (target, scale_here, accumulate_here) =
        if parts == 1 { (out, scale, accumulate) } else { (device.scratch(costs::tall(m, p * q)), 1.0, false) };
    let mut arguments = Arguments::new();
    arguments.address(start(a)).address(start(b)).address(target);
    arguments.int(p).int(q).int(m).int(part).float(scale_here).flag(accumulate_here);
    device.launch(name, [p.div_ceil(rows), q.div_ceil(columns), parts], threads, arguments);
    if parts > 1 {
        let mut arguments = Arguments::new();
        arguments.address(target).address(out).long(p * q).int(parts).float(scale).flag(accumulate);
        device.launch("matmul_fold", [(p * q).div_ceil(256), 1, 1], 256, arguments);
    }
}

impl Product {
    /// `shape` is the right operand's as it lies in memory.
    fn run(self, device: &CudaDevice, w: Operand<'_>, shape: [usize; 2]) {
        let matrix = MatrixArguments::of(w);
        assert_eq!(matrix.len, shape[0] * shape[1], "w must be [{}, {}]", shape[0], shape[1]);
        if self.m == 0 || self.n == 0 {
            return;
        }
        let narrow = matrix.kind == "f32" && self.n.min(self.k) <= NARROW;
        match device.precision() {
            _ if self.k == 0 => self.plain(device, &matrix),
            Precision::F32 => self.plain(device, &matrix),
            Precision::Bf16 if narrow => self.plain(device, &matrix),
            Precision::Bf16 => self.tensor(device, &matrix, shape),
        }
    }

    /// In `f32`.
    fn plain(self, device: &CudaDevice, matrix: &MatrixArguments) {
        let layout = self.layout.name();
        // A long sum into few columns is cut in four inside a block; by the shape of the matrix, as it changes bits.
        let (name, rows, columns) = match (matrix.kind, self.n) {
            ("f32", ..=16) if self.k > NARROW => (format!("matmul_{layout}_narrow16"), 32, 16),
            ("f32", ..=NARROW) if self.k > NARROW => (format!("matmul_{layout}_narrow64"), 32, 64),
            ("f32", _) if self.fills(device, 128) => (format!("matmul_{layout}_large"), 128, 128),
            (kind, _) => (format!("matmul_{layout}_{kind}"), 64, 64),
        };
        let mut arguments = Arguments::new();
        arguments.address(self.a);
        matrix.push(&mut arguments);
        arguments.address(self.c).int(self.m).int(self.n).int(self.k).int(self.lda).int(self.ldb()).int(self.ldc);
        arguments.float(self.scale).flag(self.accumulate);
        device.launch(&name, [self.m.div_ceil(rows), self.n.div_ceil(columns), 1], 256, arguments);
    }

    fn ldb(&self) -> usize {
        match self.layout {
            Layout::Nt => self.k,
            Layout::Nn => self.n,
        }
    }

    /// Whether square tiles of `side` give every multiprocessor one.
    fn fills(&self, device: &CudaDevice, side: usize) -> bool {
        self.m.div_ceil(side) * self.n.div_ceil(side) >= device.multiprocessors()
    }

    /// On the tensor cores.
    fn tensor(self, device: &CudaDevice, matrix: &MatrixArguments, [rows, cols]: [usize; 2]) {
        let element = if device.has_bf16() { "bf16" } else { "f16" };
        // Each row of the left operand is divided by a power of two before it becomes f16.
        let powers = if element == "f16" { self.powers(device) } else { 0 };
        if self.layout == Layout::Nt && matrix.kind == "nf4" && self.m <= FEW_ROWS && self.k.is_multiple_of(64) {
            let mut arguments = Arguments::new();
            arguments.address(self.a);
            matrix.push(&mut arguments);
            arguments.address(self.c).address(powers).int(self.m).int(self.n).int(self.k);
            arguments.float(self.scale).flag(self.accumulate);
            let name = format!("mma_{element}_nf4");
            return device.launch(&name, [self.n.div_ceil(32), self.m.div_ceil(16), 1], 128, arguments);
        }
        let narrowed = self.narrowed(device);
        let multiply = |product: Self, b: u64| match narrowed {
            // The parts of a sum start further on in the rows of both copies.
            Some(narrow) => device.multiply(&product.call(narrow + (product.a - self.a) / 2, b)),
            None => product.tiles(device, element, b, powers),
        };
        if matrix.kind == element {
            return multiply(self, matrix.data);
        }
        let step = costs::rows_at_once(rows, cols);
        for start in (0..rows).step_by(step) {
            let count = step.min(rows - start);
            let scratch = device.scratch(costs::converted(count, cols));
            dequantize(device, matrix, start * cols, count * cols, element, scratch);
            let part = match self.layout {
                Layout::Nt => Self { c: self.c + 4 * start as u64, n: count, ..self },
                Layout::Nn => {
                    Self { a: self.a + 4 * start as u64, k: count, accumulate: self.accumulate || start > 0, ..self }
                }
            };
            multiply(part, scratch);
        }
    }

    /// Where the left operand is in bf16, if cuBLAS takes the product: it wants both operands narrow and on sixteen bytes.
    fn narrowed(&self, device: &CudaDevice) -> Option<u64> {
        let takes = device.cuda_costs().takes_library(self.m, self.n, self.k);
        takes.then(|| {
            let len = self.m * self.k;
            let narrow = device.row_scratch(costs::narrowed(self.m, self.k));
            let rows = MatrixArguments { kind: "f32", data: self.a, codes: 0, scales: 0, offset: 0.0, len };
            dequantize(device, &rows, 0, len, "bf16", narrow);
            narrow
        })
    }

    fn call(&self, a: u64, b: u64) -> Call {
        let Self { c, m, n, k, lda, ldc, scale, accumulate, .. } = *self;
        let transposed = self.layout == Layout::Nt;
        Call { a, b, c, transposed, m, n, k, lda, ldb: self.ldb(), ldc, scale, accumulate }
    }

    /// The right operand is in 16 bits at `b`.
    fn tiles(self, device: &CudaDevice, element: &str, b: u64, powers: u64) {
        let layout = self.layout.name();
        let width = if self.layout == Layout::Nt { self.k } else { self.n };
        let aligned = self.a.is_multiple_of(16)
            && b.is_multiple_of(16)
            && self.lda.is_multiple_of(4)
            && self.k.is_multiple_of(4)
            && width.is_multiple_of(8);
        let (size, rows, columns, threads) = match self.m {
            ..=16 => ("small", 16, 64, 128),
            _ if aligned && self.fills(device, 128) => ("large", 128, 128, if element == "bf16" { 128 } else { 256 }),
            _ => ("middle", 64, 64, 128),
        };
        let mut arguments = Arguments::new();
        arguments.address(self.a).address(b).address(self.c).address(powers);
        arguments.int(self.m).int(self.n).int(self.k).int(self.lda).int(self.ldb()).int(self.ldc);
        arguments.float(self.scale).flag(self.accumulate);
        let blocks = self.m.div_ceil(rows) * self.n.div_ceil(columns);
        device.launch(&format!("mma_{element}_{layout}_{size}"), [blocks, 1, 1], threads, arguments);
    }

    fn powers(&self, device: &CudaDevice) -> u64 {
        let powers = device.row_scratch(costs::powers(self.m));
        let mut arguments = Arguments::new();
        arguments.address(self.a).int(self.m).int(self.k).int(self.lda).address(powers);
        device.launch("row_powers", [self.m, 1, 1], 256, arguments);
        powers
    }
}
