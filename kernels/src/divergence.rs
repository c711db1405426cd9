//! How far apart two next-token distributions are.

use crate::Backend;
use crate::simd::math::{exp, ln};
use crate::simd::{LANES, kernel};

/// Logits whose terms are summed in `f32` before they join an `f64` total.
const SPAN: usize = 256;

/// Two distributions over one vocabulary, given as logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// Kullback–Leibler divergence of the second from the first, `Σ p (ln p - ln q)`, in nats.
    pub kl: f64,
    /// Log-sum-exp of the first and the second.
    pub log_totals: [f64; 2],
}

/// Compares the distributions of two rows of logits.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn between(first: &[f32], second: &[f32]) -> Divergence {
    assert_eq!(first.len(), second.len(), "both rows must have one length");
    let backend = Backend::current();
    let log_totals = [log_sum_exp(first), log_sum_exp(second)];
    let shift = (log_totals[1] - log_totals[0]) as f32;
    Divergence { kl: expectation(backend, first, second, log_totals[0] as f32, shift), log_totals }
}

/// `ln Σ e^x`.
#[must_use]
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let (top, total) = total(Backend::current(), row);
    f64::from(top) + ln(total)
}

kernel! {
    fn total(simd, row: &[f32]) -> (f32, f64) {
        let whole = row.len() / LANES * LANES;
        let mut top = simd.splat(f32::NEG_INFINITY);
        for at in (0..whole).step_by(LANES) {
            top = simd.max(top, simd.get(row, at));
        }
        let mut top = simd.reduce_max(top);
        for &value in &row[whole..] {
            if value > top {
                top = value;
            }
        }
        let minus_top = simd.splat(-top);
        let mut total = 0.0f64;
        for span in row.chunks(SPAN) {
            let whole = span.len() / LANES * LANES;
            let mut sum = simd.splat(0.0);
            for at in (0..whole).step_by(LANES) {
                sum = simd.add(sum, exp(simd, simd.add(simd.get(span, at), minus_top)));
            }
            let mut sum = simd.reduce_add(sum);
            if whole < span.len() {
                let tail = simd.to_array(exp(simd, simd.add(simd.get(span, whole), minus_top)));
                for value in &tail[..span.len() - whole] {
                    sum += value;
                }
            }
            total += f64::from(sum);
        }
        (top, total)
    }
}

kernel! {
    /// `Σ e^(a - log_total) (a - b + shift)`.
    fn expectation(simd, first: &[f32], second: &[f32], log_total: f32, shift: f32) -> f64 {
        let (minus, shift) = (simd.splat(-log_total), simd.splat(shift));
        let mut total = 0.0f64;
        for (first, second) in first.chunks(SPAN).zip(second.chunks(SPAN)) {
            let whole = first.len() / LANES * LANES;
            let mut sum = simd.splat(0.0);
            for at in (0..whole).step_by(LANES) {
                let (a, b) = (simd.get(first, at), simd.get(second, at));
                let p = exp(simd, simd.add(a, minus));
                sum = simd.fma(p, simd.add(simd.sub(a, b), shift), sum);
            }
            let mut sum = simd.reduce_add(sum);
            if whole < first.len() {
                let (a, b) = (simd.get(first, whole), simd.get(second, whole));
                let p = exp(simd, simd.add(a, minus));
                let tail = simd.to_array(simd.mul(p, simd.add(simd.sub(a, b), shift)));
                for value in &tail[..first.len() - whole] {
                    sum += value;
                }
            }
            total += f64::from(sum);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn equals_the_textbook_on_every_backend() {
        for len in [1, 5, 16, 255, 256, 257, 1000] {
            let (mut a, mut b) = (vec![0.0; len], vec![0.0; len]);
            Stream::new(1, "a").fill_normal(0, 0.0, 3.0, &mut a);
            Stream::new(1, "b").fill_normal(0, 1.0, 3.0, &mut b);
            let log_total = |x: &[f32]| x.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            let (la, lb) = (log_total(&a), log_total(&b));
            let kl: f64 = a
                .iter()
                .zip(&b)
                .map(|(a, b)| (f64::from(*a) - la).exp() * (f64::from(*a) - la - f64::from(*b) + lb))
                .sum();
            let expected = Backend::Reference.with(|| between(&a, &b));
            assert!((expected.kl - kl).abs() < 1e-5 * kl.max(1.0), "{len}: {expected:?} {kl}");
            assert!((expected.log_totals[0] - la).abs() < 1e-6 && (expected.log_totals[1] - lb).abs() < 1e-6);
            for backend in Backend::supported() {
                assert_eq!(backend.with(|| between(&a, &b)), expected, "{backend}");
            }
            assert!(between(&a, &a).kl.abs() < 1e-6);
        }
    }
}
