//! How often each run of items comes.

use crate::hash::{FACTOR, mix};

/// A run: where it came first, and how often.
#[derive(Debug, Default, Clone, Copy)]
struct Run {
    hash: u64,
    first: u32,
    /// 0 if the slot is empty.
    count: u32,
}

/// An open table of runs; kept to be used again.
#[derive(Debug, Default)]
pub struct RunCounts {
    slots: Vec<Run>,
    counts: Vec<u32>,
}

impl RunCounts {
    /// How often each run of `n` items comes, most frequent first.
    #[inline(never)]
    pub fn count(&mut self, items: &[u32], n: usize) -> &[u32] {
        self.counts.clear();
        let runs = (items.len() + 1).saturating_sub(n);
        if n == 0 || runs == 0 {
            return &self.counts;
        }
        let mask = (runs * 2).next_power_of_two() - 1;
        self.slots.clear();
        self.slots.resize(mask + 1, Run::default());
        // A polynomial of the items, from which the oldest goes when the next comes.
        let value = |item: u32| u64::from(item) + 1;
        let power = (0..n).fold(1u64, |power, _| power.wrapping_mul(FACTOR));
        let mut polynomial = 0u64;
        for (at, item) in items.iter().enumerate() {
            polynomial = polynomial.wrapping_mul(FACTOR).wrapping_add(value(*item));
            if at >= n {
                polynomial = polynomial.wrapping_sub(power.wrapping_mul(value(items[at - n])));
            }
            if at + 1 >= n {
                let first = at + 1 - n;
                let hash = mix(polynomial, 0);
                let mut slot = (hash >> 32) as usize & mask;
                loop {
                    let run = &mut self.slots[slot];
                    if run.count == 0 {
                        *run = Run { hash, first: first as u32, count: 1 };
                        break;
                    }
                    let before = run.first as usize;
                    if run.hash == hash && items[before..before + n] == items[first..first + n] {
                        run.count += 1;
                        break;
                    }
                    slot = (slot + 1) & mask;
                }
            }
        }
        self.counts.extend(self.slots.iter().map(|run| run.count).filter(|count| *count > 0));
        self.counts.sort_unstable_by(|a, b| b.cmp(a));
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_as_sorting_does() {
        let mut state = 17u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut table = RunCounts::default();
        for _ in 0..2_000 {
            let variety = 1 + next(6);
            let items: Vec<u32> = (0..next(80)).map(|_| next(variety) as u32).collect();
            let n = 1 + next(6);
            let mut runs: Vec<&[u32]> = items.windows(n).collect();
            runs.sort_unstable();
            let mut wanted: Vec<u32> = runs.chunk_by(|a, b| a == b).map(|same| same.len() as u32).collect();
            wanted.sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(table.count(&items, n), wanted, "{n} {items:?}");
        }
    }
}
