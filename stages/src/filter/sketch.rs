//! The distribution of a score in bounded memory, the same for any order of rows.
//!
//! Scores are counted by the upper half of their bits, which keeps three significant digits: at most 65,536 counters.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Default)]
pub(super) struct ScoreSketch {
    counts: BTreeMap<u16, u64>,
    total: u64,
}

/// Orders floats as numbers: negative ones reversed below positive ones.
fn bucket(value: f32) -> u16 {
    let bits = value.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | (1 << 31) };
    (ordered >> 16) as u16
}

fn value_of(bucket: u16) -> f64 {
    let ordered = (u32::from(bucket) << 16) | (1 << 15);
    let bits = if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered };
    // The smallest bucket around zero stands for zero itself.
    let value = f64::from(f32::from_bits(bits));
    if value.abs() < 1e-30 { 0.0 } else { value }
}

impl ScoreSketch {
    pub fn add(&mut self, value: f32) {
        // Both zeros are one value.
        *self.counts.entry(bucket(value + 0.0)).or_default() += 1;
        self.total += 1;
    }

    /// The value below which a share `q` of the scores lies, to about 0.4 %.
    pub fn quantile(&self, q: f64) -> f64 {
        let rank = (q * self.total as f64) as u64;
        let mut seen = 0;
        for (bucket, count) in &self.counts {
            seen += count;
            if seen > rank {
                return value_of(*bucket);
            }
        }
        self.counts.keys().next_back().map_or(0.0, |bucket| value_of(*bucket))
    }

    /// Shares of the scores in `bins` equal steps between the 0.5 and the 99.5 per cent quantile, as `(middle, share)`.
    pub fn histogram(&self, bins: usize) -> Vec<(f64, f64)> {
        let (low, high) = (self.quantile(0.005), self.quantile(0.995));
        if self.total == 0 || bins == 0 {
            return Vec::new();
        }
        if high <= low {
            return vec![(low, 1.0)];
        }
        let width = (high - low) / bins as f64;
        let mut counts = vec![0u64; bins];
        for (bucket, count) in &self.counts {
            let at = ((value_of(*bucket) - low) / width).floor().clamp(0.0, bins as f64 - 1.0);
            counts[at as usize] += count;
        }
        let middle = |bin: usize| low + (bin as f64 + 0.5) * width;
        counts.iter().enumerate().map(|(bin, count)| (middle(bin), *count as f64 / self.total as f64)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::ScoreSketch;

    #[test]
    fn quantiles_are_close_whatever_the_order() {
        let (mut up, mut down) = (ScoreSketch::default(), ScoreSketch::default());
        for i in 0..10_001 {
            up.add(i as f32 / 100.0 - 50.0);
            down.add((10_000 - i) as f32 / 100.0 - 50.0);
        }
        for (q, wanted) in [(0.0, -50.0), (0.1, -40.0), (0.75, 25.0), (1.0, 50.0)] {
            assert!((up.quantile(q) - wanted).abs() <= 0.005 * 50.0, "{q}: {}", up.quantile(q));
            assert_eq!(up.quantile(q), down.quantile(q));
        }
        let sum: f64 = up.histogram(20).iter().map(|(_, share)| share).sum();
        assert!((sum - 1.0).abs() < 1e-9);
    }

    #[test]
    fn zeros_are_zero() {
        let mut sketch = ScoreSketch::default();
        sketch.add(0.0);
        sketch.add(-0.0);
        assert_eq!(sketch.quantile(0.5), 0.0);
        assert_eq!(sketch.histogram(4), [(0.0, 1.0)]);
    }
}
