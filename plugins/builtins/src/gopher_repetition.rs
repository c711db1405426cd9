//! Gopher's repetition heuristics (Rae et al. 2021, arXiv 2112.11446, table A1), with datatrove's defaults and order.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::trim;
use crate::hash::Table;
use crate::lines::{duplicates, split_runs};
use crate::words::Words;
use crate::{chars, share};

#[derive(Config)]
pub struct GopherRepetitionConfig {
    /// Largest share of repeated paragraphs; 0 for no bound.
    #[config(default = 0.3, min = 0.0)]
    max_paragraphs: f64,
    /// Largest share of characters in repeated paragraphs; 0 for no bound.
    #[config(default = 0.2, min = 0.0)]
    max_paragraph_chars: f64,
    /// Largest share of repeated lines; 0 for no bound.
    #[config(default = 0.3, min = 0.0)]
    max_lines: f64,
    /// Largest share of characters in repeated lines; 0 for no bound.
    #[config(default = 0.2, min = 0.0)]
    max_line_chars: f64,
    /// Largest shares of characters in the most frequent run of 2, 3 and 4 words.
    #[config(default = vec![0.20, 0.18, 0.16])]
    max_top: Vec<f64>,
    /// Largest shares of characters in repeated runs of 5, 6, 7, 8, 9 and 10 words.
    #[config(default = vec![0.15, 0.14, 0.13, 0.12, 0.11, 0.10])]
    max_repeated: Vec<f64>,
}

const TOP: [&str; 3] = ["top_2_gram", "top_3_gram", "top_4_gram"];
const REPEATED: [&str; 6] = [
    "duplicated_5_n_grams",
    "duplicated_6_n_grams",
    "duplicated_7_n_grams",
    "duplicated_8_n_grams",
    "duplicated_9_n_grams",
    "duplicated_10_n_grams",
];

/// Drops texts that say the same over and over.
pub struct GopherRepetition {
    config: GopherRepetitionConfig,
    words: Words,
    ids: WordIds,
}

/// The words of one text as numbers: equal words have equal numbers.
#[derive(Default)]
struct WordIds {
    ids: Vec<u32>,
    /// Characters before each word, and after the last.
    chars: Vec<u32>,
    /// Bytes of the words before each word, and after the last.
    starts: Vec<u32>,
    /// The words without anything between them.
    joined: Vec<u8>,
    /// Polynomial hashes of `joined` up to each byte, and the powers of its base.
    hashes: Vec<u64>,
    powers: Vec<u64>,
    runs: Runs,
}

/// Runs seen so far: an open table of where each came first and how often it came.
#[derive(Default)]
struct Runs {
    slots: Vec<(u32, u32)>,
}

impl Runs {
    fn clear(&mut self, words: usize) {
        self.slots.clear();
        self.slots.resize((words * 2).next_power_of_two().max(16), (0, 0));
    }

    /// The slot of a run that is at `at`, empty (count 0) if it comes for the first time.
    fn find(&mut self, hash: u64, same: impl Fn(usize) -> bool) -> &mut (u32, u32) {
        let mask = self.slots.len() - 1;
        let mut at = (hash ^ hash >> 29) as usize & mask;
        while self.slots[at].1 != 0 && !same(self.slots[at].0 as usize) {
            at = (at + 1) & mask;
        }
        &mut self.slots[at]
    }
}

const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

impl WordIds {
    fn fill(&mut self, words: &Words, text: &str) {
        self.ids.clear();
        self.joined.clear();
        self.chars.clear();
        self.starts.clear();
        self.hashes.clear();
        let mut known: Table<&str, u32> = Table::default();
        let (mut characters, mut hash) = (0u32, 0u64);
        self.hashes.push(hash);
        for word in words.iter(text) {
            let next = known.len() as u32;
            self.ids.push(*known.entry(word).or_insert(next));
            self.chars.push(characters);
            self.starts.push(self.joined.len() as u32);
            characters += chars(word) as u32;
            self.joined.extend_from_slice(word.as_bytes());
            for byte in word.bytes() {
                hash = hash.wrapping_mul(BASE).wrapping_add(u64::from(byte) + 1);
                self.hashes.push(hash);
            }
        }
        self.chars.push(characters);
        self.starts.push(self.joined.len() as u32);
        if self.powers.is_empty() {
            self.powers.push(1);
        }
    }

    /// Characters of the most frequent run of `n` words, joined by spaces, times how often it comes; of equally frequent
    /// ones the first counts. 0 if there is no run.
    fn top(&mut self, n: usize) -> usize {
        let ids = &self.ids;
        self.runs.clear(ids.len());
        let (mut best, mut first) = (0, 0);
        for at in 0..(ids.len() + 1).saturating_sub(n) {
            let run = &ids[at..at + n];
            let hash = run.iter().fold(0, |hash: u64, id| hash.wrapping_mul(BASE).wrapping_add(u64::from(*id) + 1));
            let slot = self.runs.find(hash, |before| ids[before..before + n] == *run);
            if slot.1 == 0 {
                slot.0 = at as u32;
            }
            slot.1 += 1;
            if slot.1 > best || slot.1 == best && slot.0 < first {
                (first, best) = *slot;
            }
        }
        if best == 0 {
            return 0;
        }
        let letters = self.chars[first as usize + n] - self.chars[first as usize];
        best as usize * (letters as usize + n - 1)
    }

    /// Characters of runs of `n` words that came before, read from left to right without overlap. The runs are compared as
    /// texts without spaces, so `a bc` and `ab c` are the same.
    fn repeated(&mut self, n: usize) -> usize {
        let words = self.ids.len();
        self.runs.clear(words);
        let (mut total, mut at) = (0, 0);
        while at + n <= words {
            let range = |at: usize| self.starts[at] as usize..self.starts[at + n] as usize;
            let run = range(at);
            while self.powers.len() <= run.len() {
                let last = self.powers[self.powers.len() - 1];
                self.powers.push(last.wrapping_mul(BASE));
            }
            let start = self.hashes[run.start].wrapping_mul(self.powers[run.len()]);
            let hash = self.hashes[run.end].wrapping_sub(start);
            let joined = &self.joined;
            let slot = self.runs.find(hash, |before| joined[range(before)] == joined[run.clone()]);
            if slot.1 == 0 {
                *slot = (at as u32, 1);
                at += 1;
            } else {
                total += (self.chars[at + n] - self.chars[at]) as usize;
                at += n;
            }
        }
        total
    }
}

impl GopherRepetition {
    fn verdict(&mut self, text: &str, scores: &mut Scores<'_>) -> Option<&'static str> {
        let config = &self.config;
        if text.is_empty() {
            return Some("empty");
        }
        let length = chars(text);
        let over = |value: f64, bound: f64| bound != 0.0 && value > bound;

        let stripped = trim(text);
        let (count, characters) = duplicates(split_runs(stripped, 2));
        let paragraphs = split_runs(stripped, 2).count();
        scores.set("repeated-paragraphs", share(count, paragraphs) as f32);
        let mut found = None;
        let mut check = |fails: bool, reason: &'static str| found = found.or(fails.then_some(reason));
        check(over(share(count, paragraphs), config.max_paragraphs), "dup_para_frac");
        check(over(share(characters, length), config.max_paragraph_chars), "dup_para_char_frac");

        let (count, characters) = duplicates(split_runs(text, 1));
        let lines = split_runs(text, 1).count();
        scores.set("repeated-lines", share(count, lines) as f32);
        check(over(share(count, lines), config.max_lines), "dup_line_frac");
        check(over(share(characters, length), config.max_line_chars), "dup_line_char_frac");
        if found.is_some() {
            return found;
        }

        self.words.cut(text);
        self.ids.fill(&self.words, text);
        for ((at, bound), reason) in config.max_top.iter().enumerate().zip(TOP) {
            let value = share(self.ids.top(at + 2), length);
            if at == 0 {
                scores.set("top-2-words", value as f32);
            }
            if value > *bound {
                return Some(reason);
            }
        }
        for ((at, bound), reason) in config.max_repeated.iter().enumerate().zip(REPEATED) {
            let value = share(self.ids.repeated(at + 5), length);
            if at == 0 {
                scores.set("repeated-5-words", value as f32);
            }
            if value > *bound {
                return Some(reason);
            }
        }
        None
    }
}

impl Filter for GopherRepetition {
    type Config = GopherRepetitionConfig;

    const ABOUT: About = About {
        name: "gopher-repetition",
        version: "1",
        about: "Drops texts that repeat paragraphs, lines or runs of words.",
        text: "",
        reads: &[],
        scores: &[
            ("repeated-paragraphs", ScoreKind::Real),
            ("repeated-lines", ScoreKind::Real),
            ("top-2-words", ScoreKind::Real),
            ("repeated-5-words", ScoreKind::Real),
        ],
        reasons: &[
            "empty",
            "dup_para_frac",
            "dup_para_char_frac",
            "dup_line_frac",
            "dup_line_char_frac",
            "top_2_gram",
            "top_3_gram",
            "top_4_gram",
            "duplicated_5_n_grams",
            "duplicated_6_n_grams",
            "duplicated_7_n_grams",
            "duplicated_8_n_grams",
            "duplicated_9_n_grams",
            "duplicated_10_n_grams",
        ],
        edits: false,
    };

    fn open(config: GopherRepetitionConfig) -> Result<Self, String> {
        if config.max_top.len() > TOP.len() {
            return Err(format!("`max_top` has {} bounds, the most are {}", config.max_top.len(), TOP.len()));
        }
        if config.max_repeated.len() > REPEATED.len() {
            let found = config.max_repeated.len();
            return Err(format!("`max_repeated` has {found} bounds, the most are {}", REPEATED.len()));
        }
        Ok(Self { config, words: Words::default(), ids: WordIds::default() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        self.verdict(row.text(), scores).map_or(Verdict::Keep, Verdict::Drop)
    }
}
