//! The innermost product: a few rows times a few vectors of columns, held in registers over one block of `k`.
//!
//! Every output element is one chain of fused multiply-adds over the block, starting at zero, then one more to fold it
//! into the output: `c = scale · chain + c`. Which rows and columns share a call does not matter to any element.

use crate::Backend;
use crate::simd::scalar::Scalar;
use crate::simd::{LANES, Simd};

/// The most rows and vectors of columns that a tile has.
pub const MAX_ROWS: usize = 12;
pub const MAX_VECTORS: usize = 3;

/// One call: `c[rows, width] = scale · a · b (+ c)`.
#[derive(Clone, Copy)]
pub struct TileCall {
    /// Length of the block of `k`.
    pub depth: usize,
    /// Element `(row, step)` of the left operand is at `a[row · a_row + step · a_step]`.
    pub a: *const f32,
    pub a_row: usize,
    pub a_step: usize,
    /// Row `step` of the right operand is at `b[step · b_step]`, whole vectors of sixteen.
    pub b: *const f32,
    pub b_step: usize,
    pub c: *mut f32,
    pub c_row: usize,
    /// Columns to write; those that complete the last vector are dropped.
    pub width: usize,
    pub scale: f32,
    /// Write over `c` rather than adding to it.
    pub fresh: bool,
}

type TileFn = unsafe fn(&TileCall);

/// The tiles of a backend, by rows less one and vectors less one.
pub struct Tiles {
    /// Rows and vectors of the tile that wide products are made of.
    pub rows: usize,
    pub vectors: usize,
    /// Rows of the best tile for each number of vectors less one, for narrow products.
    pub rows_by_vectors: [usize; MAX_VECTORS],
    /// Left operand packed, `a_row = 1`.
    packed: [[TileFn; MAX_VECTORS]; MAX_ROWS],
    strided: [[TileFn; MAX_VECTORS]; MAX_ROWS],
}

impl Tiles {
    pub fn of(backend: Backend) -> &'static Self {
        match backend {
            Backend::Reference => &REFERENCE,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => &x86::AVX2,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => &x86::AVX512,
            #[cfg(not(target_arch = "x86_64"))]
            Backend::Avx2 | Backend::Avx512 => &REFERENCE,
        }
    }

    /// # Safety
    /// The operands of `call` are readable and `c` is writable for `rows` rows and `vectors` vectors; `rows` and
    /// `vectors` are within the largest tile; `width` is in `16 · (vectors - 1) + 1 ..= 16 · vectors`.
    #[inline]
    pub unsafe fn run(&self, rows: usize, vectors: usize, call: &TileCall) {
        debug_assert!(call.width > LANES * (vectors - 1) && call.width <= LANES * vectors);
        let table = if call.a_row == 1 { &self.packed } else { &self.strided };
        // SAFETY: handed on to the caller.
        unsafe { table[rows - 1][vectors - 1](call) }
    }
}

/// # Safety
/// As [`Tiles::run`].
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize, const PACKED: bool>(simd: S, call: &TileCall) {
    let a_row = if PACKED { 1 } else { call.a_row };
    let mut sums = [[simd.splat(0.0); VECTORS]; ROWS];
    let (mut a, mut b) = (call.a, call.b);
    // SAFETY: the caller vouches for the operands.
    unsafe {
        for _ in 0..call.depth {
            let mut right = [simd.splat(0.0); VECTORS];
            for (v, right) in right.iter_mut().enumerate() {
                *right = simd.load(b.add(v * LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = simd.splat(*a.add(r * a_row));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = simd.fma(left, right, *sum);
                }
            }
            a = a.wrapping_add(call.a_step);
            b = b.wrapping_add(call.b_step);
        }
        let scale = simd.splat(call.scale);
        let tail = call.width - (VECTORS - 1) * LANES;
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                let c = call.c.add(r * call.c_row + v * LANES);
                let partial = v + 1 == VECTORS && tail < LANES;
                let old = match (call.fresh, partial) {
                    (true, _) => simd.splat(0.0),
                    (false, false) => simd.load(c),
                    (false, true) => simd.load_partial(c, tail),
                };
                let new = simd.fma(scale, sum, old);
                if partial {
                    simd.store_partial(c, new, tail);
                } else {
                    simd.store(c, new);
                }
            }
        }
    }
}

macro_rules! table {
    ($function:ident, $packed:literal) => {
        [
            table!(@row $function, $packed, 1),
            table!(@row $function, $packed, 2),
            table!(@row $function, $packed, 3),
            table!(@row $function, $packed, 4),
            table!(@row $function, $packed, 5),
            table!(@row $function, $packed, 6),
            table!(@row $function, $packed, 7),
            table!(@row $function, $packed, 8),
            table!(@row $function, $packed, 9),
            table!(@row $function, $packed, 10),
            table!(@row $function, $packed, 11),
            table!(@row $function, $packed, 12),
        ]
    };
    (@row $function:ident, $packed:literal, $rows:literal) => {
        [$function::<$rows, 1, $packed>, $function::<$rows, 2, $packed>, $function::<$rows, 3, $packed>]
    };
}

/// # Safety
/// As [`Tiles::run`].
unsafe fn reference<const ROWS: usize, const VECTORS: usize, const PACKED: bool>(call: &TileCall) {
    // SAFETY: handed on to the caller.
    unsafe { tile::<Scalar, ROWS, VECTORS, PACKED>(Scalar, call) }
}

static REFERENCE: Tiles = Tiles {
    rows: 4,
    vectors: 1,
    rows_by_vectors: [4, 2, 1],
    packed: table!(reference, true),
    strided: table!(reference, false),
};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{TileCall, Tiles, tile};
    use crate::simd::avx2::Avx2;
    use crate::simd::avx512::Avx512;

    /// # Safety
    /// As [`Tiles::run`], and the processor has AVX2, FMA and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<const ROWS: usize, const VECTORS: usize, const PACKED: bool>(call: &TileCall) {
        // SAFETY: handed on to the caller.
        unsafe { tile::<Avx2, ROWS, VECTORS, PACKED>(Avx2::new(), call) }
    }

    /// # Safety
    /// As [`Tiles::run`], and the processor has what [`Avx512`] proves.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn avx512<const ROWS: usize, const VECTORS: usize, const PACKED: bool>(call: &TileCall) {
        // SAFETY: handed on to the caller.
        unsafe { tile::<Avx512, ROWS, VECTORS, PACKED>(Avx512::new(), call) }
    }

    // Sixteen registers of eight lanes: 6 x 2 sums, 2 columns, 1 broadcast.
    pub static AVX2: Tiles = Tiles {
        rows: 6,
        vectors: 1,
        rows_by_vectors: [6, 3, 2],
        packed: table!(avx2, true),
        strided: table!(avx2, false),
    };

    // Thirty-two registers of sixteen lanes: 8 x 3 sums, 3 columns, 1 broadcast.
    pub static AVX512: Tiles = Tiles {
        rows: 8,
        vectors: 3,
        rows_by_vectors: [12, 12, 8],
        packed: table!(avx512, true),
        strided: table!(avx512, false),
    };
}
