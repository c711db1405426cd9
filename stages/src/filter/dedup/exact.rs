//! Rows that are equal after normalisation, by 128 bits of BLAKE3.
//!
//! A set that fits the memory is kept there, 16 bytes per distinct row and slack, and rows stream through once. A larger one
//! is sorted on disk in a pass of its own. Two different rows meet with a chance of 2^-128 per pair.

use luthier_core::StageResult;

use super::Normalize;
use super::clusters::Copies;
use super::digest_set::DigestSet;
use super::known::KnownCopies;
use super::sorter::{SortSpace, Sorter};

/// Bytes of memory per row while the set grows: the old table and the new one, half full.
const ROW_BYTES: u64 = 72;

pub(in crate::filter) struct ExactDedup {
    normalize: Normalize,
    seen: Seen,
}

enum Seen {
    Set(DigestSet),
    Known(KnownCopies),
}

impl ExactDedup {
    pub fn new(normalize: Normalize) -> Self {
        Self { normalize, seen: Seen::Set(DigestSet::default()) }
    }

    /// Whether a set of the digests of so many rows fits.
    pub fn fits(rows: u64, memory: usize) -> bool {
        rows.saturating_mul(ROW_BYTES) <= memory as u64
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
    pub fn rewind(&mut self) {
        match &mut self.seen {
            Seen::Set(set) => *set = DigestSet::default(),
            Seen::Known(copies) => copies.rewind(),
        }
    }

    /// Takes in what a pass of its own found.
    pub fn know(&mut self, copies: Copies) {
        self.seen = Seen::Known(KnownCopies::new(copies));
    }

    /// Which of the next rows, of which these are the digests, came before.
    pub fn copies(&mut self, digests: &[u128]) -> StageResult<Vec<bool>> {
        match &mut self.seen {
            Seen::Set(set) => Ok(digests.iter().map(|digest| !set.insert(*digest)).collect()),
            Seen::Known(copies) => copies.take(digests.len()),
        }
    }
}

/// Collects the digests of rows in row order.
pub(in crate::filter) struct DigestSorter {
    space: SortSpace,
    digests: Sorter<(u128, u64)>,
    rows: u64,
}

impl DigestSorter {
    pub fn new(space: &SortSpace) -> StageResult<Self> {
        Ok(Self { space: space.clone(), digests: Sorter::new(space, "digests")?, rows: 0 })
    }

    pub fn add(&mut self, digests: &[u128]) -> StageResult<()> {
        for digest in digests {
            self.digests.push((*digest, self.rows))?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Every row but the first of equal ones.
    pub fn resolve(self) -> StageResult<Copies> {
        let mut copies = Sorter::new(&self.space, "copies")?;
        let mut first: Option<(u128, u64)> = None;
        for record in self.digests.finish()?.distinct()? {
            let (digest, row) = record?;
            match first {
                Some((same, first)) if same == digest => copies.push((row, first))?,
                _ => first = Some((digest, row)),
            }
        }
        copies.finish()
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::*;

    #[test]
    fn a_pass_on_disk_finds_what_the_set_finds() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        let mut state = 5u64;
        let digests: Vec<u128> = (0..20_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                u128::from(state >> 50) << 64
            })
            .collect();
        let wanted = ExactDedup::new(Normalize::None).copies(&digests).unwrap();
        let mut sorter = DigestSorter::new(&SortSpace { directory: root.to_owned(), memory: 0 }).unwrap();
        digests.chunks(777).try_for_each(|part| sorter.add(part)).unwrap();
        let mut dedup = ExactDedup::new(Normalize::None);
        dedup.know(sorter.resolve().unwrap());
        for _ in 0..2 {
            let found: Vec<bool> = digests.chunks(1_000).flat_map(|part| dedup.copies(part).unwrap()).collect();
            assert_eq!(found, wanted);
            dedup.rewind();
        }
        assert!(wanted.iter().filter(|copy| **copy).count() > 1_000);
    }
}
