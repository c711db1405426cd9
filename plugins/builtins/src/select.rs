//! Verdicts from scores that were kept, where they follow from them.
//!
//! A filter compares 64-bit values with its bounds, and scores are those values rounded to 32 bits. So a score says which
//! side of a bound a value is on unless the bound lies within the rounding; then the row is judged again.

use luthier_filter::Verdict;

/// Whether the value that was rounded to `score` is above `bound`.
pub fn above(score: f32, bound: f64) -> Option<bool> {
    // Nothing but zero is rounded to zero: shares and means of counts are not that small.
    if score == 0.0 {
        return Some(0.0 > bound);
    }
    if f64::from(score.next_down()) >= bound {
        return Some(true);
    }
    (f64::from(score.next_up()) <= bound).then_some(false)
}

/// Whether the value that was rounded to `score` is below `bound`.
pub fn below(score: f32, bound: f64) -> Option<bool> {
    above(-score, -bound)
}

/// The number that was rounded to `score`, if all around are whole.
pub fn count(score: f32) -> Option<usize> {
    (0.0..16_777_216.0).contains(&score).then_some(score as usize)
}

/// What the first check that fails says; none of those before it may be in doubt.
pub fn first(checks: &[(Option<bool>, &'static str)]) -> Option<Verdict> {
    for (fails, reason) in checks {
        if (*fails)? {
            return Some(Verdict::Drop(reason));
        }
    }
    Some(Verdict::Keep)
}

/// How many scores are known of a row for which checks ended with this reason.
pub fn measured(reason: &str, reasons: &[&str], always: usize) -> usize {
    always.max(1 + reasons.iter().position(|known| *known == reason).unwrap_or_default())
}

/// What checks say that are made one after the other up to the first that fails, so that the scores behind it are unknown;
/// those of the first `always` are known. `fails` says of the score at a place whether the reason at that place applies.
pub fn in_order(
    scores: &[f32],
    before: Option<&str>,
    reasons: &[&'static str],
    always: usize,
    fails: impl Fn(usize, f32) -> Option<bool>,
) -> Option<Verdict> {
    let known = before.map_or(scores.len(), |before| measured(before, reasons, always));
    for (at, score) in scores.iter().enumerate() {
        // Also without a bound: who judges the row now knows more of it.
        if at >= known {
            return None;
        }
        if fails(at, *score)? {
            return Some(Verdict::Drop(reasons[at]));
        }
    }
    Some(Verdict::Keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_decides_only_what_its_rounding_leaves() {
        for (part, whole) in [(1usize, 5usize), (1, 3), (2, 3), (299, 1000), (7, 7), (0, 3), (123_457, 999_983)] {
            let value = part as f64 / whole as f64;
            let score = value as f32;
            for bound in [0.0, 0.1, 0.2, 0.3, 1.0 / 3.0, 0.67, 1.0, value, value + 1e-12, value - 1e-12, value + 1e-3] {
                assert!(above(score, bound).is_none_or(|above| above == (value > bound)), "{value} > {bound}");
                assert!(below(score, bound).is_none_or(|below| below == (value < bound)), "{value} < {bound}");
            }
            assert_eq!(above(score, value + 1e-3), Some(false));
            assert_eq!(below(score, value + 1e-3), Some(true));
        }
        assert_eq!(above((0.2f64) as f32, 0.2), None, "the bound itself is in doubt");
        assert_eq!((count(50.0), count(16_777_216.0), count(f32::NAN)), (Some(50), None, None));
    }
}
