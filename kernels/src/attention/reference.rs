//! Plain loops: one query row against all of its keys.

use super::{AttentionShape, CacheView};

fn first_visible(row: usize, shape: &AttentionShape) -> usize {
    shape.window.map_or(0, |window| (row + 1).saturating_sub(window))
}

/// Probabilities of keys `first..=row` of one head, and their log-sum-exp.
fn attend(q: &[f32], k: &[f32], kv_head: usize, shape: &AttentionShape, first: usize, row: usize) -> (Vec<f32>, f32) {
    let (d, width) = (shape.head_dim, shape.key_width());
    let mut scores: Vec<f32> = (first..=row)
        .map(|j| {
            let key = &k[j * width + kv_head * d..][..d];
            shape.scale * q.iter().zip(key).map(|(a, b)| a * b).sum::<f32>()
        })
        .collect();
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for score in &mut scores {
        *score = (*score - top).exp();
        total += *score;
    }
    for score in &mut scores {
        *score /= total;
    }
    (scores, top + total.ln())
}

pub fn forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &[u32],
    shape: &AttentionShape,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (d, group, width) = (shape.head_dim, shape.heads / shape.kv_heads, shape.key_width());
    for pair in segments.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        let (k, v) = (&k[start * width..end * width], &v[start * width..end * width]);
        for row in 0..end - start {
            let first = first_visible(row, shape);
            for head in 0..shape.heads {
                let at = ((start + row) * shape.heads + head) * d;
                let (p, total) = attend(&q[at..at + d], k, head / group, shape, first, row);
                lse[(start + row) * shape.heads + head] = total;
                let out = &mut out[at..at + d];
                out.fill(0.0);
                for (p, j) in p.iter().zip(first..) {
                    let value = &v[j * width + head / group * d..][..d];
                    for (out, value) in out.iter_mut().zip(value) {
                        *out += p * value;
                    }
                }
            }
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the operands of the operation")]
pub fn backward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    _lse: &[f32],
    dout: &[f32],
    segments: &[u32],
    shape: &AttentionShape,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (d, group, width) = (shape.head_dim, shape.heads / shape.kv_heads, shape.key_width());
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    for pair in segments.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        for row in 0..end - start {
            let first = first_visible(row, shape);
            for head in 0..shape.heads {
                let at = ((start + row) * shape.heads + head) * d;
                let q = &q[at..at + d];
                let dout = &dout[at..at + d];
                let (p, _) = attend(q, &k[start * width..end * width], head / group, shape, first, row);
                let delta: f32 = dout.iter().zip(&out[at..at + d]).map(|(a, b)| a * b).sum();
                for (p, j) in p.iter().zip(first..) {
                    let kv = (start + j) * width + head / group * d;
                    let dp: f32 = dout.iter().zip(&v[kv..kv + d]).map(|(a, b)| a * b).sum();
                    let ds = p * (dp - delta) * shape.scale;
                    for i in 0..d {
                        dq[at + i] += ds * k[kv + i];
                        dk[kv + i] += ds * q[i];
                        dv[kv + i] += p * dout[i];
                    }
                }
            }
        }
    }
}

pub fn decode(q: &[f32], caches: &[CacheView<'_>], shape: &AttentionShape, out: &mut [f32]) {
    let (d, group, width) = (shape.head_dim, shape.heads / shape.kv_heads, shape.key_width());
    for (index, cache) in caches.iter().enumerate() {
        let row = cache.length - 1;
        let first = first_visible(row, shape);
        for head in 0..shape.heads {
            let at = (index * shape.heads + head) * d;
            let (p, _) = attend(&q[at..at + d], cache.keys, head / group, shape, first, row);
            let out = &mut out[at..at + d];
            out.fill(0.0);
            for (p, j) in p.iter().zip(first..) {
                let value = &cache.values[j * width + head / group * d..][..d];
                for (out, value) in out.iter_mut().zip(value) {
                    *out += p * value;
                }
            }
        }
    }
}
