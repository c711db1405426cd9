//! Causal attention over packed segments.
//!
//! `q` is `[t, heads · head_dim]`, `k` and `v` are `[t, kv_heads · head_dim]`; `segments` holds the first row of each
//! segment and, last, `t`. A row attends to itself and to earlier rows of its own segment, at most `window` of them
//! (itself counted). Query head `h` reads key-value head `h / (heads / kv_heads)`.
//!
//! Keys are visited in blocks of [`KEYS`], counted from the start of the segment, with a running maximum (Dao et al.,
//! "FlashAttention", 2022); scores never exist for more than one block. A row's bits depend on the rows that it sees and
//! on nothing else, so packed, alone and decoded from a cache it is the same, as long as all values are finite.

mod backward;
mod cap;
mod forward;
mod panels;
#[cfg(test)]
mod tests;

/// Keys of a block, and query rows of a block in the backward pass. Part of the numeric law.
const KEYS: usize = 64;

/// The shape of one attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Multiplies the scores; `1 / sqrt(head_dim)` as a rule.
    pub scale: f32,
    /// Rows that a row sees, itself counted; all earlier ones if `None`.
    pub window: Option<usize>,
    /// A score `s` becomes `cap · tanh(s / cap)` (Gemma Team, "Gemma 2", 2024); it stays if `None`.
    pub soft_cap: Option<f32>,
}

impl AttentionShape {
    /// Elements of one row of `q`.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of one row of `k` or `v`.
    #[must_use]
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn check(&self) {
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "heads must be a multiple of kv_heads");
        assert!(self.head_dim > 0, "head_dim must not be zero");
        assert!(self.window != Some(0), "window must not be zero");
        assert!(self.soft_cap.is_none_or(|cap| cap > 0.0), "soft_cap must be positive");
    }
}

/// The keys and values of one sequence: `[length, kv_heads · head_dim]` each, `length` rows of them in use.
#[derive(Debug, Clone, Copy)]
pub struct CacheView<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
    pub length: usize,
}

/// Writes `out` (shape of `q`) and the log-sum-exp of the scaled scores, `lse[t, heads]`, which [`backward`] needs.
///
/// # Panics
/// If a slice does not have the length that its shape says.
pub fn forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &[u32],
    shape: &AttentionShape,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let t = check_segments(segments);
    shape.check();
    assert_eq!(q.len(), t * shape.query_width(), "q must be [{t}, heads * head_dim]");
    assert_eq!(k.len(), t * shape.key_width(), "k must be [{t}, kv_heads * head_dim]");
    assert_eq!(v.len(), k.len(), "v must have the shape of k");
    assert_eq!(out.len(), q.len(), "out must have the shape of q");
    assert_eq!(lse.len(), t * shape.heads, "lse must be [{t}, heads]");
    forward::run(q, k, v, segments, shape, out, lse);
}

/// Overwrites `dq`, `dk` and `dv` with the gradients, from the outputs of [`forward`] and `dout`.
///
/// # Panics
/// If a slice does not have the length that its shape says.
#[expect(clippy::too_many_arguments, reason = "the operands of the operation")]
pub fn backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    segments: &[u32],
    shape: &AttentionShape,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let t = check_segments(segments);
    shape.check();
    assert_eq!(q.len(), t * shape.query_width(), "q must be [{t}, heads * head_dim]");
    assert_eq!(k.len(), t * shape.key_width(), "k must be [{t}, kv_heads * head_dim]");
    assert_eq!(v.len(), k.len(), "v must have the shape of k");
    assert_eq!(out.len(), q.len(), "out must have the shape of q");
    assert_eq!(dout.len(), q.len(), "dout must have the shape of q");
    assert_eq!(lse.len(), t * shape.heads, "lse must be [{t}, heads]");
    assert_eq!(dq.len(), q.len(), "dq must have the shape of q");
    assert_eq!(dk.len(), k.len(), "dk must have the shape of k");
    assert_eq!(dv.len(), v.len(), "dv must have the shape of v");
    backward::run(&backward::Operands { q, k, v, out, lse, dout }, segments, shape, dq, dk, dv);
}

/// One new row per sequence against its cache, which already holds that row's key and value last: `q` and `out` are
/// `[caches, heads · head_dim]`. Gives the bits that [`forward`] gives for the same row.
///
/// # Panics
/// If a slice does not have the length that its shape says, or a cache is empty.
pub fn decode(q: &[f32], caches: &[CacheView<'_>], shape: &AttentionShape, out: &mut [f32]) {
    shape.check();
    assert_eq!(q.len(), caches.len() * shape.query_width(), "q must be [{}, heads * head_dim]", caches.len());
    assert_eq!(out.len(), q.len(), "out must have the shape of q");
    for cache in caches {
        assert!(cache.length > 0, "a cache must hold the new row");
        assert!(cache.keys.len() >= cache.length * shape.key_width(), "keys must hold `length` rows");
        assert!(cache.values.len() >= cache.length * shape.key_width(), "values must hold `length` rows");
    }
    forward::decode(q, caches, shape, out);
}

fn check_segments(segments: &[u32]) -> usize {
    assert!(segments.first() == Some(&0), "segments must start with 0");
    assert!(segments.is_sorted(), "segments must ascend");
    segments.last().map_or(0, |&t| t as usize)
}
