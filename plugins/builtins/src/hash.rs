//! A fast hash for tables whose order never shows: only membership and counts leave them.

use std::hash::{BuildHasherDefault, Hasher};

/// Multiplies and folds eight bytes at a time.
#[derive(Default)]
pub struct Mixer(u64);

#[expect(clippy::disallowed_types, reason = "the hasher is fixed, and no order leaves the tables")]
pub type Table<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<Mixer>>;
#[expect(clippy::disallowed_types, reason = "the hasher is fixed, and no order leaves the tables")]
pub type Set<K> = std::collections::HashSet<K, BuildHasherDefault<Mixer>>;

/// An odd number without structure: the fraction of the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Mixer {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0u8; 8];
            word.copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        let rest = chunks.remainder();
        let mut word = [0u8; 8];
        word[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(word) ^ (bytes.len() as u64) << 56);
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_u8(&mut self, byte: u8) {
        self.mix(u64::from(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_texts_holds_what_was_put_in() {
        let texts: Vec<String> = (0..2_000).map(|number| "ab".repeat(number % 40) + &number.to_string()).collect();
        let mut set = Set::default();
        assert!(texts.iter().all(|text| set.insert(text.as_str())));
        assert!(texts.iter().all(|text| !set.insert(text.as_str())));
    }
}
