//! Gopher's repetition heuristics (Rae et al. 2021, arXiv 2112.11446, table A1), with datatrove's defaults and order.

use std::collections::HashMap;

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::trim;
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
    /// Characters of each word.
    lengths: Vec<u32>,
}

impl WordIds {
    fn fill(&mut self, words: &Words, text: &str) {
        self.ids.clear();
        self.lengths.clear();
        let mut known: HashMap<&str, u32> = HashMap::with_capacity(words.len());
        for word in words.iter(text) {
            let next = known.len() as u32;
            self.ids.push(*known.entry(word).or_insert(next));
            self.lengths.push(chars(word) as u32);
        }
    }

    /// Characters of the most frequent run of `n` words, joined by spaces, times how often it comes; of equally frequent
    /// ones the first counts. 0 if there is no run.
    fn top(&self, n: usize) -> usize {
        let mut counts: HashMap<&[u32], (usize, usize)> = HashMap::with_capacity(self.ids.len());
        for (at, run) in self.ids.windows(n).enumerate() {
            counts.entry(run).or_insert((0, at)).0 += 1;
        }
        let best = counts.values().max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        best.map_or(0, |(count, at)| {
            let letters: u32 = self.lengths[*at..*at + n].iter().sum();
            count * (letters as usize + n - 1)
        })
    }

    /// Characters of runs of `n` words that came before, read from left to right without overlap. The runs are compared as
    /// texts without spaces, so `a bc` and `ab c` are the same.
    fn repeated(&self, n: usize, words: &Words, text: &str) -> usize {
        let spans: Vec<&str> = words.iter(text).collect();
        let mut seen: HashMap<u64, Vec<usize>> = HashMap::with_capacity(self.ids.len());
        let mut total = 0;
        let mut at = 0;
        while at + n <= spans.len() {
            let run = &spans[at..at + n];
            let entry = seen.entry(hash(run)).or_default();
            if entry.iter().any(|before| same(&spans[*before..*before + n], run)) {
                total += self.lengths[at..at + n].iter().sum::<u32>() as usize;
                at += n;
            } else {
                entry.push(at);
                at += 1;
            }
        }
        total
    }
}

/// FNV-1a over the joined words.
fn hash(run: &[&str]) -> u64 {
    let bytes = run.iter().flat_map(|word| word.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn same(a: &[&str], b: &[&str]) -> bool {
    a.iter().flat_map(|word| word.bytes()).eq(b.iter().flat_map(|word| word.bytes()))
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
            let value = share(self.ids.repeated(at + 5, &self.words, text), length);
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
