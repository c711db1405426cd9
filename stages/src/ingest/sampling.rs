//! A random subset that depends on the rows and the seed only: the rows whose hashed ids are smallest.

use std::collections::BTreeMap;

use luthier_core::Digest;

use super::config::SampleConfig;

type Rank = [u8; 32];

/// First offered every row, then asked about every row again in the same order.
pub struct Sampler {
    config: SampleConfig,
    /// The smallest ranks seen, with how often each was seen; at most `count` rows in all.
    smallest: BTreeMap<Rank, u64>,
    held: u64,
}

impl Sampler {
    pub fn new(config: SampleConfig) -> Self {
        Self { config, smallest: BTreeMap::new(), held: 0 }
    }

    fn rank(&self, id: &str) -> Rank {
        let mut bytes = b"luthier ingest sample v1".to_vec();
        bytes.extend_from_slice(&self.config.seed.to_le_bytes());
        bytes.extend_from_slice(id.as_bytes());
        *Digest::of(&bytes).as_bytes()
    }

    pub fn offer(&mut self, id: &str) {
        let rank = self.rank(id);
        let largest = self.smallest.last_key_value().map(|(rank, _)| *rank);
        if self.held == self.config.count && largest.is_some_and(|largest| rank >= largest) {
            return;
        }
        *self.smallest.entry(rank).or_default() += 1;
        self.held += 1;
        if self.held > self.config.count
            && let Some(mut last) = self.smallest.last_entry()
        {
            *last.get_mut() -= 1;
            self.held -= 1;
            if *last.get() == 0 {
                last.remove();
            }
        }
    }

    /// Ends the first pass.
    pub fn decide(&mut self) {
        self.held = 0;
    }

    /// Whether this row is in; of equal rows the first ones are.
    pub fn take(&mut self, id: &str) -> bool {
        let rank = self.rank(id);
        match self.smallest.get_mut(&rank) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}
