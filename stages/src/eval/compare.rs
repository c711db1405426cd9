//! Base against tuned, item by item: both answered the same items, so differences are paired.

use luthier_model::random::Stream;
use serde::{Deserialize, Serialize};

use super::metrics::{Part, ratio};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 10_000;

/// How one metric changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Tuned less base.
    pub difference: f64,
    /// 95 % interval of the difference: percentiles of a paired bootstrap over items.
    pub interval: [f64; 2],
    /// Items where tuned is better, where base is better, and where they are equal.
    pub wins: usize,
    pub losses: usize,
    pub ties: usize,
    /// Exact two-sided McNemar test, for metrics of hits and misses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f64>,
}

/// Compares two lists of parts of the same items.
pub fn compare(base: &[Part], tuned: &[Part], higher_is_better: bool, seed: u64, metric: &str) -> Change {
    let difference = ratio(tuned.iter().copied()) - ratio(base.iter().copied());
    let (mut wins, mut losses, mut ties) = (0, 0, 0);
    for (base, tuned) in base.iter().zip(tuned) {
        let (base, tuned) =
            (base.value / base.weight.max(f64::MIN_POSITIVE), tuned.value / tuned.weight.max(f64::MIN_POSITIVE));
        if tuned == base {
            ties += 1;
        } else if (tuned > base) == higher_is_better {
            wins += 1;
        } else {
            losses += 1;
        }
    }
    let binary = base.iter().chain(tuned).all(|part| part.weight == 1.0 && (part.value == 0.0 || part.value == 1.0));
    Change {
        difference,
        interval: interval(base, tuned, seed, metric),
        wins,
        losses,
        ties,
        p_value: binary.then(|| mcnemar(wins, losses)),
    }
}

fn interval(base: &[Part], tuned: &[Part], seed: u64, metric: &str) -> [f64; 2] {
    let items = base.len();
    if items == 0 {
        return [f64::NAN; 2];
    }
    let stream = Stream::new(seed, &format!("eval.bootstrap.{metric}"));
    let mut position = 0;
    let mut differences: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let (mut b, mut t) = (Part { value: 0.0, weight: 0.0 }, Part { value: 0.0, weight: 0.0 });
            for _ in 0..items {
                let index = stream.below(position, items as u64) as usize;
                position += 1;
                b.value += base[index].value;
                b.weight += base[index].weight;
                t.value += tuned[index].value;
                t.weight += tuned[index].weight;
            }
            t.value / t.weight - b.value / b.weight
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let at = |share: f64| differences[((RESAMPLES - 1) as f64 * share).round() as usize];
    [at(0.025), at(0.975)]
}

/// Exact two-sided McNemar test: the chance of a split at least as uneven among `wins + losses` fair coins.
pub fn mcnemar(wins: usize, losses: usize) -> f64 {
    let total = wins + losses;
    let few = wins.min(losses);
    // Terms of the binomial from the middle out would lose nothing, but sums of small terms first lose least.
    let mut term = 0.5f64.powi(i32::try_from(total.min(1000)).unwrap_or(1000));
    if total > 1000 {
        // Normal approximation with continuity correction, where powers of a half underflow.
        let z = ((wins.abs_diff(losses)) as f64 - 1.0).max(0.0) / (total as f64).sqrt();
        return complementary_error(z / std::f64::consts::SQRT_2);
    }
    let mut sum = 0.0;
    for count in 0..=few {
        sum += term;
        term *= (total - count) as f64 / (count + 1) as f64;
    }
    (2.0 * sum).min(1.0)
}

/// `erfc(x)` for x ≥ 0 (Abramowitz and Stegun 7.1.26, absolute error under 1.5e-7).
fn complementary_error(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly =
        t * (0.254_829_592 + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    poly * exp(-x * x)
}

/// The kernels' exponential: the same on every platform.
fn exp(x: f64) -> f64 {
    luthier_model::scalar::exp(x)
}
