//! Cutting whole-buffer work into pieces. Pieces are fixed by length, never by thread count, so sums over them have one
//! order.

use rayon::prelude::*;

/// Elements of a piece: small enough to share out, large enough that sharing costs nothing.
pub const PIECE: usize = 1 << 14;

/// Calls `body(first_row, rows)` for pieces of `rows` rows of `width` elements, in parallel if it is worth it.
pub fn rows(count: usize, width: usize, body: impl Fn(std::ops::Range<usize>) + Sync) {
    let each = (PIECE / width.max(1)).max(1);
    let pieces = count.div_ceil(each);
    let piece = |index: usize| body(index * each..count.min((index + 1) * each));
    if pieces < 2 {
        (0..pieces).for_each(piece);
    } else {
        (0..pieces).into_par_iter().for_each(piece);
    }
}

/// Calls `body` for corresponding pieces of one mutable and several shared buffers of one length.
pub fn pieces<const N: usize>(to: &mut [f32], from: [&[f32]; N], body: impl Fn(&mut [f32], [&[f32]; N]) + Sync) {
    if to.len() <= PIECE {
        return body(to, from);
    }
    to.par_chunks_mut(PIECE).enumerate().for_each(|(index, to)| {
        let range = index * PIECE..index * PIECE + to.len();
        body(to, from.map(|from| &from[range.clone()]));
    });
}
