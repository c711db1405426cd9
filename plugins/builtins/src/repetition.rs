//! Runs of words that a text repeats.
//!
//! A run that comes twice starts with something that comes twice: two repeated words for runs that are compared word by
//! word, the same 16 bytes for runs that are compared as text. Only where that holds are runs looked up, which in prose is
//! a few per cent of the places, and what is found is the same.

#[cfg(test)]
use crate::chars;
use crate::hash::{FACTOR, hash, mix};
use crate::words::Words;

/// Bytes that repeated runs of text must share at their start.
const SEED: usize = 16;

/// The words of one text as numbers: equal words have equal numbers.
#[derive(Debug, Default)]
pub struct WordRuns {
    ids: Vec<u32>,
    known: Vec<Known>,
    /// Hash and number plus one of the words so far, an open table.
    table: Vec<(u32, u32)>,
    /// Characters before each word, and after the last.
    chars: Vec<u32>,
    /// Bytes of the words before each word, and after the last.
    starts: Vec<u32>,
    /// The words without anything between them, and [`SEED`] zeros.
    joined: Vec<u8>,
    /// Polynomial hashes of `joined` up to each word.
    hashes: Vec<u64>,
    /// Of the base of the polynomial.
    powers: Vec<u64>,
    /// Where a run may start that comes twice.
    places: Vec<u32>,
    runs: Runs,
}

/// A word that came.
#[derive(Debug, Clone, Copy)]
struct Known {
    start: u32,
    end: u32,
    chars: u32,
    count: u32,
    /// Its polynomial, and the power of the base that shifts by its length.
    value: u64,
    power: u64,
}

/// Runs seen so far: an open table of where each came first and how often it came.
#[derive(Debug, Default)]
struct Runs {
    slots: Vec<(u32, u32)>,
    /// The slot of each place that was looked up, in order.
    found: Vec<u32>,
}

impl Runs {
    fn clear(&mut self, places: usize) {
        self.slots.clear();
        self.slots.resize((places * 2).next_power_of_two().max(16), (0, 0));
        self.found.clear();
    }

    /// The slot of a run, empty (count 0) if it comes for the first time.
    fn find(&mut self, hash: u64, same: impl Fn(usize) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (hash ^ hash >> 29) as usize & mask;
        while self.slots[at].1 != 0 && !same(self.slots[at].0 as usize) {
            at = (at + 1) & mask;
        }
        at
    }
}

impl WordRuns {
    /// Takes in the words of `text`.
    pub fn fill(&mut self, words: &Words, text: &str) {
        let bytes = text.as_bytes();
        let count = words.len();
        self.ids.clear();
        self.known.clear();
        self.chars.clear();
        self.starts.clear();
        self.hashes.clear();
        self.places.clear();
        self.joined.clear();
        self.joined.resize(bytes.len() + SEED, 0);
        self.table.clear();
        self.table.resize((count * 2).next_power_of_two(), (0, 0));
        if self.powers.is_empty() {
            self.powers.push(1);
        }
        let (mut characters, mut length, mut polynomial) = (0u32, 0usize, 0u64);
        self.hashes.push(polynomial);
        for (start, end) in words.spans() {
            let (from, to) = (*start as usize, *end as usize);
            let id = self.number(bytes, from, to);
            let word = &mut self.known[id as usize];
            word.count += 1;
            self.ids.push(id);
            self.chars.push(characters);
            self.starts.push(length as u32);
            characters += word.chars;
            polynomial = polynomial.wrapping_mul(word.power).wrapping_add(word.value);
            self.hashes.push(polynomial);
            // Copies of a fixed length are two moves; what is too much is written over by the next word.
            match bytes.get(from..from + SEED) {
                Some(block) if to - from <= SEED => self.joined[length..length + SEED].copy_from_slice(block),
                _ => self.joined[length..length + to - from].copy_from_slice(&bytes[from..to]),
            }
            length += to - from;
        }
        self.chars.push(characters);
        self.starts.push(length as u32);
        self.joined.truncate(length);
        self.joined.resize(length + SEED, 0);
    }

    fn number(&mut self, bytes: &[u8], from: usize, to: usize) -> u32 {
        let word = &bytes[from..to];
        let hashed = hash(word);
        let mask = self.table.len() - 1;
        let tag = (hashed >> 32) as u32;
        let mut at = hashed as usize & mask;
        loop {
            let (known, id) = self.table[at];
            if id == 0 {
                break;
            }
            if known == tag {
                let known = &self.known[id as usize - 1];
                if bytes[known.start as usize..known.end as usize] == *word {
                    return id - 1;
                }
            }
            at = (at + 1) & mask;
        }
        let id = self.known.len() as u32;
        self.table[at] = (tag, id + 1);
        let value = word.iter().fold(0u64, |hash, byte| hash.wrapping_mul(FACTOR).wrapping_add(u64::from(*byte) + 1));
        let chars = if word.is_ascii() { word.len() } else { word.iter().filter(|byte| **byte & 0xc0 != 0x80).count() };
        let power = self.power(word.len());
        self.known.push(Known { start: from as u32, end: to as u32, chars: chars as u32, count: 0, value, power });
        id
    }

    fn power(&mut self, exponent: usize) -> u64 {
        while self.powers.len() <= exponent {
            let last = self.powers[self.powers.len() - 1];
            self.powers.push(last.wrapping_mul(FACTOR));
        }
        self.powers[exponent]
    }

    /// For runs of 2, 3, … words in turn, up to `bounds.len() + 1`: the characters of the most frequent one, joined by
    /// spaces, times how often it comes; of equally frequent ones the first counts. 0 if there is no run. Ends with the
    /// first for which `go_on` is false.
    pub fn top(&mut self, lengths: std::ops::RangeInclusive<usize>, mut go_on: impl FnMut(usize, usize) -> bool) {
        let repeats = |id: u32| self.known[id as usize].count > 1;
        let mut places: Vec<u32> = std::mem::take(&mut self.places);
        places.clear();
        places.extend(
            self.ids.windows(2).enumerate().filter(|(_, pair)| repeats(pair[0]) && repeats(pair[1])).map(|(at, _)| at as u32),
        );
        for n in lengths {
            let total = self.most_frequent(n, &mut places);
            if !go_on(n, total) {
                break;
            }
        }
        self.places = places;
    }

    /// Looks for the most frequent run of `n` words at `places`, and leaves there the places of runs of `n + 1` words
    /// that may come twice.
    fn most_frequent(&mut self, n: usize, places: &mut Vec<u32>) -> usize {
        let ids = &self.ids;
        if ids.len() < n {
            return 0;
        }
        self.runs.clear(places.len());
        // If nothing comes twice, all are equally frequent, and the first is at the start.
        let (mut best, mut first) = (1, 0);
        for at in places.iter() {
            let run = &ids[*at as usize..*at as usize + n];
            let hash = run.iter().fold(0, |hash: u64, id| mix(hash ^ u64::from(*id) ^ FACTOR, FACTOR));
            let slot = self.runs.find(hash, |before| ids[before..before + n] == *run);
            self.runs.found.push(slot as u32);
            let slot = &mut self.runs.slots[slot];
            if slot.1 == 0 {
                slot.0 = *at;
            }
            slot.1 += 1;
            if slot.1 > 1 && (slot.1 > best || slot.1 == best && slot.0 < first) {
                (first, best) = *slot;
            }
        }
        let letters = self.chars[first as usize + n] - self.chars[first as usize];
        // A longer run comes twice only if the runs at its first and its second word do.
        let twice = |at: usize| self.runs.slots[self.runs.found[at] as usize].1 > 1;
        let mut left = 0;
        for at in 0..places.len() {
            let next = at + 1;
            let longer = next < places.len() && places[next] == places[at] + 1 && twice(at) && twice(next);
            if longer && (places[at] as usize) + n < ids.len() {
                places[left] = places[at];
                left += 1;
            }
        }
        places.truncate(left);
        best as usize * (letters as usize + n - 1)
    }

    /// For runs of 5, 6, … words in turn: the characters of runs that came before, read from left to right without
    /// overlap. The runs are compared as texts without spaces, so `a bc` and `ab c` are the same. Ends with the first for
    /// which `go_on` is false.
    pub fn repeated(&mut self, lengths: std::ops::RangeInclusive<usize>, mut go_on: impl FnMut(usize, usize) -> bool) {
        self.seeds(*lengths.start());
        let places = std::mem::take(&mut self.places);
        for n in lengths {
            let total = self.copies(n, &places);
            if !go_on(n, total) {
                break;
            }
        }
        self.places = places;
    }

    /// Finds the places whose next [`SEED`] bytes come twice, or whose run of `n` words is shorter than that.
    fn seeds(&mut self, n: usize) {
        let count = (self.ids.len() + 1).saturating_sub(n);
        self.runs.clear(count);
        self.places.clear();
        let seed = |at: usize| {
            let start = self.starts[at] as usize;
            let mut seed = [0; SEED];
            seed.copy_from_slice(&self.joined[start..start + SEED]);
            u128::from_le_bytes(seed)
        };
        for at in 0..count {
            let own = seed(at);
            let hash = mix(own as u64 ^ FACTOR, (own >> 64) as u64 ^ 0xd6e8_feb8_6659_fd93);
            let slot = self.runs.find(hash, |before| seed(before) == own);
            self.runs.found.push(slot as u32);
            let slot = &mut self.runs.slots[slot];
            if slot.1 == 0 {
                slot.0 = at as u32;
            }
            slot.1 += 1;
        }
        for at in 0..count {
            let twice = self.runs.slots[self.runs.found[at] as usize].1 > 1;
            if twice || ((self.starts[at + n] - self.starts[at]) as usize) < SEED {
                self.places.push(at as u32);
            }
        }
    }

    fn copies(&mut self, n: usize, places: &[u32]) -> usize {
        self.runs.clear(places.len());
        let (mut total, mut next) = (0, 0);
        for place in places {
            let at = *place as usize;
            if at < next {
                continue;
            }
            if at + n > self.ids.len() {
                break;
            }
            let range = |at: usize| self.starts[at] as usize..self.starts[at + n] as usize;
            let run = range(at);
            let length = run.len();
            while self.powers.len() <= length {
                let last = self.powers[self.powers.len() - 1];
                self.powers.push(last.wrapping_mul(FACTOR));
            }
            let hash = self.hashes[at + n].wrapping_sub(self.hashes[at].wrapping_mul(self.powers[length]));
            let joined = &self.joined;
            let slot = self.runs.find(hash, |before| joined[range(before)] == joined[run.clone()]);
            let slot = &mut self.runs.slots[slot];
            if slot.1 == 0 {
                *slot = (*place, 1);
            } else {
                total += (self.chars[at + n] - self.chars[at]) as usize;
                next = at + n;
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definitions, word by word.
    fn plain_top(words: &[&str], n: usize) -> usize {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for run in words.windows(n) {
            let run = run.join(" ");
            match counts.iter_mut().find(|(known, _)| *known == run) {
                Some((_, count)) => *count += 1,
                None => counts.push((run, 1)),
            }
        }
        let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
        counts.iter().find(|(_, count)| *count == most).map_or(0, |(run, count)| chars(run) * count)
    }

    fn plain_repeated(words: &[&str], n: usize) -> usize {
        let (mut seen, mut at, mut total) = (Vec::new(), 0, 0);
        while at + n <= words.len() {
            let run = words[at..at + n].concat();
            if seen.contains(&run) {
                total += chars(&run);
                at += n;
            } else {
                seen.push(run);
                at += 1;
            }
        }
        total
    }

    #[test]
    fn finds_what_the_definitions_find() {
        let mut state = 11u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        // Few words, some of which are others joined, make ambiguous runs; long ones make long seeds.
        let pool = ["a", "b", "ab", "ba", "é", "aa", ".", "international", "counterrevolutionaries", "the", "éa", "bab"];
        let mut runs = WordRuns::default();
        for round in 0..600 {
            let variety = 2 + next(pool.len() - 1);
            let words: Vec<&str> = (0..next(60)).map(|_| pool[next(variety)]).collect();
            let text = words.join(" ");
            let mut cut = Words::default();
            let mut at = 0;
            for word in &words {
                cut.append(at, at + word.len() as u32);
                at += word.len() as u32 + 1;
            }
            runs.fill(&cut, &text);
            let mut found = Vec::new();
            runs.top(2..=4, |n, total| {
                found.push((n, total));
                true
            });
            let wanted: Vec<(usize, usize)> = (2..=4).map(|n| (n, plain_top(&words, n))).collect();
            assert_eq!(found, wanted, "{round}: {text}");
            found.clear();
            runs.repeated(5..=10, |n, total| {
                found.push((n, total));
                true
            });
            let wanted: Vec<(usize, usize)> = (5..=10).map(|n| (n, plain_repeated(&words, n))).collect();
            assert_eq!(found, wanted, "{round}: {text}");
        }
    }
}
