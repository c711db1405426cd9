//! Which samples a step sees: a seeded permutation per epoch, read on from epoch to epoch.

use luthier_kernels::random::Stream;

/// An endless sequence of indices below `count`; every epoch is a permutation of its own.
#[derive(Debug, Clone)]
pub struct DataOrder {
    seed: u64,
    count: usize,
    epoch: Option<u64>,
    permutation: Vec<u32>,
}

impl DataOrder {
    #[must_use]
    pub fn new(seed: u64, count: usize) -> Self {
        Self { seed, count, epoch: None, permutation: Vec::new() }
    }

    /// The index at `position`.
    ///
    /// # Panics
    /// If there is nothing to choose from.
    pub fn at(&mut self, position: u64) -> usize {
        let count = self.count as u64;
        let epoch = position / count;
        if self.epoch != Some(epoch) {
            self.shuffle(epoch);
        }
        self.permutation[(position % count) as usize] as usize
    }

    /// Fisher and Yates, from the top.
    fn shuffle(&mut self, epoch: u64) {
        let stream = Stream::new(self.seed, &format!("data.epoch.{epoch}"));
        self.permutation.clear();
        self.permutation.extend(0..self.count as u32);
        for index in (1..self.count).rev() {
            let other = stream.below(index as u64, index as u64 + 1) as usize;
            self.permutation.swap(index, other);
        }
        self.epoch = Some(epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::DataOrder;

    #[test]
    fn every_epoch_is_a_permutation_and_positions_are_independent() {
        let mut order = DataOrder::new(7, 10);
        let first: Vec<usize> = (0..10).map(|position| order.at(position)).collect();
        let second: Vec<usize> = (10..20).map(|position| order.at(position)).collect();
        for epoch in [&first, &second] {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
        assert_eq!(DataOrder::new(7, 10).at(13), second[3]);
        assert_ne!((0..10).map(|position| DataOrder::new(8, 10).at(position)).collect::<Vec<_>>(), first);
    }
}
