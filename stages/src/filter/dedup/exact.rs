//! Rows that are equal after normalisation, by 128 bits of BLAKE3.
//!
//! Memory is 16 bytes per distinct row and slack. Two different rows meet with a chance of 2^-128 per pair.

use super::Normalize;
use super::digest_set::DigestSet;

pub(in crate::filter) struct ExactDedup {
    normalize: Normalize,
    seen: DigestSet,
}

impl ExactDedup {
    pub fn new(normalize: Normalize) -> Self {
        Self { normalize, seen: DigestSet::default() }
    }

    /// The digest of a row's columns; independent of other rows.
    pub fn digest<'a>(&self, columns: impl Iterator<Item = &'a str>) -> u128 {
        let mut hasher = blake3::Hasher::new();
        for column in columns {
            let text = self.normalize.apply(column);
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        u128::from_le_bytes(bytes)
    }

    /// Starts over.
    pub fn forget(&mut self) {
        self.seen = DigestSet::default();
    }

    /// Whether this digest comes for the first time.
    pub fn is_first(&mut self, digest: u128) -> bool {
        self.seen.insert(digest)
    }
}
