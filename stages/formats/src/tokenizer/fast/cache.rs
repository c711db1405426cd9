//! Words that were seen lately, with their ids: a direct-mapped table of fixed size, one per thread, so that nothing is
//! shared and nothing grows.

use std::cell::RefCell;

const SLOTS: usize = 1 << 14;
const MOST_BYTES: usize = 30;
const MOST_IDS: usize = 8;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Slot {
    ids: [u32; MOST_IDS],
    word: [u8; MOST_BYTES],
    /// 0 for an empty slot.
    bytes: u8,
    count: u8,
}

const EMPTY: Slot = Slot { ids: [0; MOST_IDS], word: [0; MOST_BYTES], bytes: 0, count: 0 };

pub struct WordCache {
    slots: Box<[Slot]>,
    owner: u64,
}

thread_local! {
    static CACHE: RefCell<WordCache> =
        RefCell::new(WordCache { slots: vec![EMPTY; SLOTS].into_boxed_slice(), owner: 0 });
}

impl WordCache {
    /// Runs with this thread's cache, emptied if it held the words of another tokenizer.
    pub fn with<T>(owner: u64, run: impl FnOnce(&mut Self) -> T) -> T {
        CACHE.with_borrow_mut(|cache| {
            if cache.owner != owner {
                cache.slots.fill(EMPTY);
                cache.owner = owner;
            }
            run(cache)
        })
    }

    /// Appends the ids of a word that is known.
    #[inline]
    pub fn find(&self, word: &[u8], ids: &mut Vec<u32>) -> bool {
        let slot = &self.slots[slot_of(word)];
        let known = slot.bytes as usize == word.len() && slot.word[..word.len().min(MOST_BYTES)] == *word;
        if known {
            ids.extend_from_slice(&slot.ids[..slot.count as usize]);
        }
        known
    }

    #[inline]
    pub fn keep(&mut self, word: &[u8], ids: &[u32]) {
        if word.len() > MOST_BYTES || ids.len() > MOST_IDS {
            return;
        }
        let slot = &mut self.slots[slot_of(word)];
        slot.word[..word.len()].copy_from_slice(word);
        slot.ids[..ids.len()].copy_from_slice(ids);
        (slot.bytes, slot.count) = (word.len() as u8, ids.len() as u8);
    }
}

/// Where a word belongs. Not a hash against adversaries: a collision costs a merge, never a wrong id.
#[inline]
fn slot_of(word: &[u8]) -> usize {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = word.len() as u64;
    let mut chunks = word.chunks_exact(8);
    for chunk in &mut chunks {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(eight)).wrapping_mul(MIX);
    }
    let mut rest = 0u64;
    for byte in chunks.remainder() {
        rest = rest << 8 | u64::from(*byte);
    }
    hash = (hash.rotate_left(5) ^ rest).wrapping_mul(MIX);
    (hash >> 40) as usize % SLOTS
}
