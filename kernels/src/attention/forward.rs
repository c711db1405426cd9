//! Forward pass and decoding.

use rayon::prelude::*;

use super::panels::{Layout, Panels, Strided, Target, pack_straight, pack_transposed, packed_len};
use super::{AttentionShape, CacheView, KEYS, cap};
use crate::Backend;
use crate::matmul::Tiles;
use crate::scratch::{Scratch, Shared};
use crate::simd::math::{exp, ln};
use crate::simd::{LANES, kernel};

/// Query rows of one task.
const QUERIES: usize = 96;

pub fn run(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &[u32],
    shape: &AttentionShape,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let backend = Backend::current();
    let tiles = Tiles::of(backend);
    let (d, width) = (shape.head_dim, shape.query_width());
    let layout = Layout::new(segments, shape, 1, 1);
    let mut packed = Scratch::take(layout.len);
    pack_blocks(backend, k, v, shape, &layout, packed.as_mut_slice());
    let packed = packed.as_slice();

    let mut tasks = Vec::new();
    for (segment, pair) in segments.windows(2).enumerate() {
        for first in (pair[0] as usize..pair[1] as usize).step_by(QUERIES) {
            tasks.push((segment, first, QUERIES.min(pair[1] as usize - first)));
        }
    }
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    (0..tasks.len() * shape.heads).into_par_iter().for_each(|index| {
        let (segment, first, rows) = tasks[index / shape.heads];
        let head = index % shape.heads;
        let kv_head = head / (shape.heads / shape.kv_heads);
        let start = segments[segment] as usize;
        let at = first * width + head * d;
        let queries = Queries {
            q: Strided { at: q[at..].as_ptr(), row: width, step: 1 },
            // SAFETY: the element is inside `out`.
            out: unsafe { out.get().add(at) },
            out_row: width,
            rows,
            seen: first - start + 1,
            seen_step: 1,
        };
        let block = |index: usize| {
            let block = &layout.blocks[layout.first_block[segment] + index];
            let data = &packed[layout.range(block, kv_head)];
            (layout.transposed(data, tiles, block, 0), layout.straight(data, tiles, block, 0))
        };
        // SAFETY: the rows of this task are its own in `out` and `lse`, for this head.
        unsafe {
            queries.attend(backend, tiles, shape, block, |row, value| {
                *lse.get().add((first + row) * shape.heads + head) = value;
            })
        };
    });
}

/// Packs keys and values of every block and head.
fn pack_blocks(backend: Backend, k: &[f32], v: &[f32], shape: &AttentionShape, layout: &Layout, packed: &mut [f32]) {
    let (d, width) = (shape.head_dim, shape.key_width());
    let shared = Shared::new(packed);
    (0..layout.blocks.len() * shape.kv_heads).into_par_iter().with_min_len(4).for_each(|index| {
        let block = &layout.blocks[index / shape.kv_heads];
        let kv_head = index % shape.kv_heads;
        let range = layout.range(block, kv_head);
        // SAFETY: ranges of different blocks and heads are disjoint and inside the buffer.
        let to = unsafe { std::slice::from_raw_parts_mut(shared.get().add(range.start), range.len()) };
        let (keys, values) = to.split_at_mut(packed_len(d, block.rows));
        let rows = block.first..block.first + block.rows;
        pack_transposed(backend, k, width, kv_head, rows.clone(), d, keys);
        pack_straight(backend, v, width, kv_head, rows, d, values);
    });
}

pub fn decode(q: &[f32], caches: &[CacheView<'_>], shape: &AttentionShape, out: &mut [f32]) {
    let backend = Backend::current();
    let tiles = Tiles::of(backend);
    let (d, width) = (shape.head_dim, shape.key_width());
    let group = shape.heads / shape.kv_heads;
    let shared = Shared::new(out);
    (0..caches.len() * shape.kv_heads).into_par_iter().for_each(|index| {
        let (sequence, kv_head) = (index / shape.kv_heads, index % shape.kv_heads);
        let cache = &caches[sequence];
        let mut keys = Scratch::take(packed_len(d, KEYS));
        let mut values = Scratch::take(packed_len(KEYS, d));
        let (keys, values) = (Shared::new(keys.as_mut_slice()), Shared::new(values.as_mut_slice()));
        let at = sequence * shape.query_width() + kv_head * group * d;
        let queries = Queries {
            q: Strided { at: q[at..].as_ptr(), row: d, step: 1 },
            // SAFETY: the element is inside `out`.
            out: unsafe { shared.get().add(at) },
            out_row: d,
            rows: group,
            seen: cache.length,
            seen_step: 0,
        };
        let block = |index: usize| {
            let rows = index * KEYS..cache.length.min((index + 1) * KEYS);
            // SAFETY: both buffers hold a block, and `attend` has dropped the panels of the block before.
            let (keys, values) = unsafe {
                (
                    std::slice::from_raw_parts_mut(keys.get(), packed_len(d, KEYS)),
                    std::slice::from_raw_parts_mut(values.get(), packed_len(KEYS, d)),
                )
            };
            (
                pack_transposed(backend, cache.keys, width, kv_head, rows.clone(), d, keys),
                pack_straight(backend, cache.values, width, kv_head, rows, d, values),
            )
        };
        // SAFETY: the heads of this group are this task's own.
        unsafe { queries.attend(backend, tiles, shape, block, |_, _| ()) };
    });
}

/// Query rows that share their keys.
struct Queries {
    q: Strided,
    out: *mut f32,
    out_row: usize,
    rows: usize,
    /// Keys that row 0 sees, were there no window.
    seen: usize,
    /// How many more each next row sees.
    seen_step: usize,
}

impl Queries {
    /// # Safety
    /// `q` is readable and `out` writable for the rows; `block(i)` gives the operands of keys `64 i ..`, for all that
    /// are seen.
    unsafe fn attend<'p>(
        &self,
        backend: Backend,
        tiles: &Tiles,
        shape: &AttentionShape,
        block: impl Fn(usize) -> (Panels<'p>, Panels<'p>),
        finish: impl Fn(usize, f32),
    ) {
        let d = shape.head_dim;
        let window = shape.window.unwrap_or(usize::MAX);
        let last = |row: usize| self.seen + row * self.seen_step;
        let first = |row: usize| last(row).saturating_sub(window);
        let mut scratch = Scratch::take(self.rows * (KEYS + 2));
        let (scores, state) = scratch.as_mut_slice().split_at_mut(self.rows * KEYS);
        let (tops, sums) = state.split_at_mut(self.rows);
        tops.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        let high = tiles.rows_by_vectors[super::panels::vectors(tiles, d) - 1];
        let blocks = first(0) / KEYS..last(self.rows - 1).div_ceil(KEYS);
        for index in blocks.clone() {
            let start = index * KEYS;
            let (keys, values) = block(index);
            for from in (0..self.rows).step_by(high) {
                let rows = high.min(self.rows - from);
                let columns = last(from + rows - 1).saturating_sub(start).min(keys.columns);
                if columns == 0 {
                    continue;
                }
                let tile = &mut scores[from * KEYS..(from + rows) * KEYS];
                // SAFETY: the caller vouches for `q`; the tile has `rows` rows of a block.
                unsafe {
                    let q = Strided { at: self.q.at.add(from * self.q.row), ..self.q };
                    let to = Target { at: tile.as_mut_ptr(), row: KEYS, scale: shape.scale, fresh: true };
                    keys.multiply(tiles, q, rows, 0..d, columns, to);
                }
                for row in from..from + rows {
                    let scores = &mut tile[(row - from) * KEYS..(row - from + 1) * KEYS];
                    let visible =
                        first(row).saturating_sub(start).min(columns)..last(row).saturating_sub(start).min(columns);
                    if visible.is_empty() {
                        scores[..columns].fill(0.0);
                        if index == blocks.start {
                            // SAFETY: the caller vouches for `out`.
                            unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_row), d) }.fill(0.0);
                        }
                        continue;
                    }
                    if let Some(cap) = shape.soft_cap {
                        cap::bend(backend, &mut scores[..columns], cap);
                    }
                    let end = visible.end.next_multiple_of(LANES);
                    scores[..visible.start].fill(f32::NEG_INFINITY);
                    scores[visible.end..end].fill(f32::NEG_INFINITY);
                    let decay;
                    (tops[row], sums[row], decay) = soften(backend, &mut scores[..end], tops[row], sums[row]);
                    if end < columns {
                        scores[end..columns].fill(0.0);
                    }
                    // SAFETY: the caller vouches for `out`.
                    let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_row), d) };
                    if index == blocks.start {
                        out.fill(0.0);
                    } else {
                        multiply(backend, out, decay);
                    }
                }
                // SAFETY: as above; the rows beyond what each row sees are zero.
                unsafe {
                    let p = Strided { at: tile.as_ptr(), row: KEYS, step: 1 };
                    let at = self.out.add(from * self.out_row);
                    let to = Target { at, row: self.out_row, scale: 1.0, fresh: false };
                    values.multiply(tiles, p, rows, 0..columns, d, to);
                }
            }
        }
        for row in 0..self.rows {
            // SAFETY: the caller vouches for `out`.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.out_row), d) };
            multiply(backend, out, 1.0 / sums[row]);
            finish(row, (f64::from(tops[row]) + ln(f64::from(sums[row]))) as f32);
        }
    }
}

kernel! {
    /// Replaces scores by exponentials against the new running maximum; returns it, the new running sum, and the factor
    /// that brings earlier sums to it.
    fn soften(simd, scores: &mut [f32], top: f32, sum: f32) -> (f32, f32, f32) {
        let mut greatest = simd.splat(top);
        for at in (0..scores.len()).step_by(LANES) {
            greatest = simd.max(greatest, simd.get(scores, at));
        }
        let greatest = simd.reduce_max(greatest);
        let minus = simd.splat(-greatest);
        let mut total = simd.splat(0.0);
        for at in (0..scores.len()).step_by(LANES) {
            let p = exp(simd, simd.add(simd.get(scores, at), minus));
            total = simd.add(total, p);
            simd.put(scores, at, p);
        }
        let decay = simd.to_array(exp(simd, simd.splat(top - greatest)))[0];
        (greatest, sum.mul_add(decay, simd.reduce_add(total)), decay)
    }
}

kernel! {
    fn multiply(simd, row: &mut [f32], factor: f32) {
        let factor = simd.splat(factor);
        for at in (0..row.len()).step_by(LANES) {
            let product = simd.mul(simd.get(row, at), factor);
            simd.put(row, at, product);
        }
    }
}
