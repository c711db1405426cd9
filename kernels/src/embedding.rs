//! Embedding rows by token id.

use rayon::prelude::*;

use crate::Weight;

/// `out[t, d] = w[ids[t], d]`, converted to `f32`.
///
/// # Panics
/// If an id is outside the table or `out` is not `[ids, d]`.
pub fn gather(w: &Weight<'_>, ids: &[u32], d: usize, out: &mut [f32]) {
    assert_eq!(out.len(), ids.len() * d, "out must be [{}, {d}]", ids.len());
    if d == 0 {
        return;
    }
    out.par_chunks_exact_mut(d).zip(ids).with_min_len(64).for_each(|(row, &id)| w.read_f32(id as usize * d, row));
}

/// `dw[ids[t], d] += dout[t, d]`, in the order of the tokens.
///
/// # Panics
/// If an id is outside the table or `dout` is not `[ids, d]`.
pub fn scatter_add(dout: &[f32], ids: &[u32], d: usize, dw: &mut [f32]) {
    assert_eq!(dout.len(), ids.len() * d, "dout must be [{}, {d}]", ids.len());
    if d == 0 {
        return;
    }
    for (row, &id) in dout.chunks_exact(d).zip(ids) {
        let start = id as usize * d;
        for (to, from) in dw[start..start + d].iter_mut().zip(row) {
            *to += from;
        }
    }
}
