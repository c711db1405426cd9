//! Gopher's repetition heuristics (Rae et al. 2021, arXiv 2112.11446, table A1), with datatrove's defaults and order.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::trim;
use crate::lines::{Pieces, Repeated, has_paragraphs, line_feeds, split_runs};
use crate::repetition::WordRuns;
use crate::select::{above, in_order, measured};
use crate::shared::with_words;
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

/// What is measured, in the order in which it is checked. The first four always are, the rest up to the first that fails.
const SCORES: [(&str, ScoreKind); 13] = [
    ("repeated-paragraphs", ScoreKind::Real),
    ("repeated-paragraph-chars", ScoreKind::Real),
    ("repeated-lines", ScoreKind::Real),
    ("repeated-line-chars", ScoreKind::Real),
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

/// Why a text goes, for each score; last, for a text of nothing.
const REASONS: [&str; 14] = [
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
    EMPTY,
];
const EMPTY: &str = "empty";

/// Most bounds of `max_top` and of `max_repeated`.
const TOP: usize = 3;
const REPEATED: usize = 6;

impl GopherRepetitionConfig {
    /// The largest value of the score at `at` that stays.
    fn bound(&self, at: usize) -> Option<f64> {
        let on = |bound: f64| Some(bound).filter(|bound| *bound != 0.0);
        match at {
            0 => on(self.max_paragraphs),
            1 => on(self.max_paragraph_chars),
            2 => on(self.max_lines),
            3 => on(self.max_line_chars),
            4..7 => self.max_top.get(at - 4).copied(),
            _ => self.max_repeated.get(at - 7).copied(),
        }
    }
}

/// Drops texts that say the same over and over.
pub struct GopherRepetition {
    config: GopherRepetitionConfig,
    pieces: Pieces,
    runs: WordRuns,
}

impl GopherRepetition {
    fn verdict(&mut self, text: &str, scores: &mut Scores<'_>) -> Option<&'static str> {
        if text.is_empty() {
            return Some(EMPTY);
        }
        let length = chars(text);
        let breaks = line_feeds(text);
        let paragraphs = if has_paragraphs(text) {
            self.pieces.repeated(text, split_runs(trim(text), 2), breaks + 1)
        } else {
            Repeated { pieces: 1, ..Repeated::default() }
        };
        let lines = self.pieces.repeated(text, split_runs(text, 1), breaks + 1);
        let mut found = None;
        for (at, repeated) in [paragraphs, lines].into_iter().enumerate() {
            let shares = [share(repeated.copies, repeated.pieces), share(repeated.characters, length)];
            scores.set_from(2 * at, &shares);
            let fails = |part: usize| self.config.bound(2 * at + part).is_some_and(|bound| shares[part] > bound);
            found = found.or((0..2).find(|part| fails(*part)).map(|part| REASONS[2 * at + part]));
        }
        if found.is_some() {
            return found;
        }

        with_words(text, |words| self.runs.fill(words, text));
        let config = &self.config;
        let mut check = |n: usize, total: usize| {
            let (at, value) = (n + 2, share(total, length));
            scores.set_from(at, &[value]);
            found = config.bound(at).is_some_and(|bound| value > bound).then(|| REASONS[at]);
            found.is_none()
        };
        if self.runs.top(4, &mut check) {
            self.runs.repeated(5..=10, &mut check);
        }
        found
    }
}

impl Filter for GopherRepetition {
    type Config = GopherRepetitionConfig;

    const ABOUT: About = About {
        name: "gopher-repetition",
        version: "2",
        about: "Drops texts that repeat paragraphs, lines or runs of words.",
        text: "",
        reads: &[],
        scores: &SCORES,
        reasons: &REASONS,
        edits: false,
    };

    fn open(config: GopherRepetitionConfig) -> Result<Self, String> {
        if config.max_top.len() > TOP {
            return Err(format!("`max_top` has {} bounds, the most are {}", config.max_top.len(), TOP));
        }
        if config.max_repeated.len() > REPEATED {
            let found = config.max_repeated.len();
            return Err(format!("`max_repeated` has {found} bounds, the most are {}", REPEATED));
        }
        Ok(Self { config, pieces: Pieces::default(), runs: WordRuns::default() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        self.verdict(row.text(), scores).map_or(Verdict::Keep, Verdict::Drop)
    }

    const THRESHOLDS: &'static [&'static str] =
        &["max_paragraphs", "max_paragraph_chars", "max_lines", "max_line_chars", "max_top", "max_repeated"];

    fn measured(reason: &str) -> usize {
        if reason == EMPTY { 0 } else { measured(reason, &REASONS, ALWAYS) }
    }

    fn select(&self, scores: &[f32], before: Option<&str>) -> Option<Verdict> {
        if before == Some(EMPTY) {
            return Some(Verdict::Drop(EMPTY));
        }
        in_order(scores, before, &REASONS, ALWAYS, |at, score| match self.config.bound(at) {
            Some(bound) => above(score, bound),
            None => Some(false),
        })
    }
}
