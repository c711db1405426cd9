//! Backward pass: scores are computed again from the kept log-sum-exp.
//!
//! A task owns one segment and one query head. Gradients of keys and values go to buffers of the query head, which a
//! last step adds over the heads of a group, in their order.

use rayon::prelude::*;

use super::panels::{Layout, Panels, Strided, Target, pack_straight, pack_transposed, packed_len};
use super::{AttentionShape, KEYS, cap};
use crate::matmul::Tiles;
use crate::scratch::{Scratch, Shared};
use crate::simd::math::exp;
use crate::simd::{LANES, kernel};
use crate::{Backend, parallel};

/// What the forward pass read and wrote, and the gradient of its output.
pub struct Operands<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub out: &'a [f32],
    pub lse: &'a [f32],
    pub dout: &'a [f32],
}

pub fn run(
    operands: &Operands<'_>,
    segments: &[u32],
    shape: &AttentionShape,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let backend = Backend::current();
    let tiles = Tiles::of(backend);
    let group = shape.heads / shape.kv_heads;
    let layout = Layout::new(segments, shape, 2, 1);
    let mut packed = Scratch::take(layout.len);
    pack_blocks(backend, operands, shape, &layout, packed.as_mut_slice());
    let packed = packed.as_slice();

    let len = operands.q.len();
    let mut per_head = (group > 1).then(|| (Scratch::take(len), Scratch::take(len)));
    let (keys, values) = match &mut per_head {
        Some((keys, values)) => (Shared::new(keys.as_mut_slice()), Shared::new(values.as_mut_slice())),
        None => (Shared::new(dk), Shared::new(dv)),
    };
    let dq = Shared::new(dq);
    let count = segments.len() - 1;
    (0..count * shape.heads).into_par_iter().with_max_len(1).for_each(|index| {
        let (segment, head) = (index / shape.heads, index % shape.heads);
        let rows = segments[segment] as usize..segments[segment + 1] as usize;
        let task = Task { operands, shape, backend, tiles, layout: &layout, packed, segment, head, rows };
        // SAFETY: no other task has this head of these rows.
        unsafe { task.run(dq.get(), keys.get(), values.get()) };
    });
    if let Some((keys, values)) = &per_head {
        add_group(keys.as_slice(), shape, dk);
        add_group(values.as_slice(), shape, dv);
    }
}

/// `to[t, kv_head] = Σ from[t, head]` over the heads of each group, in their order.
fn add_group(from: &[f32], shape: &AttentionShape, to: &mut [f32]) {
    let (d, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let to = Shared::new(to);
    parallel::rows(from.len() / (group * d), group * d, |rows| {
        for row in rows {
            // SAFETY: `to` has `head_dim` elements per group of heads, and no other task has this one.
            let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(row * d), d) };
            let from = &from[row * group * d..(row + 1) * group * d];
            to.copy_from_slice(&from[..d]);
            for head in from[d..].chunks_exact(d) {
                for (to, from) in to.iter_mut().zip(head) {
                    *to += from;
                }
            }
        }
    });
}

/// Keys and values transposed, keys straight, of every block and head.
fn pack_blocks(backend: Backend, operands: &Operands<'_>, shape: &AttentionShape, layout: &Layout, packed: &mut [f32]) {
    let (d, width) = (shape.head_dim, shape.key_width());
    let shared = Shared::new(packed);
    (0..layout.blocks.len() * shape.kv_heads).into_par_iter().with_min_len(4).for_each(|index| {
        let block = &layout.blocks[index / shape.kv_heads];
        let kv_head = index % shape.kv_heads;
        let range = layout.range(block, kv_head);
        // SAFETY: ranges of different blocks and heads are disjoint and inside the buffer.
        let to = unsafe { std::slice::from_raw_parts_mut(shared.get().add(range.start), range.len()) };
        let len = packed_len(d, block.rows);
        let (keys, rest) = to.split_at_mut(len);
        let (values, straight) = rest.split_at_mut(len);
        let rows = block.first..block.first + block.rows;
        pack_transposed(backend, operands.k, width, kv_head, rows.clone(), d, keys);
        pack_transposed(backend, operands.v, width, kv_head, rows.clone(), d, values);
        pack_straight(backend, operands.k, width, kv_head, rows, d, straight);
    });
}

struct Task<'a> {
    operands: &'a Operands<'a>,
    shape: &'a AttentionShape,
    backend: Backend,
    tiles: &'a Tiles,
    layout: &'a Layout,
    packed: &'a [f32],
    segment: usize,
    head: usize,
    rows: std::ops::Range<usize>,
}

impl Task<'_> {
    /// # Safety
    /// `dq` is `[t, heads · head_dim]`; `dk` and `dv` too, or `[t, kv_heads · head_dim]` where every head has its own
    /// keys; nobody else touches this head of these rows.
    unsafe fn run(&self, dq: *mut f32, dk: *mut f32, dv: *mut f32) {
        let Self { operands, shape, backend, tiles, head, .. } = *self;
        let (d, width) = (shape.head_dim, shape.query_width());
        let window = shape.window.unwrap_or(usize::MAX);
        let len = self.rows.len();
        let mut queries = Scratch::take(2 * packed_len(KEYS, d));
        let mut scratch = Scratch::take(KEYS * (2 * KEYS + 1));
        let (p, rest) = scratch.as_mut_slice().split_at_mut(KEYS * KEYS);
        let (ds, deltas) = rest.split_at_mut(KEYS * KEYS);
        let mut bent = [0.0; KEYS];
        for first in (0..len).step_by(KEYS) {
            let here = KEYS.min(len - first);
            let batch = self.rows.start + first..self.rows.start + first + here;
            let at = batch.start * width + head * d;
            let (q_to, dout_to) = queries.as_mut_slice().split_at_mut(packed_len(KEYS, d));
            let q_panels = pack_straight(backend, operands.q, width, head, batch.clone(), d, q_to);
            let dout_panels = pack_straight(backend, operands.dout, width, head, batch.clone(), d, dout_to);
            for (row, delta) in deltas.iter_mut().enumerate().take(here) {
                let range = at + row * width..at + row * width + d;
                *delta = dot(backend, &operands.dout[range.clone()], &operands.out[range]);
            }
            let q = Strided { at: operands.q[at..].as_ptr(), row: width, step: 1 };
            let dout = Strided { at: operands.dout[at..].as_ptr(), row: width, step: 1 };
            let lowest = (first + 1).saturating_sub(window) / KEYS;
            for index in lowest..=first / KEYS {
                let start = index * KEYS;
                let (keys, values, straight) = self.block(index);
                let columns = keys.columns;
                self.scores(q, &keys, here, start, first, shape.scale, p);
                self.scores(dout, &values, here, start, first, 1.0, ds);
                for (row, delta) in deltas.iter().enumerate().take(here) {
                    let seen = first + row + 1;
                    let visible =
                        seen.saturating_sub(window).saturating_sub(start).min(columns)..(seen - start).min(columns);
                    let lse = operands.lse[(batch.start + row) * shape.heads + head];
                    let range = row * KEYS..row * KEYS + columns.next_multiple_of(LANES);
                    let (p, ds) = (&mut p[range.clone()], &mut ds[range]);
                    if let Some(cap) = shape.soft_cap {
                        cap::bend_with_slopes(backend, p, cap, &mut bent[..p.len()]);
                    }
                    mask(p, f32::NEG_INFINITY, &visible);
                    mask(ds, 0.0, &visible);
                    slopes(backend, p, ds, lse, *delta, shape.scale);
                    if shape.soft_cap.is_some() {
                        cap::multiply(backend, ds, &bent[..ds.len()]);
                    }
                }
                let on_diagonal = start == first;
                // SAFETY: the caller vouches for the rows of the three gradients.
                unsafe {
                    let to = Target { at: dq.add(at), row: width, scale: 1.0, fresh: index == lowest };
                    let left = Strided { at: ds.as_ptr(), row: KEYS, step: 1 };
                    straight.multiply(tiles, left, here, 0..columns, d, to);
                    let key_at = (self.rows.start + start) * width + head * d;
                    let to = Target { at: dv.add(key_at), row: width, scale: 1.0, fresh: on_diagonal };
                    self.key_gradient(p, &dout_panels, columns, here, on_diagonal, to);
                    let to = Target { at: dk.add(key_at), ..to };
                    self.key_gradient(ds, &q_panels, columns, here, on_diagonal, to);
                }
            }
        }
    }

    fn block(&self, index: usize) -> (Panels<'_>, Panels<'_>, Panels<'_>) {
        let layout = self.layout;
        let block = &layout.blocks[layout.first_block[self.segment] + index];
        let kv_head = self.head / (self.shape.heads / self.shape.kv_heads);
        let data = &self.packed[layout.range(block, kv_head)];
        (
            layout.transposed(data, self.tiles, block, 0),
            layout.transposed(data, self.tiles, block, 1),
            layout.straight(data, self.tiles, block, 0),
        )
    }

    /// `to[rows, keys] = scale · left · panels`; on the diagonal only as far as each tile of rows can see.
    #[expect(clippy::too_many_arguments, reason = "a product and its place on the diagonal")]
    fn scores(
        &self,
        left: Strided,
        panels: &Panels<'_>,
        rows: usize,
        start: usize,
        first: usize,
        scale: f32,
        to: &mut [f32],
    ) {
        let high = self.tiles.rows_by_vectors[panels.vectors - 1];
        for from in (0..rows).step_by(high) {
            let here = high.min(rows - from);
            let columns = (first + from + here - start).min(panels.columns);
            // SAFETY: `left` has `rows` rows of a head; `to` has `rows` rows of a block.
            unsafe {
                let left = Strided { at: left.at.add(from * left.row), ..left };
                let to = Target { at: to[from * KEYS..].as_mut_ptr(), row: KEYS, scale, fresh: true };
                panels.multiply(self.tiles, left, here, 0..self.shape.head_dim, columns, to);
            }
        }
    }

    /// `to[keys, d] += weightsᵀ · panels`, skipping the rows that come before a tile of keys.
    ///
    /// # Safety
    /// `to` is writable for `keys` rows of a head.
    unsafe fn key_gradient(
        &self,
        weights: &[f32],
        panels: &Panels<'_>,
        keys: usize,
        rows: usize,
        on_diagonal: bool,
        to: Target,
    ) {
        let high = self.tiles.rows_by_vectors[panels.vectors - 1];
        for from in (0..keys).step_by(high) {
            let here = high.min(keys - from);
            let first = if on_diagonal { from } else { 0 };
            // SAFETY: the weights have `rows` rows of a block; the caller vouches for `to`.
            unsafe {
                let left = Strided { at: weights[from..].as_ptr(), row: 1, step: KEYS };
                let to = Target { at: to.at.add(from * to.row), ..to };
                panels.multiply(self.tiles, left, here, first..rows, self.shape.head_dim, to);
            }
        }
    }
}

fn mask(row: &mut [f32], value: f32, visible: &std::ops::Range<usize>) {
    row[..visible.start].fill(value);
    row[visible.end..].fill(value);
}

kernel! {
    fn dot(simd, a: &[f32], b: &[f32]) -> f32 {
        let mut sum = simd.splat(0.0);
        for at in (0..a.len()).step_by(LANES) {
            sum = simd.fma(simd.get(a, at), simd.get(b, at), sum);
        }
        simd.reduce_add(sum)
    }
}

kernel! {
    /// Scores to probabilities in `p`, gradients of probabilities to gradients of scores in `ds`.
    fn slopes(simd, p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32, scale: f32) {
        let (lse, delta, scale) = (simd.splat(-lse), simd.splat(delta), simd.splat(scale));
        for at in (0..p.len()).step_by(LANES) {
            let probability = exp(simd, simd.add(simd.get(p, at), lse));
            let slope = simd.mul(probability, simd.sub(simd.get(ds, at), delta));
            simd.put(p, at, probability);
            simd.put(ds, at, simd.mul(slope, scale));
        }
    }
}
