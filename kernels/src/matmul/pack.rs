//! Operands, rearranged into panels for the tiles; weights are converted to `f32` on the way, so no full-size copy of
//! one ever exists.
//!
//! The left operand becomes groups of rows, `[step][rows of the group]`; the right operand becomes panels of whole
//! vectors, `[step][columns of the panel]`, with zeros beyond the last column.

use half::{bf16, f16};

use crate::blocks::BlockView;
use crate::nf4::{AbsMax, BLOCK, NESTED_BLOCK, Nf4View, dynamic_map};
use crate::simd::{LANES, Simd, kernel};
use crate::{Backend, Weight};

/// A stored matrix that gives up sixteen consecutive elements at a time.
pub trait Source: Copy + Sync {
    /// What one load leaves for the next one nearby.
    type Memo: Copy;

    fn memo(self) -> Self::Memo;

    /// [`Source::load`] by one who loads along a row.
    ///
    /// # Safety
    /// `index + 16` is within the matrix.
    #[inline(always)]
    unsafe fn load_next<S: Simd>(self, simd: S, index: usize, _memo: &mut Self::Memo) -> S::F {
        // SAFETY: handed on to the caller.
        unsafe { self.load(simd, index) }
    }

    /// # Safety
    /// `index + 16` is within the matrix.
    unsafe fn load<S: Simd>(self, simd: S, index: usize) -> S::F;

    /// # Safety
    /// `index + count` is within the matrix; `count < 16`. The other lanes are zero.
    unsafe fn load_partial<S: Simd>(self, simd: S, index: usize, count: usize) -> S::F;

    /// Asks for element `index`, which may lie outside, to be brought near.
    fn prefetch(self, index: usize);
}

#[inline(always)]
fn prefetch<T>(at: *const T) {
    // SAFETY: a prefetch reads nothing and cannot fault.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

macro_rules! half_source {
    ($name:ident, $element:ty, $load:ident) => {
        #[derive(Clone, Copy)]
        pub struct $name<'a>(pub &'a [$element]);

        impl Source for $name<'_> {
            type Memo = ();

            fn memo(self) {}

            #[inline(always)]
            unsafe fn load<S: Simd>(self, simd: S, index: usize) -> S::F {
                // SAFETY: handed on to the caller.
                unsafe { simd.$load(self.0.as_ptr().add(index)) }
            }

            #[inline(always)]
            unsafe fn load_partial<S: Simd>(self, simd: S, index: usize, count: usize) -> S::F {
                let mut lanes = [<$element>::ZERO; LANES];
                lanes[..count].copy_from_slice(&self.0[index..index + count]);
                // SAFETY: `lanes` holds sixteen values.
                unsafe { simd.$load(lanes.as_ptr()) }
            }

            #[inline(always)]
            fn prefetch(self, index: usize) {
                prefetch(self.0.as_ptr().wrapping_add(index));
            }
        }
    };
}

half_source!(F16Source, f16, load_f16);
half_source!(Bf16Source, bf16, load_bf16);

/// [`Nf4View`] with its tables at hand.
#[derive(Clone, Copy)]
pub struct Nf4Source<'a> {
    packed: &'a [u8],
    absmax: AbsMax<'a>,
    map: &'a [f32; 256],
}

impl<'a> Nf4Source<'a> {
    pub fn new(view: &Nf4View<'a>) -> Self {
        Self { packed: view.packed, absmax: view.absmax, map: dynamic_map() }
    }

    #[inline(always)]
    fn scale(self, block: usize) -> f32 {
        match self.absmax {
            AbsMax::Plain(scales) => scales[block],
            AbsMax::Nested { codes, scales, offset } => {
                self.map[codes[block] as usize] * scales[block / NESTED_BLOCK] + offset
            }
        }
    }

    #[inline(always)]
    fn element(self, index: usize) -> f32 {
        let byte = self.packed[index / 2];
        let code = if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        crate::nf4::CODE[code as usize] * self.scale(index / BLOCK)
    }

    /// The codes of sixteen elements from `index` on, an even one.
    ///
    /// # Safety
    /// `index + 16` is within the matrix, whose buffers have the lengths of its shape.
    #[inline(always)]
    unsafe fn codes(self, index: usize) -> [u8; 8] {
        // SAFETY: the last of the eight bytes holds element `index + 15`.
        unsafe { self.packed.as_ptr().add(index / 2).cast::<[u8; 8]>().read_unaligned() }
    }

    /// Sixteen elements from `index` on, an even one.
    ///
    /// # Safety
    /// As [`Nf4Source::codes`].
    #[inline(always)]
    unsafe fn sixteen<S: Simd>(self, simd: S, index: usize, memo: &mut Nf4Memo) -> S::F {
        // SAFETY: handed on to the caller.
        let codes = unsafe { self.codes(index) };
        let (block, place) = (index / BLOCK, index % BLOCK);
        if block != memo.block {
            *memo = Nf4Memo { block, scale: self.scale(block) };
        }
        if place <= BLOCK - LANES {
            return simd.load_nf4(codes, memo.scale);
        }
        let before = memo.scale;
        *memo = Nf4Memo { block: block + 1, scale: self.scale(block + 1) };
        let last = simd.splat((BLOCK - place) as f32 - 0.5);
        let scales = simd.select_gt(simd.of_array(PLACES), last, simd.splat(memo.scale), simd.splat(before));
        // A code times one is itself, so each element is rounded once, as elsewhere.
        simd.mul(simd.load_nf4(codes, 1.0), scales)
    }

    #[inline(always)]
    fn gather<S: Simd>(self, simd: S, index: usize, count: usize) -> S::F {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            *lane = self.element(index + i);
        }
        simd.of_array(lanes)
    }
}

/// The scale of a block.
#[derive(Clone, Copy)]
pub struct Nf4Memo {
    block: usize,
    scale: f32,
}

/// The number of each lane.
const PLACES: [f32; LANES] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

impl Source for Nf4Source<'_> {
    type Memo = Nf4Memo;

    #[inline(always)]
    fn memo(self) -> Nf4Memo {
        Nf4Memo { block: usize::MAX, scale: 0.0 }
    }

    #[inline(always)]
    unsafe fn load_next<S: Simd>(self, simd: S, index: usize, memo: &mut Nf4Memo) -> S::F {
        if index.is_multiple_of(2) {
            // SAFETY: handed on to the caller; `pack_right` checked the buffers.
            unsafe { self.sixteen(simd, index, memo) }
        } else if index / LANES * LANES + 2 * LANES <= 2 * self.packed.len() {
            // SAFETY: both sixteens were just seen to be inside.
            across(simd, index, |first| unsafe { self.sixteen(simd, first, memo) })
        } else {
            self.gather(simd, index, LANES)
        }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(self, simd: S, index: usize) -> S::F {
        // SAFETY: handed on to the caller.
        unsafe { self.load_next(simd, index, &mut self.memo()) }
    }

    #[inline(always)]
    unsafe fn load_partial<S: Simd>(self, simd: S, index: usize, count: usize) -> S::F {
        self.gather(simd, index, count)
    }

    #[inline(always)]
    fn prefetch(self, index: usize) {
        prefetch(self.packed.as_ptr().wrapping_add(index / 2));
    }
}

/// Sixteen values that begin inside one aligned sixteen and end in the next.
#[inline(always)]
fn across<S: Simd>(simd: S, index: usize, mut sixteen: impl FnMut(usize) -> S::F) -> S::F {
    let first = index / LANES * LANES;
    let mut lanes = [0.0; 2 * LANES];
    // SAFETY: `lanes` holds thirty-two values, and `index - first` is below sixteen.
    unsafe {
        simd.store(lanes.as_mut_ptr(), sixteen(first));
        simd.store(lanes.as_mut_ptr().add(LANES), sixteen(first + LANES));
        simd.load(lanes.as_ptr().add(index - first))
    }
}

/// [`BlockView`], whose elements are whole blocks of 32.
#[derive(Clone, Copy)]
pub struct BlockSource<'a>(pub BlockView<'a>);

impl Source for BlockSource<'_> {
    type Memo = ();

    fn memo(self) {}

    #[inline(always)]
    unsafe fn load<S: Simd>(self, simd: S, index: usize) -> S::F {
        if index.is_multiple_of(LANES) {
            self.0.sixteen(simd, index)
        } else {
            across(simd, index, |first| self.0.sixteen(simd, first))
        }
    }

    #[inline(always)]
    unsafe fn load_partial<S: Simd>(self, simd: S, index: usize, count: usize) -> S::F {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            let at = index + i;
            *lane = simd.to_array(self.0.sixteen(simd, at / LANES * LANES))[at % LANES];
        }
        simd.of_array(lanes)
    }

    #[inline(always)]
    fn prefetch(self, index: usize) {
        prefetch(self.0.bytes.as_ptr().wrapping_add(index / 32 * self.0.kind.bytes()));
    }
}

/// Which part of a right operand to pack: columns `column..column + columns` and steps `step..step + depth`.
#[derive(Clone, Copy)]
pub struct Part {
    pub step: usize,
    pub depth: usize,
    pub column: usize,
    pub columns: usize,
}

/// The right operand of a product, by how it is stored.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    /// Element `(step, column)` is `w[column · stride + step]`.
    Transposed { weight: Weight<'a>, stride: usize },
    /// Element `(step, column)` is `w[step · stride + column]`.
    Straight { weight: Weight<'a>, stride: usize },
}

/// Packs a part of `right` into panels of at most `vectors` vectors, one after the other.
///
/// # Panics
/// If the part is outside the operand or `to` is too short.
pub fn pack_right(backend: Backend, right: Right<'_>, part: Part, vectors: usize, to: &mut [f32]) {
    assert!(to.len() >= part.depth * part.columns.next_multiple_of(LANES), "the panels must fit");
    let (Right::Transposed { weight, stride } | Right::Straight { weight, stride }) = right;
    let last = match right {
        Right::Transposed { .. } => (part.column + part.columns - 1) * stride + part.step + part.depth,
        Right::Straight { .. } => (part.step + part.depth - 1) * stride + part.column + part.columns,
    };
    assert!(last <= weight.len(), "the part must be inside the operand");
    macro_rules! by_source {
        ($source:expr, $transposed:ident, $straight:ident) => {
            match right {
                Right::Transposed { .. } => $transposed(backend, $source, stride, part, vectors, to),
                Right::Straight { .. } => $straight(backend, $source, stride, part, vectors, to),
            }
        };
    }
    match weight {
        Weight::F32(data) => by_source!(Raw(data.as_ptr()), transposed_f32, straight_f32),
        Weight::F16(data) => by_source!(F16Source(data), transposed_f16, straight_f16),
        Weight::Bf16(data) => by_source!(Bf16Source(data), transposed_bf16, straight_bf16),
        Weight::Nf4(view) => {
            assert!(view.is_consistent(), "the NF4 buffers must have the lengths of their shape");
            by_source!(Nf4Source::new(&view), transposed_nf4, straight_nf4)
        }
        Weight::Blocks(view) => by_source!(BlockSource(view), transposed_blocks, straight_blocks),
    }
}

/// A pointer that may cross into a task.
#[derive(Clone, Copy)]
pub struct Raw(pub *const f32);

// SAFETY: only read through, for as long as the borrow that made it lives.
unsafe impl Sync for Raw {}

impl Source for Raw {
    type Memo = ();

    fn memo(self) {}

    #[inline(always)]
    unsafe fn load<S: Simd>(self, simd: S, index: usize) -> S::F {
        // SAFETY: handed on to the caller.
        unsafe { simd.load(self.0.add(index)) }
    }

    #[inline(always)]
    unsafe fn load_partial<S: Simd>(self, simd: S, index: usize, count: usize) -> S::F {
        // SAFETY: handed on to the caller.
        unsafe { simd.load_partial(self.0.add(index), count) }
    }

    #[inline(always)]
    fn prefetch(self, index: usize) {
        prefetch(self.0.wrapping_add(index));
    }
}

macro_rules! packers {
    ($transposed:ident, $straight:ident, $source:ty) => {
        kernel! {
            fn $transposed(simd, from: $source, stride: usize, part: Part, vectors: usize, to: &mut [f32]) {
                transposed(simd, from, stride, part, vectors, to);
            }
        }
        kernel! {
            fn $straight(simd, from: $source, stride: usize, part: Part, vectors: usize, to: &mut [f32]) {
                straight(simd, from, stride, part, vectors, to);
            }
        }
    };
}

packers!(transposed_f32, straight_f32, Raw);
packers!(transposed_f16, straight_f16, F16Source<'_>);
packers!(transposed_bf16, straight_bf16, Bf16Source<'_>);
packers!(transposed_nf4, straight_nf4, Nf4Source<'_>);
packers!(transposed_blocks, straight_blocks, BlockSource<'_>);

#[inline(always)]
fn transposed<S: Simd, T: Source>(simd: S, from: T, stride: usize, part: Part, vectors: usize, to: &mut [f32]) {
    let to = to.as_mut_ptr();
    let total = part.columns.div_ceil(LANES);
    for vector in 0..total {
        let panel = vector / vectors;
        let width = vectors.min(total - panel * vectors) * LANES;
        let start = panel * vectors * LANES * part.depth + (vector % vectors) * LANES;
        let rows = LANES.min(part.columns - vector * LANES);
        let row = |r: usize| (part.column + vector * LANES + r) * stride + part.step;
        let mut memos = [from.memo(); LANES];
        for step in (0..part.depth).step_by(LANES) {
            let count = LANES.min(part.depth - step);
            let mut block = [simd.splat(0.0); LANES];
            // SAFETY: `pack_right` checked that the part is inside the operand and that the panels fit.
            unsafe {
                if count == LANES && rows == LANES {
                    for (r, (lanes, memo)) in block.iter_mut().zip(&mut memos).enumerate() {
                        // The rows of the next vector, one step of this one ahead of their use.
                        from.prefetch(row(r + LANES) + step);
                        *lanes = from.load_next(simd, row(r) + step, memo);
                    }
                } else {
                    for (r, lanes) in block.iter_mut().enumerate().take(rows) {
                        *lanes = if count == LANES {
                            from.load(simd, row(r) + step)
                        } else {
                            from.load_partial(simd, row(r) + step, count)
                        };
                    }
                }
                simd.transpose(&mut block);
                if count == LANES {
                    for (i, lanes) in block.into_iter().enumerate() {
                        simd.store(to.add(start + (step + i) * width), lanes);
                    }
                } else {
                    for (i, lanes) in block.into_iter().enumerate().take(count) {
                        simd.store(to.add(start + (step + i) * width), lanes);
                    }
                }
            }
        }
    }
}

/// Rows ahead that [`straight`] asks for.
const PREFETCH_ROWS: usize = 6;

#[inline(always)]
fn straight<S: Simd, T: Source>(simd: S, from: T, stride: usize, part: Part, vectors: usize, to: &mut [f32]) {
    let to = to.as_mut_ptr();
    let total = part.columns.div_ceil(LANES);
    for panel in 0..total.div_ceil(vectors) {
        let first = panel * vectors;
        let here = vectors.min(total - first);
        let start = first * LANES * part.depth;
        for step in 0..part.depth {
            let mut memo = from.memo();
            for vector in 0..here {
                let at = (part.step + step) * stride + part.column + (first + vector) * LANES;
                let count = part.columns - (first + vector) * LANES;
                from.prefetch(at + PREFETCH_ROWS * stride);
                // SAFETY: `pack_right` checked that the part is inside the operand and that the panels fit.
                unsafe {
                    let lanes = if count >= LANES {
                        from.load_next(simd, at, &mut memo)
                    } else {
                        from.load_partial(simd, at, count)
                    };
                    simd.store(to.add(start + (step * here + vector) * LANES), lanes);
                }
            }
        }
    }
}

/// The left operand of a product, by how it is stored.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Element `(row, step)` is `x[row · stride + step]`.
    Straight { x: &'a [f32], stride: usize },
    /// Element `(row, step)` is `x[step · stride + row]`.
    Transposed { x: &'a [f32], stride: usize },
}

/// A rectangle of a left operand: rows `row..row + rows`, steps `step..step + depth`, packed as `[depth][group]`.
#[derive(Clone, Copy)]
pub struct Group {
    pub row: usize,
    pub rows: usize,
    pub step: usize,
    pub depth: usize,
    /// Rows that are packed together; `rows` or more.
    pub group: usize,
}

/// Packs a rectangle of `left`.
///
/// # Panics
/// If it is outside the operand, or `to` has fewer than `depth · group + 16` elements.
pub fn pack_left(backend: Backend, left: Left<'_>, part: Group, to: &mut [f32]) {
    let Group { row, rows, step, depth, group } = part;
    assert!(rows <= group && group <= LANES && to.len() >= depth * group + LANES, "the group must fit");
    match left {
        Left::Straight { x, stride } => {
            assert!((row + rows - 1) * stride + step + depth <= x.len(), "the part must be inside the operand");
            left_straight(backend, Raw(x.as_ptr()), stride, part, to);
        }
        Left::Transposed { x, stride } => {
            assert!((step + depth - 1) * stride + row + rows <= x.len(), "the part must be inside the operand");
            left_transposed(backend, Raw(x.as_ptr()), stride, part, to);
        }
    }
}

// Both store whole vectors in ascending order: what one writes beyond its group is overwritten by the next, or is in
// the sixteen spare elements at the end.

kernel! {
    fn left_straight(simd, from: Raw, stride: usize, part: Group, to: &mut [f32]) {
        let Group { row, rows, step: first, depth, group } = part;
        let to = to.as_mut_ptr();
        for step in (0..depth).step_by(LANES) {
            let count = LANES.min(depth - step);
            let at = row * stride + first + step;
            let mut block = [simd.splat(0.0); LANES];
            // SAFETY: `pack_left` checked both rectangles.
            unsafe {
                if count == LANES {
                    for (r, lanes) in block.iter_mut().enumerate().take(rows) {
                        *lanes = from.load(simd, at + r * stride);
                    }
                } else {
                    for (r, lanes) in block.iter_mut().enumerate().take(rows) {
                        *lanes = from.load_partial(simd, at + r * stride, count);
                    }
                }
                simd.transpose(&mut block);
                for (i, lanes) in block.into_iter().enumerate().take(count) {
                    simd.store(to.add((step + i) * group), lanes);
                }
            }
        }
    }
}

kernel! {
    fn left_transposed(simd, from: Raw, stride: usize, part: Group, to: &mut [f32]) {
        let Group { row, rows, step: first, depth, group } = part;
        let to = to.as_mut_ptr();
        for step in 0..depth {
            let at = (first + step) * stride + row;
            // SAFETY: `pack_left` checked both rectangles.
            unsafe {
                let lanes =
                    if rows == LANES { from.load(simd, at) } else { from.load_partial(simd, at, rows) };
                simd.store(to.add(step * group), lanes);
            }
        }
    }
}
