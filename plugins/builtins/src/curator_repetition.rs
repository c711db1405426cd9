//! NeMo Curator's repetition heuristics, with the bounds of its published English pipeline.
//!
//! Of equally frequent runs of words the original takes one by the order of a hash table; here the first counts.

use std::collections::BTreeMap;

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::{is_space, trim};
use crate::lines::Pieces;
use crate::select::{above, below, in_order, measured};
use crate::{chars, share};

#[derive(Config)]
pub struct CuratorRepetitionConfig {
    /// Least share of different lines.
    #[config(default = 0.7, min = 0.0)]
    min_lines: f64,
    /// Least share of different paragraphs.
    #[config(default = 0.7, min = 0.0)]
    min_paragraphs: f64,
    /// Least share of characters in the first copies of lines.
    #[config(default = 0.8, min = 0.0)]
    min_line_chars: f64,
    /// Least share of characters in the first copies of paragraphs.
    #[config(default = 0.8, min = 0.0)]
    min_paragraph_chars: f64,
    /// Largest shares of characters in the most frequent run of 2, 3 and 4 words.
    #[config(default = vec![0.20, 0.18, 0.16])]
    max_top: Vec<f64>,
    /// Largest shares of characters in repeated runs of 5, 6, 7, 8, 9 and 10 words.
    #[config(default = vec![0.15, 0.14, 0.13, 0.12, 0.11, 0.10])]
    max_repeated: Vec<f64>,
}

/// What is measured, in the order in which it is checked. The first four always are, the rest up to the first that fails.
const SCORES: [(&str, ScoreKind); 13] = [
    ("different-lines", ScoreKind::Real),
    ("different-paragraphs", ScoreKind::Real),
    ("different-line-chars", ScoreKind::Real),
    ("different-paragraph-chars", ScoreKind::Real),
    ("top-2-words", ScoreKind::Real),
    ("top-3-words", ScoreKind::Real),
    ("top-4-words", ScoreKind::Real),
    ("repeated-5-words", ScoreKind::Real),
    ("repeated-6-words", ScoreKind::Real),
    ("repeated-7-words", ScoreKind::Real),
    ("repeated-8-words", ScoreKind::Real),
    ("repeated-9-words", ScoreKind::Real),
    ("repeated-10-words", ScoreKind::Real),
];
const ALWAYS: usize = 4;

/// Why a text goes, for each score.
const REASONS: [&str; 13] = [
    "repeated_lines",
    "repeated_paragraphs",
    "repeated_lines_char",
    "repeated_paragraphs_char",
    "repeating_top_2grams",
    "repeating_top_3grams",
    "repeating_top_4grams",
    "repeating_dup_5gram",
    "repeating_dup_6gram",
    "repeating_dup_7gram",
    "repeating_dup_8gram",
    "repeating_dup_9gram",
    "repeating_dup_10gram",
];

impl CuratorRepetitionConfig {
    /// Least values of the first four scores.
    fn least(&self) -> [f64; ALWAYS] {
        [self.min_lines, self.min_paragraphs, self.min_line_chars, self.min_paragraph_chars]
    }

    /// Largest value of the score at `at`, which is behind those four.
    fn most(&self, at: usize) -> Option<f64> {
        if at < 7 { self.max_top.get(at - 4).copied() } else { self.max_repeated.get(at - 7).copied() }
    }
}

/// Drops texts that NeMo Curator's heuristics on repetition drop.
pub struct CuratorRepetition {
    config: CuratorRepetitionConfig,
}

/// Each word as a number: equal words have equal ones.
fn numbered(words: &[&str]) -> Vec<u32> {
    let mut known: BTreeMap<&str, u32> = BTreeMap::new();
    words
        .iter()
        .map(|word| {
            let next = known.len() as u32;
            *known.entry(word).or_insert(next)
        })
        .collect()
}

/// Characters that go when the most frequent run of `n` words is deleted, as words joined by one space.
fn top(text: &str, words: &[&str], ids: &[u32], n: usize) -> Option<usize> {
    let mut counts: BTreeMap<&[u32], (usize, usize)> = BTreeMap::new();
    for (at, run) in ids.windows(n).enumerate() {
        counts.entry(run).or_insert((0, at)).0 += 1;
    }
    let (_, (_, at)) = counts.into_iter().max_by_key(|(_, (count, at))| (*count, std::cmp::Reverse(*at)))?;
    let run = words[at..at + n].join(" ");
    Some(text.matches(run.as_str()).count() * chars(&run))
}

/// Characters of runs of `n` words that came before, with their spaces; what two such runs share counts once.
fn copies(lengths: &[usize], ids: &[u32], n: usize) -> usize {
    let mut seen: BTreeMap<&[u32], ()> = BTreeMap::new();
    let (mut total, mut overlap) = (0, 0usize);
    for (at, run) in ids.windows(n).enumerate() {
        if seen.insert(run, ()).is_some() {
            let new: usize = lengths[at + overlap..at + n].iter().sum();
            total += new + (n - overlap).min(n - 1);
            overlap = n;
        }
        overlap = overlap.saturating_sub(1);
    }
    total
}

impl Filter for CuratorRepetition {
    type Config = CuratorRepetitionConfig;

    const ABOUT: About = About {
        name: "curator-repetition",
        version: "2",
        about: "Drops texts that repeat lines, paragraphs or runs of words, by NeMo Curator's rules.",
        text: "",
        reads: &[],
        scores: &SCORES,
        reasons: &REASONS,
        edits: false,
    };

    fn open(config: CuratorRepetitionConfig) -> Result<Self, String> {
        for (name, found, most) in
            [("max_top", config.max_top.len(), 3), ("max_repeated", config.max_repeated.len(), 6)]
        {
            if found > most {
                return Err(format!("`{name}` has {found} bounds, the most are {most}"));
            }
        }
        Ok(Self { config })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let (text, config) = (row.text(), &self.config);
        let breaks = crate::lines::line_feeds(text);
        let mut table = Pieces::default();
        let mut different = |pieces: &mut dyn Iterator<Item = &str>| {
            let mut characters = 0;
            let found = table.repeated(text, pieces.inspect(|piece| characters += chars(piece)), breaks + 1);
            (share(found.pieces - found.copies, found.pieces), share(characters - found.characters, characters))
        };
        let lines = different(&mut text.split('\n').filter(|line| !trim(line).is_empty()));
        let paragraphs = if trim(text).is_empty() { (0.0, 0.0) } else { different(&mut text.split("\n\n")) };
        let shares = [lines.0, paragraphs.0, lines.1, paragraphs.1];
        scores.set_from(0, &shares);
        let least = config.least();
        if let Some(at) = (0..ALWAYS).find(|at| shares[*at] < least[*at]) {
            return Verdict::Drop(REASONS[at]);
        }
        let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
        let ids = numbered(&words);
        let length = chars(text);
        let lengths: Vec<usize> = words.iter().map(|word| chars(word)).collect();
        for (at, reason) in REASONS.into_iter().enumerate().skip(ALWAYS) {
            let value = if at < 7 {
                top(text, &words, &ids, at - 2).map_or(1.0, |characters| share(characters, length))
            } else if words.len() < at - 2 {
                1.0
            } else {
                share(copies(&lengths, &ids, at - 2), length)
            };
            scores.set_from(at, &[value]);
            if config.most(at).is_some_and(|most| value > most) {
                return Verdict::Drop(reason);
            }
        }
        Verdict::Keep
    }

    const THRESHOLDS: &'static [&'static str] =
        &["min_lines", "min_paragraphs", "min_line_chars", "min_paragraph_chars", "max_top", "max_repeated"];

    fn measured(reason: &str) -> usize {
        measured(reason, &REASONS, ALWAYS)
    }

    fn select(&self, scores: &[f32], before: Option<&str>) -> Option<Verdict> {
        let least = self.config.least();
        in_order(scores, before, &REASONS, ALWAYS, |at, score| match least.get(at) {
            Some(least) => below(score, *least),
            None => self.config.most(at).map_or(Some(false), |most| above(score, most)),
        })
    }
}
