//! Byte pairs merged in the order of their ranks (Sennrich et al. 2016, over bytes as in GPT-2).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde_json::Value;

/// No token.
const NONE: u32 = u32::MAX;
/// Up to this many bytes a scan over all pairs beats a heap.
const SHORT: usize = 48;

pub struct Merges {
    /// Token of each byte, or [`NONE`].
    bytes: [u32; 256],
    pairs: PairTable,
    /// Bytes of each token; 0 where the vocabulary has none.
    lengths: Vec<u32>,
    /// Whole words that are tokens, where merges are ignored for them.
    whole: Option<WordTable>,
}

impl Merges {
    /// `None` if the model has an option that changes ids and is not known here.
    pub fn build(model: &Value) -> Option<Self> {
        let unset = |key: &str| matches!(&model[key], Value::Null | Value::Bool(false)) || model[key] == "";
        let options =
            ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback"];
        if model["type"].as_str().is_some_and(|kind| kind != "BPE") || !options.into_iter().all(unset) {
            return None;
        }
        let byte_of = byte_of_characters();
        let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
        for (token, id) in model["vocab"].as_object()? {
            ids.insert(token, u32::try_from(id.as_u64()?).ok()?);
        }
        let size = ids.values().max().map_or(0, |id| *id as usize + 1);
        let mut lengths = vec![0; size];
        let mut words = Vec::new();
        let mut bytes = [NONE; 256];
        for (token, id) in &ids {
            // A token with other characters is never made from bytes.
            let Some(spelled) =
                token.chars().map(|character| byte_of.get(&character).copied()).collect::<Option<Vec<u8>>>()
            else {
                continue;
            };
            lengths[*id as usize] = spelled.len() as u32;
            if let [byte] = spelled[..] {
                bytes[byte as usize] = *id;
            }
            words.push((spelled, *id));
        }
        let merges = model["merges"].as_array()?;
        let mut pairs = PairTable::with_room_for(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            let (left, right) = match merge {
                Value::String(line) => line.split_once(' ')?,
                Value::Array(parts) => match parts.as_slice() {
                    [left, right] => (left.as_str()?, right.as_str()?),
                    _ => return None,
                },
                _ => return None,
            };
            let made = *ids.get(format!("{left}{right}").as_str())?;
            pairs.insert(*ids.get(left)?, *ids.get(right)?, rank as u32, made);
        }
        let whole = (model["ignore_merges"] == true).then(|| WordTable::of(words));
        Some(Self { bytes, pairs, lengths, whole })
    }

    /// How many bytes a token stands for.
    pub fn length(&self, id: u32) -> Option<usize> {
        self.lengths.get(id as usize).filter(|length| **length > 0).map(|length| *length as usize)
    }

    /// Appends the ids of a word; `None` if a byte of it is no token.
    pub fn word(&self, word: &[u8], ids: &mut Vec<u32>) -> Option<()> {
        if let Some(id) = self.whole.as_ref().and_then(|whole| whole.find(word)) {
            ids.push(id);
            return Some(());
        }
        let start = ids.len();
        for byte in word {
            let id = self.bytes[*byte as usize];
            if id == NONE {
                ids.truncate(start);
                return None;
            }
            ids.push(id);
        }
        if word.len() <= SHORT {
            self.merge_short(ids, start);
        } else {
            self.merge_long(ids, start);
        }
        Some(())
    }

    fn merge_short(&self, ids: &mut Vec<u32>, start: usize) {
        let mut ranks = [(NONE, NONE); SHORT];
        let parts = &mut ids[start..];
        let mut count = parts.len();
        for at in 1..count {
            ranks[at - 1] = self.pairs.find(parts[at - 1], parts[at]);
        }
        while count > 1 {
            let mut best = 0;
            for at in 1..count - 1 {
                if ranks[at].0 < ranks[best].0 {
                    best = at;
                }
            }
            let (rank, made) = ranks[best];
            if rank == NONE {
                break;
            }
            parts[best] = made;
            parts.copy_within(best + 2..count, best + 1);
            ranks.copy_within(best + 2..count, best + 1);
            count -= 1;
            if best > 0 {
                ranks[best - 1] = self.pairs.find(parts[best - 1], parts[best]);
            }
            if best + 1 < count {
                ranks[best] = self.pairs.find(parts[best], parts[best + 1]);
            }
        }
        ids.truncate(start + count);
    }

    /// The same with a heap over a linked list, so that a run of a million letters takes no million squared.
    fn merge_long(&self, ids: &mut Vec<u32>, start: usize) {
        let mut parts = ids[start..].to_vec();
        let count = parts.len();
        let mut next: Vec<usize> = (1..=count).collect();
        let mut previous: Vec<usize> = (0..count).map(|at| at.wrapping_sub(1)).collect();
        let mut heap = BinaryHeap::new();
        for at in 1..count {
            let (rank, made) = self.pairs.find(parts[at - 1], parts[at]);
            if rank != NONE {
                heap.push(Reverse((rank, at - 1, made)));
            }
        }
        while let Some(Reverse((rank, left, made))) = heap.pop() {
            let right = next[left];
            // Stale unless both sides still are what they were when the pair was found.
            if parts[left] == NONE || right >= count || self.pairs.find(parts[left], parts[right]) != (rank, made) {
                continue;
            }
            parts[left] = made;
            parts[right] = NONE;
            next[left] = next[right];
            if next[left] < count {
                previous[next[left]] = left;
                let (rank, made) = self.pairs.find(made, parts[next[left]]);
                if rank != NONE {
                    heap.push(Reverse((rank, left, made)));
                }
            }
            let before = previous[left];
            if before < count {
                let (rank, made) = self.pairs.find(parts[before], made);
                if rank != NONE {
                    heap.push(Reverse((rank, before, made)));
                }
            }
        }
        ids.truncate(start);
        ids.extend(parts.into_iter().filter(|part| *part != NONE));
    }
}

/// The printable characters that byte-level vocabularies spell bytes with, as GPT-2's encoder assigned them.
fn byte_of_characters() -> BTreeMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut beyond = 0x100u32;
    (0..=255u8)
        .filter_map(|byte| {
            if printable(byte) {
                return Some((char::from(byte), byte));
            }
            beyond += 1;
            char::from_u32(beyond - 1).map(|character| (character, byte))
        })
        .collect()
}

/// Pair of tokens → (rank, merged token): open addressing, at most half full.
struct PairTable {
    slots: Vec<(u64, u32, u32)>,
    shift: u32,
}

const EMPTY: u64 = u64::MAX;

impl PairTable {
    fn with_room_for(count: usize) -> Self {
        let bits = (count.max(8) * 2).next_power_of_two().trailing_zeros();
        Self { slots: vec![(EMPTY, NONE, NONE); 1 << bits], shift: 64 - bits }
    }

    #[inline]
    fn slot(&self, key: u64) -> usize {
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    fn insert(&mut self, left: u32, right: u32, rank: u32, made: u32) {
        let key = u64::from(left) << 32 | u64::from(right);
        let mut at = self.slot(key);
        while self.slots[at].0 != EMPTY && self.slots[at].0 != key {
            at = (at + 1) % self.slots.len();
        }
        // A pair listed twice keeps its last rank, as in a map.
        self.slots[at] = (key, rank, made);
    }

    #[inline]
    fn find(&self, left: u32, right: u32) -> (u32, u32) {
        let key = u64::from(left) << 32 | u64::from(right);
        let mut at = self.slot(key);
        loop {
            let (found, rank, made) = self.slots[at];
            if found == key {
                return (rank, made);
            }
            if found == EMPTY {
                return (NONE, NONE);
            }
            at = (at + 1) % self.slots.len();
        }
    }
}

/// Words that are tokens as a whole, sorted by length and bytes.
struct WordTable {
    words: Vec<(Vec<u8>, u32)>,
    longest: usize,
}

impl WordTable {
    fn of(mut words: Vec<(Vec<u8>, u32)>) -> Self {
        words.sort_unstable();
        let longest = words.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
        Self { words, longest }
    }

    fn find(&self, word: &[u8]) -> Option<u32> {
        if word.len() > self.longest {
            return None;
        }
        let at = self.words.binary_search_by(|(known, _)| known.as_slice().cmp(word)).ok()?;
        Some(self.words[at].1)
    }
}
