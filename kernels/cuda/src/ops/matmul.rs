//! Matrix products. Which kernel runs:
//!
//! ```text
//! precision f32, or f32 times trainable operands of few rows or columns  →  matmul.cu, exact decoding in the tiles
//! otherwise, at most 32 rows times NF4                                   →  matmul_mma.cu, decoded in the fragments
//! otherwise                                                              →  to sixteen bits in the shared scratch, then
//!                                                                           matmul_mma.cu, or cuBLAS where it was asked for
//! ```
//! A choice that changes bits depends on the matrix and on `k` alone; tiles, which do not change them, are chosen by the
//! number of rows too. On the tensor cores a left operand in `f32` is narrowed to bf16 first; on devices without it, whose
//! element is f16, each of its rows is divided by a power of two while it is narrowed in the tiles.

use luthier_kernels::device::{Device, FloatType, Operand, SliceMut, Values, ValuesMut};

use super::matrix::{MatrixArguments, start_mut};
use super::nf4::dequantize;
use crate::arguments::Address;
use crate::costs::{self, FEW_ROWS, NARROW};
use crate::cublas::Call;
use crate::{Arguments, CudaDevice, Precision};

/// Which way the right operand lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
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

/// What a product adds of an adapter: `by · low · factor`, `low[m, rank]` in sixteen bits, `factor` `[n, rank]` for nt and
/// `[rank, n]` for nn, in `f32`.
#[derive(Clone, Copy)]
pub struct Update {
    pub low: u64,
    pub factor: u64,
    pub rank: usize,
    pub by: f32,
}

/// `c[m, n] = scale · (a[m, k] · b + update) (+ old)`, with rows `lda` and `ldc` apart.
#[derive(Clone, Copy)]
struct Product {
    layout: Layout,
    a: u64,
    kind: FloatType,
    c: u64,
    /// Of `c` and `old`.
    out: FloatType,
    /// What is added to, of the shape of `c`; may be `c`.
    old: Option<u64>,
    update: Option<Update>,
    m: usize,
    n: usize,
    k: usize,
    lda: usize,
    ldc: usize,
    scale: f32,
}

/// Where a product's sum goes.
pub struct Target<'a> {
    pub out: ValuesMut<'a>,
    /// What is added, of the type of `out`.
    pub old: Option<u64>,
}

impl<'a> Target<'a> {
    fn new(out: ValuesMut<'a>, accumulate: bool) -> Self {
        let old = accumulate.then(|| out.address().word());
        Self { out, old }
    }
}

/// # Panics
/// If a view does not have the length that its shape says.
pub fn nt(
    device: &CudaDevice,
    x: Values<'_>,
    w: Operand<'_>,
    shape: [usize; 3],
    scale: f32,
    accumulate: bool,
    out: ValuesMut<'_>,
) {
    updated(device, Layout::Nt, x, w, shape, scale, None, Target::new(out, accumulate));
}

/// # Panics
/// If a view does not have the length that its shape says.
pub fn nn(
    device: &CudaDevice,
    dy: Values<'_>,
    w: Operand<'_>,
    shape: [usize; 3],
    scale: f32,
    accumulate: bool,
    out: ValuesMut<'_>,
) {
    updated(device, Layout::Nn, dy, w, shape, scale, None, Target::new(out, accumulate));
}

/// [`nt`] or [`nn`] with an adapter's update.
///
/// # Panics
/// If a view does not have the length that its shape says.
#[expect(clippy::too_many_arguments, reason = "the operands of the operation")]
pub fn updated(
    device: &CudaDevice,
    layout: Layout,
    x: Values<'_>,
    w: Operand<'_>,
    [m, n, k]: [usize; 3],
    scale: f32,
    update: Option<Update>,
    Target { out, old }: Target<'_>,
) {
    let (inner, outer) = if layout == Layout::Nt { (k, n) } else { (n, k) };
    assert_eq!(x.len(), m * inner, "the left operand must be [{m}, {inner}]");
    assert_eq!(out.len(), m * outer, "out must be [{m}, {outer}]");
    let (a, c) = (x.address().word(), out.address().word());
    let (kind, out) = (x.kind(), out.kind());
    let product =
        Product { layout, a, kind, c, out, old, update, m, n: outer, k: inner, lda: inner, ldc: outer, scale };
    product.run(device, w, [n, k]);
}

/// [`nn`] with rows of `dy` that are `pitch` elements apart.
///
/// # Panics
/// If a view does not have the length that its shape says.
pub fn nn_rows(
    device: &CudaDevice,
    dy: Values<'_>,
    pitch: usize,
    w: Operand<'_>,
    [m, n, k]: [usize; 3],
    out: ValuesMut<'_>,
) {
    assert!(dy.len() >= m * pitch && pitch >= n, "dy must be [{m}, {n}]");
    assert_eq!(out.len(), m * k, "out must be [{m}, {k}]");
    let (a, c) = (dy.address().word(), out.address().word());
    let (layout, kind, out) = (Layout::Nn, dy.kind(), out.kind());
    let (old, update, scale) = (None, None, 1.0);
    Product { layout, a, kind, c, out, old, update, m, n: k, k: n, lda: pitch, ldc: k, scale }.run(device, w, [n, k]);
}

/// # Panics
/// If a view does not have the length that its shape says.
pub fn tn(
    device: &CudaDevice,
    a: Values<'_>,
    b: Values<'_>,
    [m, p, q]: [usize; 3],
    scale: f32,
    accumulate: bool,
    out: SliceMut<'_, f32>,
) {
    assert_eq!(a.len(), m * p, "a must be [{m}, {p}]");
    assert_eq!(b.len(), m * q, "b must be [{m}, {q}]");
    assert_eq!(out.len(), p * q, "out must be [{p}, {q}]");
    assert_eq!(a.kind(), b.kind(), "both must have one type");
    if p == 0 || q == 0 {
        return;
    }
    let (name, rows, columns, threads) = match (p <= 16, q <= 16) {
        (_, true) => ("matmul_tn_narrow", 64, 16, 128),
        (true, false) if a.kind() == FloatType::F32 => ("matmul_tn_low", 16, 64, 128),
        (_, false) => ("matmul_tn_middle", 64, 64, 256),
    };
    let part = costs::tall_part(m, p * q);
    let parts = m.div_ceil(part).max(1);
    let out = start_mut(&out);
    let (target, scale_here, accumulate_here) =
        if parts == 1 { (out, scale, accumulate) } else { (device.scratch(costs::tall(m, p * q)), 1.0, false) };
    let mut arguments = Arguments::new();
    arguments.address(a.address()).address(b.address()).address(target);
    arguments.int(p).int(q).int(m).int(part).float(scale_here).flag(accumulate_here);
    let name = format!("{name}_{}", a.kind().name());
    device.launch(&name, [p.div_ceil(rows), q.div_ceil(columns), parts], threads, arguments);
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
        let full = self.kind == FloatType::F32 && self.out == FloatType::F32;
        let narrow = matrix.kind == "f32" && self.n.min(self.k) <= NARROW;
        match device.precision() {
            Precision::F32 => self.plain(device, &matrix),
            Precision::Bf16 if full && (narrow || self.k == 0) => self.plain(device, &matrix),
            Precision::Bf16 => self.tensor(device, &matrix, shape),
        }
    }

    /// In `f32`.
    fn plain(self, device: &CudaDevice, matrix: &MatrixArguments) {
        assert_eq!([self.kind, self.out], [FloatType::F32; 2], "a product in f32 is of f32");
        assert!(self.old.is_none_or(|old| old == self.c) && self.update.is_none(), "a product in f32 is one alone");
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
        arguments.float(self.scale).flag(self.old.is_some());
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
    fn tensor(mut self, device: &CudaDevice, matrix: &MatrixArguments, [rows, cols]: [usize; 2]) {
        let element = device.activation_type();
        let (mut kernels, mut powers) = (element.name(), 0);
        if self.kind == FloatType::F32 && element == FloatType::Bf16 {
            self.narrow(device);
        } else if self.kind == FloatType::F32 {
            (kernels, powers) = ("scaled", self.powers(device));
        }
        let element = element.name();
        if self.layout == Layout::Nt && matrix.kind == "nf4" && self.m <= FEW_ROWS && self.k.is_multiple_of(64) {
            let mut arguments = Arguments::new();
            arguments.address(self.a);
            matrix.push(&mut arguments);
            arguments.address(self.c).address(self.old.unwrap_or(0)).flag(self.out != FloatType::F32).address(powers);
            self.push_update(&mut arguments);
            arguments.int(self.m).int(self.n).int(self.k).float(self.scale);
            let name = format!("mma_{kernels}_nf4");
            return device.launch(&name, [self.n.div_ceil(32), self.m.div_ceil(16), 1], 128, arguments);
        }
        if matrix.kind == element {
            return self.multiply(device, kernels, matrix.data, powers);
        }
        let step = costs::rows_at_once(rows, cols);
        for start in (0..rows).step_by(step) {
            let count = step.min(rows - start);
            let scratch = device.scratch(costs::converted(count, cols));
            dequantize(device, matrix, start * cols, count * cols, element, scratch);
            let after = |address: u64, size: usize| address + (size * start) as u64;
            let part = match self.layout {
                Layout::Nt => Self {
                    c: after(self.c, self.out.bytes()),
                    old: self.old.map(|old| after(old, self.out.bytes())),
                    update: self
                        .update
                        .map(|update| Update { factor: after(update.factor, 4 * update.rank), ..update }),
                    n: count,
                    ..self
                },
                // The update comes after the last part, as it does where there is one part.
                Layout::Nn => Self {
                    a: after(self.a, self.kind.bytes()),
                    k: count,
                    old: if start > 0 { Some(self.c) } else { self.old },
                    update: self.update.filter(|_| start + count == rows),
                    ..self
                },
            };
            part.multiply(device, kernels, scratch, powers);
        }
    }

    /// The left operand to bf16, in scratch for values per row.
    fn narrow(&mut self, device: &CudaDevice) {
        assert_eq!(self.lda, self.k, "rows that are narrowed lie side by side");
        let len = self.m * self.k;
        let narrow = device.row_scratch(costs::narrowed(self.m, self.k));
        let rows = MatrixArguments { kind: "f32", data: self.a, codes: 0, scales: 0, offset: 0.0, len };
        dequantize(device, &rows, 0, len, "bf16", narrow);
        (self.a, self.kind) = (narrow, FloatType::Bf16);
    }

    /// The right operand is in 16 bits at `b`.
    fn multiply(self, device: &CudaDevice, kernels: &str, b: u64, powers: u64) {
        let library = self.kind != FloatType::F32 && device.cuda_costs().takes_library(self.m, self.n, self.k);
        if !library {
            return self.tiles(device, kernels, b, powers);
        }
        let mut accumulate = self.old.is_some();
        if self.update.is_some() || self.old.is_some_and(|old| old != self.c) {
            // The library adds to what is there: the update and what is added come first.
            Self { k: 0, ..self }.tiles(device, kernels, b, powers);
            accumulate = true;
        }
        let Self { a, kind, c, m, n, k, lda, ldc, scale, .. } = self;
        let transposed = self.layout == Layout::Nt;
        let narrow = self.out != FloatType::F32;
        device.multiply(&Call {
            a,
            b,
            c,
            kind,
            narrow,
            transposed,
            m,
            n,
            k,
            lda,
            ldb: self.ldb(),
            ldc,
            scale,
            accumulate,
        });
    }

    /// With our own kernels.
    fn tiles(self, device: &CudaDevice, kernels: &str, b: u64, powers: u64) {
        let layout = self.layout.name();
        let width = if self.layout == Layout::Nt { self.k } else { self.n };
        // Elements of the left operand that are staged at once.
        let each = 16 / self.kind.bytes();
        let aligned = self.a.is_multiple_of(16)
            && b.is_multiple_of(16)
            && self.lda.is_multiple_of(each)
            && self.k.is_multiple_of(each)
            && width.is_multiple_of(8);
        let (size, rows, columns, threads) = match self.m {
            ..=16 => ("small", 16, 64, 128),
            _ if aligned && self.fills(device, 128) => ("large", 128, 128, if kernels == "bf16" { 128 } else { 256 }),
            _ => ("middle", 64, 64, 128),
        };
        let mut arguments = Arguments::new();
        arguments.address(self.a).address(b).address(self.c).address(self.old.unwrap_or(0));
        arguments.flag(self.out != FloatType::F32).address(powers);
        self.push_update(&mut arguments);
        arguments.int(self.m).int(self.n).int(self.k).int(self.lda).int(self.ldb()).int(self.ldc).float(self.scale);
        let blocks = self.m.div_ceil(rows) * self.n.div_ceil(columns);
        device.launch(&format!("mma_{kernels}_{layout}_{size}"), [blocks, 1, 1], threads, arguments);
    }

    fn push_update(&self, arguments: &mut Arguments) {
        let Update { low, factor, rank, by } = self.update.unwrap_or(Update { low: 0, factor: 0, rank: 0, by: 0.0 });
        arguments.address(low).address(factor).int(rank).float(by);
    }

    fn powers(&self, device: &CudaDevice) -> u64 {
        let powers = device.row_scratch(costs::powers(self.m));
        let mut arguments = Arguments::new();
        arguments.address(self.a).int(self.m).int(self.k).int(self.lda).address(powers);
        device.launch("row_powers", [self.m, 1, 1], 256, arguments);
        powers
    }
}
