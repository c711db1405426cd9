//! The words of texts that were cut lately, for filters that judge the same texts one after the other, on whatever thread.
//!
//! Off until somebody holds a [`SharedWords`]. An entry has its text beside its words and is compared with the text asked
//! for, so what is found is what cutting would find; the oldest go first when the memory is used up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::hash::hash;
use crate::words::{Span, Words};

const SHARDS: usize = 64;
/// Shorter texts are cut faster than they are looked up.
const LEAST: usize = 128;

/// Bytes that may be held, by all that hold a [`SharedWords`].
static MEMORY: AtomicUsize = AtomicUsize::new(0);
static CACHE: [Mutex<Shard>; SHARDS] = [const { Mutex::new(Shard::new()) }; SHARDS];

/// While it lives, words are kept for the next filter.
#[derive(Debug)]
pub struct SharedWords(usize);

struct Shard {
    entries: BTreeMap<u64, Entry>,
    order: VecDeque<u64>,
    bytes: usize,
}

struct Entry {
    text: Box<str>,
    spans: Box<[Span]>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.spans) + 128
    }
}

impl SharedWords {
    /// Lets words take up to `memory` bytes.
    #[must_use]
    pub fn hold(memory: usize) -> Self {
        MEMORY.fetch_add(memory, Ordering::Relaxed);
        Self(memory)
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        if MEMORY.fetch_sub(self.0, Ordering::Relaxed) == self.0 {
            for shard in &CACHE {
                *shard.lock().unwrap_or_else(PoisonError::into_inner) = Shard::new();
            }
        }
    }
}

impl Shard {
    const fn new() -> Self {
        Self { entries: BTreeMap::new(), order: VecDeque::new(), bytes: 0 }
    }

    fn put(&mut self, key: u64, entry: Entry, most: usize) {
        if entry.bytes() > most {
            return;
        }
        self.bytes += entry.bytes();
        match self.entries.insert(key, entry) {
            Some(old) => self.bytes -= old.bytes(),
            None => self.order.push_back(key),
        }
        while self.bytes > most {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(old) = self.entries.remove(&oldest) {
                self.bytes -= old.bytes();
            }
        }
    }
}

/// Cuts `text` into `words`, or takes them from the cache.
pub fn cut(text: &str, words: &mut Words) {
    let memory = MEMORY.load(Ordering::Relaxed);
    if memory == 0 || text.len() < LEAST {
        words.cut(text);
        return;
    }
    let key = hash(text.as_bytes());
    let shard = &CACHE[key as usize % SHARDS];
    if let Some(entry) = shard.lock().unwrap_or_else(PoisonError::into_inner).entries.get(&key)
        && *entry.text == *text
    {
        words.set(&entry.spans);
        return;
    }
    words.cut(text);
    let entry = Entry { text: text.into(), spans: words.spans().into() };
    shard.lock().unwrap_or_else(PoisonError::into_inner).put(key, entry, memory / SHARDS);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: usize) -> String {
        format!("This is text number {number}, which is long enough to be kept: ")
            + &"one more word, ".repeat(10 + number % 7)
    }

    #[test]
    fn what_is_found_is_what_cutting_finds() {
        let held = SharedWords::hold(64 * 4_096);
        let (mut cached, mut fresh) = (Words::default(), Words::default());
        // Twice over more than fits, with hits among the latest.
        for number in (0..1_000).chain(900..1_000).chain(0..1_000) {
            let text = text(number);
            cut(&text, &mut cached);
            fresh.cut(&text);
            assert_eq!(cached.spans(), fresh.spans(), "{number}");
        }
        let bytes: usize = CACHE.iter().map(|shard| shard.lock().unwrap().bytes).sum();
        assert!(bytes > 64 * 1_024 && bytes <= 64 * 4_096, "{bytes}");
        drop(held);
        assert!(CACHE.iter().all(|shard| shard.lock().unwrap().entries.is_empty()));
    }
}
