//! Cross-entropy through the output head, in chunks of rows: the logits of a whole batch never exist.

use rayon::prelude::*;

use crate::simd::math::{exp, ln};
use crate::simd::{LANES, kernel};
use crate::{Backend, Weight, matmul};

/// Logits whose exponentials are summed in `f32` before they join the `f64` total of their row.
const SPAN: usize = 256;

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
    assert!(targets.iter().all(|&target| (target as usize) < vocabulary), "targets must be below {vocabulary}");
    let backend = Backend::current();
    let mut losses = vec![0.0; rows];
    for start in (0..rows).step_by(chunk_rows) {
        let count = chunk_rows.min(rows - start);
        let logits = &mut scratch[..count * vocabulary];
        matmul::nt(&hidden[start * d..(start + count) * d], count, d, w, vocabulary, logits, 1.0, false);
        let range = start..start + count;
        logits
            .par_chunks_exact_mut(vocabulary)
            .zip(&targets[range.clone()])
            .zip(&mut losses[range])
            .for_each(|((row, &target), loss)| *loss = softmax_gradient(backend, row, target as usize, scale));
        if let Some(dhidden) = dhidden.as_deref_mut() {
            let dhidden = &mut dhidden[start * d..(start + count) * d];
            matmul::nn(logits, count, vocabulary, w, d, dhidden, 1.0, false);
        }
    }
    losses
}

/// Turns a row of logits into `scale · (softmax - onehot)` and returns its loss.
fn softmax_gradient(backend: Backend, row: &mut [f32], target: usize, scale: f32) -> f32 {
    let at_target = row[target];
    let (top, total) = exponentials(backend, row);
    multiply(backend, row, (f64::from(scale) / total) as f32);
    row[target] -= scale;
    (ln(total) + f64::from(top) - f64::from(at_target)) as f32
}

kernel! {
    /// Replaces each element by `e^(element - top)`; returns `top`, the greatest, and the sum.
    fn exponentials(simd, row: &mut [f32]) -> (f32, f64) {
        let (whole, tail) = row.split_at(row.len() / LANES * LANES);
        let mut top = simd.splat(f32::NEG_INFINITY);
        for at in (0..whole.len()).step_by(LANES) {
            // A NaN may fall out here; it comes back through its own exponential.
            top = simd.max(top, simd.get(whole, at));
        }
        let mut top = simd.reduce_max(top);
        for &value in tail {
            if value > top {
                top = value;
            }
        }
        let minus_top = simd.splat(-top);
        let mut total = 0.0f64;
        for span in row.chunks_mut(SPAN) {
            let mut sum = simd.splat(0.0);
            let whole = span.len() / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                let value = exp(simd, simd.add(simd.get(span, at), minus_top));
                sum = simd.add(sum, value);
                simd.put(span, at, value);
            }
            let mut sum = simd.reduce_add(sum);
            if whole < span.len() {
                let lanes = exp(simd, simd.add(simd.get(span, whole), minus_top));
                simd.put(span, whole, lanes);
                for value in &span[whole..] {
                    sum += value;
                }
            }
            total += f64::from(sum);
        }
        (top, total)
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
