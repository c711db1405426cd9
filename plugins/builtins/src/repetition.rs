//! Runs of words that a text repeats.
//!
//! A run that comes twice starts with something that comes twice: two repeated words for runs that are compared word by
//! word, the same 16 bytes for runs that are compared as text. Only where that holds are runs looked up, which in prose is
//! a few per cent of the places, and what is found is the same.

use std::ops::RangeInclusive;

#[cfg(test)]
use crate::chars;
use crate::hash::{eight, hash, mix};
use crate::words::{Span, Words};

/// Bytes that repeated runs of text share at their start.
const SEED: usize = 16;
/// What follows the last word.
const ZEROS: usize = SEED + 8;

/// The words of one text as numbers: equal words have equal numbers.
#[derive(Debug, Default)]
pub struct WordRuns {
    /// Each word, and the end of the text.
    words: Vec<Word>,
    known: Vec<Known>,
    /// A part of the hash and the number plus one of the words so far, an open table.
    table: Vec<(u32, u32)>,
    /// The words without anything between them, and [`ZEROS`].
    joined: Vec<u8>,
    /// Where a run may start that comes twice.
    places: Vec<Place>,
    /// How often the hash at each place came, in order.
    slots: Vec<u32>,
    seen: Counts,
    /// Of the runs that are shorter than [`SEED`].
    short: Counts,
    runs: Runs,
}

#[derive(Debug, Clone, Copy)]
struct Word {
    id: u32,
    /// Characters of the words before it.
    chars: u32,
    /// Bytes of the words before it.
    start: u32,
}

/// A word that came.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Its bytes, if it has at most 16; else their hash, and 0.
    key: (u64, u64),
    start: u32,
    length: u32,
    chars: u32,
    count: u32,
}

/// A place where a run of words starts.
#[derive(Debug, Default, Clone, Copy)]
struct Place {
    /// The word.
    at: u32,
    /// Bytes that are in the hash, for runs that are compared as text.
    hashed: u32,
    hash: u64,
}

/// How often hashes came, by a part of them: at least as often as they did.
#[derive(Debug, Default)]
struct Counts(Vec<u8>);

impl Counts {
    /// Forgets all and makes room, so that few of `expected` hashes are taken for another.
    fn clear(&mut self, expected: usize) {
        self.0.clear();
        self.0.resize((expected * 8).next_power_of_two().max(64), 0);
    }

    /// Where to ask for the hash.
    fn add(&mut self, hash: u64) -> u32 {
        let slot = self.slot(hash);
        self.0[slot as usize] = self.0[slot as usize].saturating_add(1);
        slot
    }

    fn slot(&self, hash: u64) -> u32 {
        (hash >> 24) as u32 & (self.0.len() - 1) as u32
    }

    /// Up to 255.
    fn of(&self, slot: u32) -> u8 {
        self.0[slot as usize]
    }
}

/// Runs seen so far, an open table: their hash, where they came first and how often.
#[derive(Debug, Default)]
struct Runs(Vec<Run>);

#[derive(Debug, Default, Clone, Copy)]
struct Run {
    hash: u64,
    first: u32,
    count: u32,
}

impl Runs {
    fn clear(&mut self, places: usize) {
        self.0.clear();
        self.0.resize((places * 2).next_power_of_two().max(16), Run::default());
    }

    /// Counts a run at `at`.
    fn count(&mut self, hash: u64, at: u32, same: impl Fn(u32) -> bool) -> Run {
        let mask = self.0.len() - 1;
        let mut slot = (hash >> 32) as usize & mask;
        loop {
            let run = &mut self.0[slot];
            if run.count == 0 {
                *run = Run { hash, first: at, count: 1 };
                return *run;
            }
            if run.hash == hash && same(run.first) {
                run.count += 1;
                return *run;
            }
            slot = (slot + 1) & mask;
        }
    }
}

impl WordRuns {
    /// Takes in the words of `text`.
    #[inline(never)]
    pub fn fill(&mut self, words: &Words, text: &str) {
        let bytes = text.as_bytes();
        let count = words.len();
        self.words.clear();
        self.words.reserve(count + 1);
        self.known.clear();
        // What is left of another text is written over, or never read.
        let room = bytes.len() + ZEROS;
        if self.joined.len() < room {
            self.joined.resize(room, 0);
        }
        self.table.clear();
        self.table.resize((count * 2).next_power_of_two(), (0, 0));
        let (mut chars, mut length) = (0u32, 0usize);
        for span in words.spans() {
            let id = self.number(bytes, *span);
            self.words.push(Word { id, chars, start: length as u32 });
            let word = &mut self.known[id as usize];
            word.count += 1;
            chars += word.chars;
            // Copies of a fixed length are two moves; what is too much is written over by the next word.
            let (from, size) = (span.start as usize, (span.end - span.start) as usize);
            match bytes.get(from..from + SEED) {
                Some(block) if size <= SEED => self.joined[length..length + SEED].copy_from_slice(block),
                _ => self.joined[length..length + size].copy_from_slice(&bytes[from..from + size]),
            }
            length += size;
        }
        self.words.push(Word { id: 0, chars, start: length as u32 });
        self.joined[length..length + ZEROS].fill(0);
    }

    fn len(&self) -> usize {
        self.words.len() - 1
    }

    fn number(&mut self, bytes: &[u8], span: Span) -> u32 {
        let (start, length) = (span.start as usize, (span.end - span.start) as usize);
        let key = if length <= SEED {
            (eight(bytes, start, length), if length > 8 { eight(bytes, start + 8, length - 8) } else { 0 })
        } else {
            (hash(&bytes[span.range()]), 0)
        };
        let hashed = mix(key.0, key.1 ^ length as u64);
        let mask = self.table.len() - 1;
        let tag = hashed as u32;
        let mut at = (hashed >> 32) as usize & mask;
        loop {
            let (known, id) = self.table[at];
            if id == 0 {
                break;
            }
            if known == tag {
                let known = &self.known[id as usize - 1];
                if known.key == key && known.length as usize == length {
                    let other = known.start as usize;
                    if length <= SEED || bytes[other..other + length] == bytes[span.range()] {
                        return id - 1;
                    }
                }
            }
            at = (at + 1) & mask;
        }
        let id = self.known.len() as u32;
        self.table[at] = (tag, id + 1);
        let continued = |byte: &&u8| **byte & 0xc0 == 0x80;
        let chars = if span.letters { length } else { length - bytes[span.range()].iter().filter(continued).count() };
        self.known.push(Known { key, start: span.start, length: length as u32, chars: chars as u32, count: 0 });
        id
    }

    /// For runs of 2, 3, … words in turn: the characters of the most frequent one, joined by spaces, times how often it
    /// comes; of equally frequent ones the first counts. 0 if there is no run. Ends with the first for which `go_on` is
    /// false, and then is false itself.
    pub fn top(&mut self, most: usize, mut go_on: impl FnMut(usize, usize) -> bool) -> bool {
        let count = self.len();
        let repeats = |word: &Word| self.known[word.id as usize].count > 1;
        self.places.clear();
        let pairs =
            self.words[..count].windows(2).enumerate().filter(|(_, pair)| repeats(&pair[0]) && repeats(&pair[1]));
        self.places.extend(pairs.map(|(at, pair)| Place {
            at: at as u32,
            hashed: 0,
            hash: mix(u64::from(pair[0].id), u64::from(pair[1].id)),
        }));
        (2..=most).all(|n| {
            let total = self.most_frequent(n);
            go_on(n, total)
        })
    }

    /// Looks for the most frequent run of `n` words among those that start at the places, and leaves there where runs of
    /// `n + 1` words start that may come twice.
    #[inline(never)]
    fn most_frequent(&mut self, n: usize) -> usize {
        let count = self.len();
        if count < n {
            return 0;
        }
        // A run whose hash did not come `least` times did not either. If nothing comes twice, all are equally frequent, and
        // the first is at the start.
        let (mut best, mut first) = (1, 0);
        let mut least = u32::from(self.count_hashes());
        while least > 1 {
            (best, first) = self.count_runs(n, least);
            if best >= least || least == 2 {
                break;
            }
            least = best.max(2);
        }
        let words = &self.words;
        let chars = words[first as usize + n].chars - words[first as usize].chars;
        let mut left = 0;
        for at in 1..self.places.len() {
            let (one, two) = (self.places[at - 1], self.places[at]);
            let twice = self.seen.of(self.slots[at - 1]) > 1 && self.seen.of(self.slots[at]) > 1;
            if twice && two.at == one.at + 1 && one.at as usize + n < count {
                let next = u64::from(words[one.at as usize + n].id);
                self.places[left] = Place { hash: mix(one.hash, next), ..one };
                left += 1;
            }
        }
        self.places.truncate(left);
        best as usize * (chars as usize + n - 1)
    }

    /// Of the runs of `n` words at the places whose hash came at least `least` times, how often the most frequent one came
    /// and where first.
    #[inline(never)]
    fn count_runs(&mut self, n: usize, least: u32) -> (u32, u32) {
        let may_be = |slot: &u32| u32::from(self.seen.of(*slot)) >= least;
        self.runs.clear(self.slots.iter().filter(|slot| may_be(slot)).count());
        let (mut best, mut first) = (1, 0);
        for (place, _) in self.places.iter().zip(&self.slots).filter(|(_, slot)| may_be(slot)) {
            let ids = |at: u32| self.words[at as usize..at as usize + n].iter().map(|word| word.id);
            let run = self.runs.count(place.hash, place.at, |before| ids(before).eq(ids(place.at)));
            if run.count > 1 && (run.count > best || run.count == best && run.first < first) {
                (first, best) = (run.first, run.count);
            }
        }
        (best, first)
    }

    /// Counts the hashes at the places: the largest count.
    #[inline(never)]
    fn count_hashes(&mut self) -> u8 {
        self.seen.clear(self.places.len());
        self.slots.clear();
        self.slots.extend(self.places.iter().map(|place| self.seen.add(place.hash)));
        self.slots.iter().map(|slot| self.seen.of(*slot)).max().unwrap_or(0)
    }

    /// For runs of 5, 6, … words in turn: the characters of runs that came before, read from left to right without
    /// overlap. The runs are compared as texts without spaces, so `a bc` and `ab c` are the same. Ends with the first for
    /// which `go_on` is false.
    pub fn repeated(&mut self, lengths: RangeInclusive<usize>, mut go_on: impl FnMut(usize, usize) -> bool) {
        self.find_places(*lengths.start());
        for n in lengths {
            let total = self.copies(n);
            if !go_on(n, total) {
                break;
            }
        }
    }

    /// Finds the places where a run of `n` or more words may start that comes twice. Equal runs are equally long, so those
    /// of [`SEED`] bytes share that many, and shorter ones half of that; a place too many does no harm, so hashes stand for
    /// the bytes.
    #[inline(never)]
    fn find_places(&mut self, n: usize) {
        let count = self.words.len().saturating_sub(n);
        let length = |at: usize| (self.words[at + n].start - self.words[at].start) as usize;
        self.places.clear();
        self.seen.clear(count);
        self.short.clear(count);
        self.slots.clear();
        for at in 0..count {
            let start = self.words[at].start as usize;
            let half = mix(0, eight(&self.joined, start, 8));
            let hash = mix(half, eight(&self.joined, start + 8, 8));
            self.slots.push(self.seen.add(hash));
            let place = Place { at: at as u32, hashed: SEED as u32, hash };
            let length = length(at);
            if length < SEED {
                self.short.add(half);
            }
            self.places.push(match length {
                SEED.. => place,
                8.. => Place { hashed: 8, hash: half, ..place },
                _ => Place { hashed: 0, hash: 0, ..place },
            });
        }
        let mut left = 0;
        for (at, slot) in self.slots.iter().enumerate() {
            let place = self.places[at];
            let is_short = place.hashed == 0 || place.hashed == 8 && self.short.of(self.short.slot(place.hash)) > 1;
            self.places[left] = place;
            left += usize::from(is_short | (self.seen.of(*slot) > 1));
        }
        self.places.truncate(left);
        // In the same way with a half more.
        self.seen.clear(left);
        self.slots.clear();
        self.slots.extend(self.places.iter().map(|place| {
            let start = self.words[place.at as usize].start as usize;
            let seed = if place.hashed < SEED as u32 { seed(&self.joined, start) } else { place.hash };
            self.seen.add(mix(seed, eight(&self.joined, start + SEED, 8)))
        }));
        left = 0;
        for (at, slot) in self.slots.iter().enumerate() {
            let place = self.places[at];
            self.places[left] = place;
            left += usize::from((length(place.at as usize) < SEED + 8) | (self.seen.of(*slot) > 1));
        }
        self.places.truncate(left);
    }

    /// Characters of runs of `n` words that came before, looked for at the places; `n` grows from call to call.
    #[inline(never)]
    fn copies(&mut self, n: usize) -> usize {
        let (words, joined) = (&self.words, &self.joined);
        let fits = self.places.partition_point(|place| (place.at as usize) + n < words.len());
        self.places.truncate(fits);
        self.slots.clear();
        self.seen.clear(fits);
        for place in &mut self.places {
            let (start, end) = (words[place.at as usize].start as usize, words[place.at as usize + n].start as usize);
            let mut from = start + place.hashed as usize;
            while from + 8 <= end {
                place.hash = mix(place.hash, eight(joined, from, 8));
                from += 8;
            }
            place.hashed = (from - start) as u32;
            self.slots.push(self.seen.add(whole_hash(*place, joined, start, end)));
        }
        let (mut total, mut next) = (0, 0);
        self.runs.clear(self.slots.iter().filter(|slot| self.seen.of(**slot) > 1).count());
        for (place, slot) in self.places.iter().zip(&self.slots) {
            let at = place.at as usize;
            // A run that comes once is no copy and has none.
            if at < next || self.seen.of(*slot) < 2 {
                continue;
            }
            let text = |at: usize| &joined[words[at].start as usize..words[at + n].start as usize];
            let hash = whole_hash(*place, joined, words[at].start as usize, words[at + n].start as usize);
            let run = self.runs.count(hash, place.at, |before| text(before as usize) == text(at));
            if run.count > 1 {
                total += (words[at + n].chars - words[at].chars) as usize;
                next = at + n;
            }
        }
        total
    }
}

/// The hash of the first [`SEED`] bytes of a run.
fn seed(joined: &[u8], start: usize) -> u64 {
    mix(mix(0, eight(joined, start, 8)), eight(joined, start + 8, 8))
}

/// The hash of a run from `start` to `end`, of which all but less than eight bytes are in that of the place.
fn whole_hash(place: Place, joined: &[u8], start: usize, end: usize) -> u64 {
    let from = start + place.hashed as usize;
    mix(place.hash ^ (end - start) as u64, eight(joined, from, end - from))
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
        let pool = [
            "a",
            "b",
            "ab",
            "ba",
            "é",
            "aa",
            ".",
            "international",
            "counterrevolutionaries",
            "counterrevolutionarily",
            "the",
            "éa",
            "bab",
        ];
        let mut runs = WordRuns::default();
        for round in 0..6_000 {
            let variety = 2 + next(pool.len() - 1);
            let words: Vec<&str> = (0..next(60)).map(|_| pool[next(variety)]).collect();
            let text = words.join(" ");
            let mut cut = Words::default();
            let mut at = 0;
            for word in &words {
                cut.extend(std::iter::once(Span { start: at, end: at + word.len() as u32, letters: false }));
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
