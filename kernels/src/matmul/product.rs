//! How a product is cut into tiles and shared among threads.
//!
//! ```text
//! rows of x ──pack_left──▶ groups, shared by all tasks
//! columns of w ──pack_right──▶ panels of one task ──tiles──▶ out
//! ```
//! A task owns a rectangle of the output and walks `k` in blocks, in ascending order; so an element's bits depend on
//! its row of the left operand, its column of the right one, and `k`.

use rayon::prelude::*;

use super::pack::{Group, Left, Part, Right, pack_left, pack_right};
use super::tile::{TileCall, Tiles};
use crate::Backend;
use crate::scratch::{Scratch, Shared};
use crate::simd::LANES;

/// The longest block of `k`: a group of rows times this fits the first-level cache.
const LONGEST_BLOCK: usize = 384;
/// Elements of the packed left operand at most; blocks of `k` beyond are done in a later pass.
const LEFT_LIMIT: usize = 1 << 21;
/// Rows of the packed left operand at most.
const MOST_ROWS: usize = 2048;
/// Columns of one task at most: a block of them fits the second-level cache.
const WIDEST: usize = 192;
/// Rows of one task of a narrow product: a multiple of every tile's.
const ROWS_EACH: usize = 24;
/// Multiply-adds below which a second thread costs more than it gives.
const WORTH_SHARING: usize = 1 << 17;

/// `out[m, n] (+)= scale · left[m, k] · right[k, n]`.
pub struct Product<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub left: Left<'a>,
    pub right: Right<'a>,
    pub scale: f32,
    pub accumulate: bool,
}

/// The blocks that `k` is walked in: equal but for the last, and a function of `k` alone. Part of the numeric law.
pub fn block_length(k: usize) -> usize {
    k.div_ceil(k.div_ceil(LONGEST_BLOCK).max(1)).max(1)
}

impl Product<'_> {
    pub fn run(&self, out: &mut [f32]) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        if self.k == 0 {
            if !self.accumulate {
                out.fill(0.0);
            }
            return;
        }
        let backend = Backend::current();
        let tiles = Tiles::of(backend);
        if self.n <= tiles.vectors * LANES {
            return self.narrow(backend, tiles, out);
        }
        let group = tiles.rows * (LANES / tiles.rows);
        let block = block_length(self.k);
        let blocks = self.k.div_ceil(block);
        for first in (0..self.m).step_by(MOST_ROWS) {
            let rows = MOST_ROWS.min(self.m - first);
            let blocks_at_once = (LEFT_LIMIT / (rows.next_multiple_of(group) * block)).max(1);
            for from in (0..blocks).step_by(blocks_at_once) {
                let to = blocks.min(from + blocks_at_once);
                Pass { product: self, backend, tiles, group, block, first, rows, blocks: from..to }.run(out);
            }
        }
    }
    /// All columns fit one panel: each element of the left operand is used once, so packing it would only cost.
    fn narrow(&self, backend: Backend, tiles: &Tiles, out: &mut [f32]) {
        let Self { m, n, k, left, right, scale, accumulate } = *self;
        let block = block_length(k);
        let vectors = n.div_ceil(LANES);
        let mut panel = Scratch::take(k * vectors * LANES);
        for (number, to) in panel.as_mut_slice().chunks_mut(block * vectors * LANES).enumerate() {
            let step = number * block;
            pack_right(backend, right, Part { step, depth: block.min(k - step), column: 0, columns: n }, vectors, to);
        }
        let panel = panel.as_slice();
        let (x, a_row, a_step) = match left {
            Left::Straight { x, stride } => (x, stride, 1),
            Left::Transposed { x, stride } => (x, 1, stride),
        };
        assert!((m - 1) * a_row + (k - 1) * a_step < x.len(), "the left operand must be [{m}, {k}]");
        let high = tiles.rows_by_vectors[vectors - 1];
        let task = |(index, out): (usize, &mut [f32])| {
            for (number, b) in panel.chunks(block * vectors * LANES).enumerate() {
                let step = number * block;
                for (row, out) in out.chunks_mut(high * n).enumerate() {
                    let call = TileCall {
                        depth: block.min(k - step),
                        a: x[(index * ROWS_EACH + row * high) * a_row + step * a_step..].as_ptr(),
                        a_row,
                        a_step,
                        b: b.as_ptr(),
                        b_step: vectors * LANES,
                        c: out.as_mut_ptr(),
                        c_row: n,
                        width: n,
                        scale,
                        fresh: number == 0 && !accumulate,
                    };
                    // SAFETY: the left operand was checked to be `[m, k]`; the panel holds `depth` steps; `out` holds
                    // these rows.
                    unsafe { tiles.run(out.len() / n, vectors, &call) };
                }
            }
        };
        if m * n * k < WORTH_SHARING {
            out.chunks_mut(ROWS_EACH * n).enumerate().for_each(task);
        } else {
            out.par_chunks_mut(ROWS_EACH * n).enumerate().for_each(task);
        }
    }
}

/// Some rows of the output and some blocks of `k`.
struct Pass<'a> {
    product: &'a Product<'a>,
    backend: Backend,
    tiles: &'a Tiles,
    /// Rows that are packed together.
    group: usize,
    block: usize,
    first: usize,
    rows: usize,
    blocks: std::ops::Range<usize>,
}

impl Pass<'_> {
    fn run(&self, out: &mut [f32]) {
        let Self { product, backend, group, block, first, rows, .. } = *self;
        let Product { n, k, left, .. } = *product;
        let groups = rows.div_ceil(group);
        let blocks = self.blocks.len();
        let threads = rayon::current_num_threads();
        let serial = threads == 1 || rows * n * block * blocks < WORTH_SHARING;

        // Each block of a group is followed by sixteen spare elements.
        let pitch = (block * group + LANES).next_multiple_of(LANES);
        let mut packed = Scratch::take(groups * blocks * pitch);
        let pack_group = |(index, to): (usize, &mut [f32])| {
            let here = group.min(rows - index * group);
            for (number, to) in self.blocks.clone().zip(to.chunks_exact_mut(pitch)) {
                let step = number * block;
                let depth = block.min(k - step);
                let part = Group { row: first + index * group, rows: here, step, depth, group };
                pack_left(backend, left, part, to);
            }
        };
        let packing = packed.as_mut_slice();
        if serial || groups < 4 {
            packing.chunks_exact_mut(blocks * pitch).enumerate().for_each(pack_group);
        } else {
            packing.par_chunks_exact_mut(blocks * pitch).enumerate().for_each(pack_group);
        }

        let panel = self.tiles.vectors * LANES;
        let (columns, row_parts) = if serial { (WIDEST / panel * panel, 1) } else { cut(n, groups, panel, threads) };
        let across = n.div_ceil(columns);
        let groups_each = groups.div_ceil(row_parts);
        let packed = packed.as_slice();
        let shared = Shared::new(out);
        let task = |index: usize| {
            let column = index % across * columns;
            let from = index / across * groups_each;
            let to = groups.min(from + groups_each);
            if from < to {
                let task = Task { pass: self, pitch, packed };
                // SAFETY: tasks own disjoint rectangles of the output, which `matmul` checked to be `[m, n]`.
                unsafe { task.run(from..to, column, columns.min(n - column), shared.get()) };
            }
        };
        if serial {
            (0..across * row_parts).for_each(task);
        } else {
            (0..across * row_parts).into_par_iter().with_max_len(1).for_each(task);
        }
    }
}

/// Columns of a task and parts that the rows are cut into: enough tasks to keep the threads level, few enough that a
/// task reads whole stretches of the right operand.
fn cut(n: usize, groups: usize, panel: usize, threads: usize) -> (usize, usize) {
    let widest = WIDEST / panel;
    let columns = n.div_ceil(panel).div_ceil(2 * threads).clamp(1, widest) * panel;
    let across = n.div_ceil(columns);
    (columns, (2 * threads).div_ceil(across).min(groups).max(1))
}

struct Task<'a> {
    pass: &'a Pass<'a>,
    pitch: usize,
    packed: &'a [f32],
}

impl Task<'_> {
    /// # Safety
    /// `out` is `[m, n]`, and nobody else touches these rows and columns of it.
    unsafe fn run(&self, groups: std::ops::Range<usize>, column: usize, columns: usize, out: *mut f32) {
        let Pass { product, backend, tiles, group, block, first, rows, .. } = *self.pass;
        let Product { n, k, right, scale, accumulate, .. } = *product;
        let vectors = columns.div_ceil(LANES);
        let mut panels = Scratch::take(vectors * LANES * block);
        for (place, number) in self.pass.blocks.clone().enumerate() {
            let step = number * block;
            let depth = block.min(k - step);
            pack_right(backend, right, Part { step, depth, column, columns }, tiles.vectors, panels.as_mut_slice());
            let panels = panels.as_slice();
            for index in groups.clone() {
                let left = &self.packed[(index * self.pass.blocks.len() + place) * self.pitch..][..self.pitch];
                let here = group.min(rows - index * group);
                for vector in (0..vectors).step_by(tiles.vectors) {
                    let across = tiles.vectors.min(vectors - vector);
                    for row in (0..here).step_by(tiles.rows) {
                        let at = (first + index * group + row) * n + column + vector * LANES;
                        let call = TileCall {
                            depth,
                            a: left[row..].as_ptr(),
                            a_row: 1,
                            a_step: group,
                            b: panels[vector * LANES * depth..].as_ptr(),
                            b_step: across * LANES,
                            // SAFETY: the element is inside `out`.
                            c: unsafe { out.add(at) },
                            c_row: n,
                            width: (across * LANES).min(columns - vector * LANES),
                            scale,
                            fresh: number == 0 && !accumulate,
                        };
                        // SAFETY: the group and the panels hold `depth` steps; the rectangle is inside `out`.
                        unsafe { tiles.run(tiles.rows.min(here - row), across, &call) };
                    }
                }
            }
        }
    }
}
