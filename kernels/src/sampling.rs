//! The next token of a row of logits: the likeliest one, or one drawn after temperature, top-k and top-p (Holtzman et al.,
//! "The curious case of neural text degeneration", 2020).
//!
//! Likelihoods are integers with 40 bits after the binary point, so sums and draws do not depend on an order. A NaN is never
//! chosen beside a number.

use crate::Backend;
use crate::simd::math::exp;
use crate::simd::{LANES, kernel};

/// How a token is drawn; the filters apply in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; above zero.
    pub temperature: f32,
    /// Tokens that stay, the likeliest ones; zero keeps all.
    pub top_k: u32,
    /// The fewest of the likeliest tokens stay whose share of the rest is at least this; one keeps all.
    pub top_p: f32,
}

/// Grows with the float, alike for both zeros; a NaN is least.
fn rank(value: f32) -> u32 {
    if value.is_nan() {
        return 0;
    }
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 }
}

/// The token of the highest logit, the first of equals; 0 of an empty row.
#[must_use]
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, logits.first().map_or(0, |logit| rank(*logit)));
    for (token, logit) in logits.iter().enumerate() {
        let rank = rank(*logit);
        if rank > best.1 {
            best = (token, rank);
        }
    }
    best.0 as u32
}

/// The tokens that stay: all above a rank, and the first `equal` of those that have it.
#[derive(Clone, Copy)]
struct Kept {
    rank: u32,
    equal: u64,
}

/// The fewest of the highest ranks whose sizes add up to `target`.
fn fewest(ranks: &[u32], size: impl Fn(usize) -> u64, target: u64) -> Kept {
    let (mut prefix, mut left) = (0u32, target);
    for shift in [24, 16, 8, 0] {
        let mut bins = [0u64; 256];
        for (token, rank) in ranks.iter().enumerate() {
            if shift == 24 || rank >> (shift + 8) == prefix >> (shift + 8) {
                bins[(rank >> shift & 255) as usize] += size(token);
            }
        }
        let mut bin = 255;
        while bin > 0 && bins[bin] < left {
            left -= bins[bin];
            bin -= 1;
        }
        prefix |= (bin as u32) << shift;
    }
    let each = ranks.iter().position(|rank| *rank == prefix).map_or(1, size).max(1);
    Kept { rank: prefix, equal: left.div_ceil(each) }
}

kernel! {
    fn exponentials(simd, logits: &[f32], top: f32, sharpness: f32, out: &mut [f32]) {
        for at in (0..logits.len()).step_by(LANES) {
            let below = simd.sub(simd.get(logits, at), simd.splat(top));
            simd.put(out, at, exp(simd, simd.mul(below, simd.splat(sharpness))));
        }
    }
}

/// A token drawn with `random`, uniform over 64 bits; the first of the likeliest where no logit is finite.
///
/// # Panics
/// If the temperature is not above zero.
#[must_use]
pub fn draw(logits: &[f32], sampling: Sampling, random: u64) -> u32 {
    assert!(sampling.temperature > 0.0, "the temperature must be above zero");
    let first = likeliest(logits);
    let Some(top) = logits.get(first as usize) else { return 0 };
    let ranks: Vec<u32> = logits.iter().map(|logit| rank(*logit)).collect();
    let mut shares = vec![0.0; logits.len()];
    exponentials(Backend::current(), logits, *top, 1.0 / sampling.temperature, &mut shares);
    // A NaN becomes zero.
    let size = |token: usize| (shares[token] * 1_099_511_627_776.0) as u64;

    let mut kept = Kept { rank: 0, equal: u64::MAX };
    if sampling.top_k > 0 && (sampling.top_k as usize) < logits.len() {
        kept = fewest(&ranks, |_| 1, u64::from(sampling.top_k));
    }
    if sampling.top_p < 1.0 {
        let total: u64 = places(&ranks, kept).map(size).sum();
        kept = fewest(&ranks, size, ((total as f64 * f64::from(sampling.top_p)) as u64).max(1));
    }
    let total: u64 = places(&ranks, kept).map(size).sum();
    let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    for token in places(&ranks, kept) {
        let size = size(token);
        if left < size {
            return token as u32;
        }
        left -= size;
    }
    first
}

/// The tokens that stay, in order.
fn places(ranks: &[u32], kept: Kept) -> impl Iterator<Item = usize> {
    let mut equal = 0;
    ranks.iter().enumerate().filter_map(move |(token, rank)| {
        let stays = *rank > kept.rank
            || *rank == kept.rank && {
                equal += 1;
                equal <= kept.equal
            };
        stays.then_some(token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// Logits on a grid of quarters, so that some are equal.
    fn logits(vocabulary: usize, round: u64) -> Vec<f32> {
        let mut values = vec![0.0; vocabulary];
        Stream::new(round, "logits").fill_normal(0, 0.0, 2.0, &mut values);
        values.iter().map(|value| (value * 4.0).round() / 4.0).collect()
    }

    /// What the filters leave and how likely each is, by a sort and `f64`.
    fn expected(logits: &[f32], sampling: Sampling) -> Vec<(usize, f64)> {
        let likelihood = |token: usize| (f64::from(logits[token]) / f64::from(sampling.temperature)).exp();
        let mut order: Vec<(usize, f64)> = (0..logits.len()).map(|token| (token, likelihood(token))).collect();
        order.sort_by(|a, b| logits[b.0].total_cmp(&logits[a.0]).then(a.0.cmp(&b.0)));
        if sampling.top_k > 0 {
            order.truncate(sampling.top_k as usize);
        }
        let total: f64 = order.iter().map(|token| token.1).sum();
        let mut sum = 0.0;
        let count = order.iter().take_while(|token| {
            let goes_on = sum < total * f64::from(sampling.top_p);
            sum += token.1;
            goes_on
        });
        let count = count.count().max(1);
        order.truncate(count);
        order
    }

    #[test]
    fn draws_are_as_frequent_as_their_shares() {
        let logits = logits(40, 3);
        for (top_k, top_p) in [(0, 1.0), (5, 1.0), (0, 0.7), (12, 0.9)] {
            let sampling = Sampling { temperature: 0.8, top_k, top_p };
            let expected = expected(&logits, sampling);
            let total: f64 = expected.iter().map(|token| token.1).sum();
            let draws = 20_000;
            let mut counts = vec![0; logits.len()];
            for round in 0..draws {
                counts[draw(&logits, sampling, u64::MAX / draws * round) as usize] += 1;
            }
            for (token, likelihood) in &expected {
                let share = likelihood / total * draws as f64;
                assert!((f64::from(counts[*token]) - share).abs() <= 2.0, "{sampling:?}: {token}");
                counts[*token] = 0;
            }
            assert!(counts.iter().all(|count| *count == 0), "{sampling:?}: tokens that the filters drop");
        }
    }

    #[test]
    fn edges() {
        assert_eq!(likeliest(&[f32::NAN, -0.0, 0.0, -1.0]), 1);
        assert_eq!(likeliest(&[f32::NEG_INFINITY; 3]), 0);
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        for random in [0, u64::MAX] {
            assert_ne!(draw(&[f32::NAN, -0.0, 0.0, -1.0], sampling, random), 0);
            assert_eq!(draw(&[f32::NEG_INFINITY; 3], sampling, random), 0);
        }
        let one = Sampling { top_k: 1, ..sampling };
        assert_eq!(draw(&[1.0, 3.0, 3.0], one, u64::MAX), 1);
    }
}
