//! Key and value blocks as packed right operands, and products with them.

use super::{AttentionShape, KEYS};
use crate::matmul::{Part, Right, TileCall, Tiles, pack_right};
use crate::simd::LANES;
use crate::{Backend, Weight};

/// Vectors per panel for `columns` columns: as even as the backend's widest tile allows.
pub fn vectors(tiles: &Tiles, columns: usize) -> usize {
    let total = columns.div_ceil(LANES);
    total.div_ceil(total.div_ceil(tiles.vectors).max(1)).max(1)
}

/// A packed right operand, `[depth, columns]`.
#[derive(Clone, Copy)]
pub struct Panels<'a> {
    pub data: &'a [f32],
    pub depth: usize,
    pub columns: usize,
    pub vectors: usize,
}

/// A left operand: element `(row, step)` is at `at[row · row_stride + step · step_stride]`.
#[derive(Clone, Copy)]
pub struct Strided {
    pub at: *const f32,
    pub row: usize,
    pub step: usize,
}

/// The output rectangle of a product.
#[derive(Clone, Copy)]
pub struct Target {
    pub at: *mut f32,
    pub row: usize,
    pub scale: f32,
    pub fresh: bool,
}

impl Panels<'_> {
    /// `c[rows, columns] (+)= scale · a · self`, over steps `steps` and the first `columns` columns.
    ///
    /// # Safety
    /// `a` is readable and `c` writable for those rows, steps and columns, which are within the panels.
    #[inline]
    pub unsafe fn multiply(
        &self,
        tiles: &Tiles,
        a: Strided,
        rows: usize,
        steps: std::ops::Range<usize>,
        columns: usize,
        c: Target,
    ) {
        let all = self.columns.div_ceil(LANES);
        let wanted = columns.div_ceil(LANES);
        for vector in (0..wanted).step_by(self.vectors) {
            let pitch = self.vectors.min(all - vector);
            let across = pitch.min(wanted - vector);
            let high = tiles.rows_by_vectors[across - 1];
            for row in (0..rows).step_by(high) {
                // SAFETY: handed on to the caller.
                unsafe {
                    let call = TileCall {
                        depth: steps.len(),
                        a: a.at.add(row * a.row + steps.start * a.step),
                        a_row: a.row,
                        a_step: a.step,
                        b: self.data.as_ptr().add((vector * self.depth + steps.start * pitch) * LANES),
                        b_step: pitch * LANES,
                        c: c.at.add(row * c.row + vector * LANES),
                        c_row: c.row,
                        width: (across * LANES).min(columns - vector * LANES),
                        scale: c.scale,
                        fresh: c.fresh,
                    };
                    tiles.run(high.min(rows - row), across, &call);
                }
            }
        }
    }
}

/// Length of a packed operand.
pub fn packed_len(depth: usize, columns: usize) -> usize {
    depth * columns.next_multiple_of(LANES)
}

/// Packs `rows` rows of one head of `x[_, width]` as `[head_dim, rows]`: the operand of scores.
pub fn pack_transposed<'a>(
    backend: Backend,
    x: &[f32],
    width: usize,
    head: usize,
    rows: std::ops::Range<usize>,
    head_dim: usize,
    to: &'a mut [f32],
) -> Panels<'a> {
    let vectors = vectors(Tiles::of(backend), rows.len());
    let part = Part { step: head * head_dim, depth: head_dim, column: rows.start, columns: rows.len() };
    pack_right(backend, Right::Transposed { weight: Weight::F32(x), stride: width }, part, vectors, to);
    Panels { data: to, depth: head_dim, columns: rows.len(), vectors }
}

/// Packs `rows` rows of one head of `x[_, width]` as `[rows, head_dim]`: the operand of weighted sums.
pub fn pack_straight<'a>(
    backend: Backend,
    x: &[f32],
    width: usize,
    head: usize,
    rows: std::ops::Range<usize>,
    head_dim: usize,
    to: &'a mut [f32],
) -> Panels<'a> {
    let vectors = vectors(Tiles::of(backend), head_dim);
    let part = Part { step: rows.start, depth: rows.len(), column: head * head_dim, columns: head_dim };
    pack_right(backend, Right::Straight { weight: Weight::F32(x), stride: width }, part, vectors, to);
    Panels { data: to, depth: rows.len(), columns: head_dim, vectors }
}

/// A block of keys of one segment, and where its packed operands lie.
#[derive(Debug, Clone, Copy)]
pub struct KeyBlock {
    /// First row, of the whole batch.
    pub first: usize,
    pub rows: usize,
    /// Start of the operands of head 0.
    pub offset: usize,
}

/// The key blocks of all segments, in order, with room for `transposed` operands of the first kind and `straight` of
/// the second per head.
pub struct Layout {
    pub blocks: Vec<KeyBlock>,
    /// Index of the first block of each segment.
    pub first_block: Vec<usize>,
    pub len: usize,
    transposed: usize,
    straight: usize,
    head_dim: usize,
}

impl Layout {
    pub fn new(segments: &[u32], shape: &AttentionShape, transposed: usize, straight: usize) -> Self {
        let mut layout = Self {
            blocks: Vec::new(),
            first_block: Vec::with_capacity(segments.len()),
            len: 0,
            transposed,
            straight,
            head_dim: shape.head_dim,
        };
        for pair in segments.windows(2) {
            layout.first_block.push(layout.blocks.len());
            for first in (pair[0] as usize..pair[1] as usize).step_by(KEYS) {
                let rows = KEYS.min(pair[1] as usize - first);
                layout.blocks.push(KeyBlock { first, rows, offset: layout.len });
                layout.len += shape.kv_heads * layout.head_len(rows);
            }
        }
        layout
    }

    fn head_len(&self, rows: usize) -> usize {
        self.transposed * packed_len(self.head_dim, rows) + self.straight * packed_len(rows, self.head_dim)
    }

    /// Range of the operands of one block and head.
    pub fn range(&self, block: &KeyBlock, kv_head: usize) -> std::ops::Range<usize> {
        let len = self.head_len(block.rows);
        let start = block.offset + kv_head * len;
        start..start + len
    }

    /// The operands of one block and head: `transposed` of the first kind, then `straight` of the second.
    pub fn transposed<'a>(&self, data: &'a [f32], tiles: &Tiles, block: &KeyBlock, index: usize) -> Panels<'a> {
        let len = packed_len(self.head_dim, block.rows);
        let vectors = vectors(tiles, block.rows);
        Panels { data: &data[index * len..(index + 1) * len], depth: self.head_dim, columns: block.rows, vectors }
    }

    pub fn straight<'a>(&self, data: &'a [f32], tiles: &Tiles, block: &KeyBlock, index: usize) -> Panels<'a> {
        let len = packed_len(block.rows, self.head_dim);
        let start = self.transposed * packed_len(self.head_dim, block.rows) + index * len;
        let vectors = vectors(tiles, self.head_dim);
        Panels { data: &data[start..start + len], depth: block.rows, columns: self.head_dim, vectors }
    }
}
