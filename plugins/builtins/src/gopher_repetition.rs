//! Gopher's repetition heuristics (Rae et al. 2021, arXiv 2112.11446, table A1), with datatrove's defaults and order.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::trim;
use crate::lines::{Pieces, Repeated, has_paragraphs, line_feeds, split_runs};
use crate::repetition::WordRuns;
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
    pieces: Pieces,
    runs: WordRuns,
}

impl GopherRepetition {
    fn verdict(&mut self, text: &str, scores: &mut Scores<'_>) -> Option<&'static str> {
        let config = &self.config;
        if text.is_empty() {
            return Some("empty");
        }
        let length = chars(text);
        let over = |value: f64, bound: f64| bound != 0.0 && value > bound;

        let breaks = line_feeds(text);
        let paragraphs = if has_paragraphs(text) {
            self.pieces.repeated(text, split_runs(trim(text), 2), breaks + 1)
        } else {
            Repeated { pieces: 1, ..Repeated::default() }
        };
        let lines = self.pieces.repeated(text, split_runs(text, 1), breaks + 1);
        let mut found = None;
        let mut check = |fails: bool, reason: &'static str| found = found.or(fails.then_some(reason));
        for (repeated, score, bounds, reasons) in [
            (
                paragraphs,
                "repeated-paragraphs",
                [config.max_paragraphs, config.max_paragraph_chars],
                ["dup_para_frac", "dup_para_char_frac"],
            ),
            (
                lines,
                "repeated-lines",
                [config.max_lines, config.max_line_chars],
                ["dup_line_frac", "dup_line_char_frac"],
            ),
        ] {
            let copies = share(repeated.copies, repeated.pieces);
            scores.set(score, copies as f32);
            check(over(copies, bounds[0]), reasons[0]);
            check(over(share(repeated.characters, length), bounds[1]), reasons[1]);
        }
        if found.is_some() {
            return found;
        }

        with_words(text, |words| self.runs.fill(words, text));
        self.runs.top(config.max_top.len() + 1, |n, total| {
            let value = share(total, length);
            if n == 2 {
                scores.set("top-2-words", value as f32);
            }
            found = (value > config.max_top[n - 2]).then(|| TOP[n - 2]);
            found.is_none()
        });
        if found.is_some() {
            return found;
        }
        self.runs.repeated(5..=config.max_repeated.len() + 4, |n, total| {
            let value = share(total, length);
            if n == 5 {
                scores.set("repeated-5-words", value as f32);
            }
            found = (value > config.max_repeated[n - 5]).then(|| REPEATED[n - 5]);
            found.is_none()
        });
        found
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
        Ok(Self { config, pieces: Pieces::default(), runs: WordRuns::default() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        self.verdict(row.text(), scores).map_or(Verdict::Keep, Verdict::Drop)
    }
}
