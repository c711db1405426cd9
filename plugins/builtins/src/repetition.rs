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
    /// Each word, and the end of the text.
    words: Vec<Word>,
    known: Vec<Known>,
    /// Hash and number plus one of the words so far, an open table.
    table: Vec<(u32, u32)>,
    /// The words without anything between them, and [`SEED`] zeros.
    joined: Vec<u8>,
    /// Of the base of the polynomial.
    powers: Vec<u64>,
    /// Where a run may start that comes twice.
    places: Vec<u32>,
    runs: Runs,
    seeds: Vec<u32>,
    /// The slot of each place that was looked up, in order.
    found: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Word {
    id: u32,
    /// Characters of the words before it.
    chars: u32,
    /// Bytes of the words before it.
    start: u32,
    /// Polynomial hash of those bytes.
    hash: u64,
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

/// Runs seen so far, an open table: a number that stands for the run, where it came first and how often.
#[derive(Debug, Default)]
struct Runs {
    slots: Vec<Run>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Run {
    key: u64,
    first: u32,
    count: u32,
}

impl Runs {
    fn clear(&mut self, places: usize) {
        self.slots.clear();
        self.slots.resize((places * 2).next_power_of_two().max(16), Run::default());
    }

    /// Counts a run at `at`: its slot.
    fn count(&mut self, hash: u64, key: u64, at: u32, same: impl Fn(u32) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut place = (hash >> 16) as usize & mask;
        loop {
            let slot = &mut self.slots[place];
            if slot.count == 0 {
                *slot = Run { key, first: at, count: 1 };
                return place;
            }
            if slot.key == key && same(slot.first) {
                slot.count += 1;
                return place;
            }
            place = (place + 1) & mask;
        }
    }
}

impl WordRuns {
    /// Takes in the words of `text`.
    pub fn fill(&mut self, words: &Words, text: &str) {
        let bytes = text.as_bytes();
        let count = words.len();
        self.words.clear();
        self.words.reserve(count + 1);
        self.known.clear();
        self.joined.clear();
        self.joined.resize(bytes.len() + SEED, 0);
        self.table.clear();
        self.table.resize((count * 2).next_power_of_two(), (0, 0));
        if self.powers.is_empty() {
            self.powers.push(1);
        }
        let (mut chars, mut length, mut hash) = (0u32, 0usize, 0u64);
        for (start, end) in words.spans() {
            let (from, to) = (*start as usize, *end as usize);
            let id = self.number(bytes, from, to);
            self.words.push(Word { id, chars, start: length as u32, hash });
            let word = &mut self.known[id as usize];
            word.count += 1;
            chars += word.chars;
            hash = hash.wrapping_mul(word.power).wrapping_add(word.value);
            // Copies of a fixed length are two moves; what is too much is written over by the next word.
            match bytes.get(from..from + SEED) {
                Some(block) if to - from <= SEED => self.joined[length..length + SEED].copy_from_slice(block),
                _ => self.joined[length..length + to - from].copy_from_slice(&bytes[from..to]),
            }
            length += to - from;
        }
        self.words.push(Word { id: 0, chars, start: length as u32, hash });
        self.joined.truncate(length);
        self.joined.resize(length + SEED, 0);
    }

    fn len(&self) -> usize {
        self.words.len() - 1
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

    /// For runs of 2, 3, … words in turn: the characters of the most frequent one, joined by spaces, times how often it
    /// comes; of equally frequent ones the first counts. 0 if there is no run. Ends with the first for which `go_on` is
    /// false.
    pub fn top(&mut self, most: usize, mut go_on: impl FnMut(usize, usize) -> bool) {
        let words = &self.words[..self.len()];
        let repeats = |word: &Word| self.known[word.id as usize].count > 1;
        let pairs = words.windows(2).enumerate().filter(|(_, pair)| repeats(&pair[0]) && repeats(&pair[1]));
        // What a run of `n` words is: its runs of `n - 1` words at the first and at the second word.
        let mut keyed: Vec<(u32, u64)> = pairs.map(|(at, pair)| (at as u32, join(pair[0].id, pair[1].id))).collect();
        for n in 2..=most {
            let total = self.most_frequent(n, &mut keyed);
            if !go_on(n, total) {
                break;
            }
        }
    }

    /// Looks for the most frequent run of `n` words among `keyed`, and leaves there the runs of `n + 1` words that may
    /// come twice.
    fn most_frequent(&mut self, n: usize, keyed: &mut Vec<(u32, u64)>) -> usize {
        let count = self.len();
        if count < n {
            return 0;
        }
        self.runs.clear(keyed.len());
        self.found.clear();
        // If nothing comes twice, all are equally frequent, and the first is at the start.
        let (mut best, mut first) = (1, 0);
        for (at, key) in keyed.iter() {
            let slot = self.runs.count(mix(*key ^ FACTOR, FACTOR), *key, *at, |_| true);
            self.found.push(slot as u32);
            let run = self.runs.slots[slot];
            if run.count > 1 && (run.count > best || run.count == best && run.first < first) {
                (first, best) = (run.first, run.count);
            }
        }
        let chars = self.words[first as usize + n].chars - self.words[first as usize].chars;
        let mut left = 0;
        for next in 1..keyed.len() {
            let (at, after) = (keyed[next - 1].0, keyed[next].0);
            if after != at + 1 || at as usize + n >= count {
                continue;
            }
            let [one, two] = [next - 1, next].map(|at| self.runs.slots[self.found[at] as usize]);
            if one.count > 1 && two.count > 1 {
                keyed[left] = (at, join(one.first, two.first));
                left += 1;
            }
        }
        keyed.truncate(left);
        best as usize * (chars as usize + n - 1)
    }

    /// For runs of 5, 6, … words in turn: the characters of runs that came before, read from left to right without
    /// overlap. The runs are compared as texts without spaces, so `a bc` and `ab c` are the same. Ends with the first for
    /// which `go_on` is false.
    pub fn repeated(&mut self, lengths: std::ops::RangeInclusive<usize>, mut go_on: impl FnMut(usize, usize) -> bool) {
        self.seed(*lengths.start());
        let places = std::mem::take(&mut self.places);
        for n in lengths {
            let total = self.copies(n, &places);
            if !go_on(n, total) {
                break;
            }
        }
        self.places = places;
    }

    /// Finds the places whose next [`SEED`] bytes come twice, or whose run of `n` words is shorter than that. A place too
    /// many does no harm, so hashes stand for the bytes.
    fn seed(&mut self, n: usize) {
        const TWICE: u32 = 1;
        let count = (self.words.len()).saturating_sub(n);
        let mask = (count * 2).next_power_of_two() - 1;
        self.seeds.clear();
        self.seeds.resize(mask + 1, 0);
        self.found.clear();
        self.places.clear();
        for word in &self.words[..count] {
            let start = word.start as usize;
            let mut seed = [0; SEED];
            seed.copy_from_slice(&self.joined[start..start + SEED]);
            let seed = u128::from_le_bytes(seed);
            let hash = mix(seed as u64 ^ FACTOR, (seed >> 64) as u64 ^ 0xd6e8_feb8_6659_fd93);
            // 0 marks an empty slot, the lowest bit what came twice.
            let tag = (hash >> 32) as u32 & !TWICE | 2;
            let mut slot = hash as usize & mask;
            while self.seeds[slot] != 0 && self.seeds[slot] & !TWICE != tag {
                slot = (slot + 1) & mask;
            }
            self.seeds[slot] = if self.seeds[slot] == 0 { tag } else { tag | TWICE };
            self.found.push(slot as u32);
        }
        for (at, slot) in self.found.iter().enumerate() {
            let short = ((self.words[at + n].start - self.words[at].start) as usize) < SEED;
            if short || self.seeds[*slot as usize] & TWICE != 0 {
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
            let Some(end) = self.words.get(at + n) else { break };
            let (end, start) = (*end, self.words[at]);
            let power = self.power((end.start - start.start) as usize);
            let hash = end.hash.wrapping_sub(start.hash.wrapping_mul(power));
            let words = &self.words;
            let joined = &self.joined;
            let text = |at: usize| &joined[words[at].start as usize..words[at + n].start as usize];
            let same = |before: u32| text(before as usize) == text(at);
            let slot = self.runs.count(mix(hash, FACTOR), hash, *place, same);
            if self.runs.slots[slot].count > 1 {
                total += (end.chars - start.chars) as usize;
                next = at + n;
            }
        }
        total
    }
}

fn join(a: u32, b: u32) -> u64 {
    u64::from(a) << 32 | u64::from(b)
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
        let pool =
            ["a", "b", "ab", "ba", "é", "aa", ".", "international", "counterrevolutionaries", "the", "éa", "bab"];
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
            runs.top(4, |n, total| {
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
