//! Cross-entropy through the output head, in chunks of rows: the logits of a whole batch never exist.

use crate::{Weight, matmul};

/// Loss per row of `hidden[rows, d]` against `targets`, through the head `w[vocabulary, d]`, and with `dhidden` its
/// gradient, multiplied by `scale` (one over the global count of trained tokens as a rule) and written over `dhidden`.
/// Logits exist for `chunk_rows` rows at a time, in `scratch` (at least `min(chunk_rows, rows) · vocabulary` elements).
///
/// Returns the unscaled loss of each row, in nats.
///
/// # Panics
/// If a slice does not have the length that its shape says, or a target is outside the vocabulary.
#[expect(clippy::too_many_arguments, reason = "the operands of the operation")]
pub fn forward_backward(
    hidden: &[f32],
    targets: &[u32],
    d: usize,
    w: &Weight<'_>,
    chunk_rows: usize,
    scale: f32,
    mut dhidden: Option<&mut [f32]>,
    scratch: &mut [f32],
) -> Vec<f32> {
    let rows = targets.len();
    assert!(d > 0 && chunk_rows > 0, "rows and chunks must not be empty");
    assert_eq!(hidden.len(), rows * d, "hidden must be [{rows}, {d}]");
    let vocabulary = w.len() / d;
    assert_eq!(w.len(), vocabulary * d, "w must be [vocabulary, {d}]");
    assert!(scratch.len() >= chunk_rows.min(rows) * vocabulary, "scratch must hold chunk_rows * vocabulary elements");
    if let Some(dhidden) = &dhidden {
        assert_eq!(dhidden.len(), hidden.len(), "dhidden must have the shape of hidden");
    }
    let mut losses = Vec::with_capacity(rows);
    for start in (0..rows).step_by(chunk_rows) {
        let count = chunk_rows.min(rows - start);
        let logits = &mut scratch[..count * vocabulary];
        matmul::nt(&hidden[start * d..(start + count) * d], count, d, w, vocabulary, logits, 1.0, false);
        for (row, &target) in logits.chunks_exact_mut(vocabulary).zip(&targets[start..start + count]) {
            losses.push(softmax_gradient(row, target as usize, scale));
        }
        if let Some(dhidden) = dhidden.as_deref_mut() {
            let dhidden = &mut dhidden[start * d..(start + count) * d];
            matmul::nn(logits, count, vocabulary, w, d, dhidden, 1.0, false);
        }
    }
    losses
}

/// Turns a row of logits into `scale · (softmax - onehot)` and returns its loss.
fn softmax_gradient(row: &mut [f32], target: usize, scale: f32) -> f32 {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let at_target = row[target];
    let mut total = 0.0f64;
    for value in row.iter_mut() {
        *value = (*value - top).exp();
        total += f64::from(*value);
    }
    let factor = (f64::from(scale) / total) as f32;
    for value in row.iter_mut() {
        *value *= factor;
    }
    row[target] -= scale;
    (total.ln() + f64::from(top) - f64::from(at_target)) as f32
}
