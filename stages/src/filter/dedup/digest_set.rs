//! A set of 128-bit digests in 16 bytes each, plus the slack of an open table.

/// Digests seen so far. Zero stands for an empty slot and is kept apart.
#[derive(Debug, Default)]
pub(super) struct DigestSet {
    slots: Vec<u128>,
    used: usize,
    zero: bool,
}

impl DigestSet {
    /// Adds a digest; false if it was there.
    pub fn insert(&mut self, digest: u128) -> bool {
        if digest == 0 {
            return !std::mem::replace(&mut self.zero, true);
        }
        if self.used * 10 >= self.slots.len() * 7 {
            self.grow();
        }
        let at = find(&self.slots, digest);
        let new = self.slots[at] == 0;
        self.slots[at] = digest;
        self.used += usize::from(new);
        new
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(1 << 10);
        let old = std::mem::replace(&mut self.slots, vec![0; size]);
        for digest in old.into_iter().filter(|digest| *digest != 0) {
            let at = find(&self.slots, digest);
            self.slots[at] = digest;
        }
    }
}

/// The slot of a digest, or the empty one where it belongs. The length is a power of two and the table is never full.
fn find(slots: &[u128], digest: u128) -> usize {
    let mask = slots.len() - 1;
    let mut at = digest as usize & mask;
    while slots[at] != 0 && slots[at] != digest {
        at = (at + 1) & mask;
    }
    at
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::DigestSet;

    #[test]
    fn answers_as_a_set_does() {
        let (mut set, mut model) = (DigestSet::default(), BTreeSet::new());
        let mut state = 1u128;
        for _ in 0..20_000 {
            state = state.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(1);
            let digest = (state >> 64) % 10_000;
            assert_eq!(set.insert(digest), model.insert(digest), "{digest}");
        }
    }
}
