//! NeMo Curator's repetition heuristics, with the bounds of its published English pipeline.
//!
//! Of equally frequent runs of words the original takes one by the order of a hash table; here the first counts.

use std::collections::BTreeMap;

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::{is_space, trim};
use crate::lines::Pieces;
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

const TOP: [&str; 3] = ["repeating_top_2grams", "repeating_top_3grams", "repeating_top_4grams"];
const REPEATED: [&str; 6] = [
    "repeating_dup_5gram",
    "repeating_dup_6gram",
    "repeating_dup_7gram",
    "repeating_dup_8gram",
    "repeating_dup_9gram",
    "repeating_dup_10gram",
];

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
        version: "1",
        about: "Drops texts that repeat lines, paragraphs or runs of words, by NeMo Curator's rules.",
        text: "",
        reads: &[],
        scores: &[("different-lines", ScoreKind::Real), ("different-paragraphs", ScoreKind::Real)],
        reasons: &[
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
        ],
        edits: false,
    };

    fn open(config: CuratorRepetitionConfig) -> Result<Self, String> {
        for (name, found, most) in
            [("max_top", config.max_top.len(), TOP.len()), ("max_repeated", config.max_repeated.len(), REPEATED.len())]
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
        scores.set("different-lines", lines.0 as f32);
        scores.set("different-paragraphs", paragraphs.0 as f32);
        for (fails, reason) in [
            (lines.0 < config.min_lines, "repeated_lines"),
            (paragraphs.0 < config.min_paragraphs, "repeated_paragraphs"),
            (lines.1 < config.min_line_chars, "repeated_lines_char"),
            (paragraphs.1 < config.min_paragraph_chars, "repeated_paragraphs_char"),
        ] {
            if fails {
                return Verdict::Drop(reason);
            }
        }
        let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
        let ids = numbered(&words);
        let length = chars(text);
        for ((at, bound), reason) in config.max_top.iter().enumerate().zip(TOP) {
            let value = top(text, &words, &ids, at + 2).map_or(1.0, |characters| share(characters, length));
            if value > *bound {
                return Verdict::Drop(reason);
            }
        }
        let lengths: Vec<usize> = words.iter().map(|word| chars(word)).collect();
        for ((at, bound), reason) in config.max_repeated.iter().enumerate().zip(REPEATED) {
            let n = at + 5;
            let value = if words.len() < n { 1.0 } else { share(copies(&lengths, &ids, n), length) };
            if value > *bound {
                return Verdict::Drop(reason);
            }
        }
        Verdict::Keep
    }
}
