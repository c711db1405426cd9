//! FineWeb's own line heuristics (Penedo et al. 2024, arXiv 2406.17557), with datatrove's defaults.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::{is_terminal, trim};
use crate::lines::{Pieces, line_feeds, split_feeds};
use crate::select::{above, below, first};
use crate::shared::with_words;
use crate::words::Words;
use crate::{chars, share};

#[derive(Config)]
pub struct FinewebQualityConfig {
    /// Least share of lines that end a sentence.
    #[config(default = 0.12, min = 0.0)]
    min_punctuated: f64,
    /// Let texts pass of which no line ends a sentence.
    #[config(default = false)]
    allow_unpunctuated: bool,
    /// Largest share of short lines.
    #[config(default = 0.67, min = 0.0)]
    max_short_lines: f64,
    /// Most characters of a short line.
    #[config(default = 30)]
    short_line: usize,
    /// Largest share of characters in repeated lines.
    #[config(default = 0.01, min = 0.0)]
    max_repeated_chars: f64,
    /// Most line breaks per word.
    #[config(default = 0.3, min = 0.0)]
    max_breaks: f64,
}

/// Drops lists, menus and other texts that are not lines of prose.
pub struct FinewebQuality {
    config: FinewebQualityConfig,
    pieces: Pieces,
}

impl Filter for FinewebQuality {
    type Config = FinewebQualityConfig;

    const ABOUT: About = About {
        name: "fineweb-quality",
        version: "1",
        about: "Drops texts of unpunctuated, short or repeated lines.",
        text: "",
        reads: &[],
        scores: &[
            ("punctuated-lines", ScoreKind::Real),
            ("short-lines", ScoreKind::Real),
            ("repeated-chars", ScoreKind::Real),
            ("breaks-per-word", ScoreKind::Real),
        ],
        reasons: &["empty", "line_punct_ratio", "short_line_ratio", "char_dup_ratio", "list_ratio"],
        edits: false,
    };

    fn open(config: FinewebQualityConfig) -> Result<Self, String> {
        Ok(Self { config, pieces: Pieces::default() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let (text, config) = (row.text(), &self.config);
        let breaks = line_feeds(text);
        let (mut count, mut ended, mut short) = (0, 0, 0);
        let lines = split_feeds(text).filter(|line| !trim(line).is_empty()).inspect(|line| {
            count += 1;
            ended += usize::from(line.ends_with(is_terminal));
            let is_short = line.len() <= config.short_line || chars(line) <= config.short_line;
            short += usize::from(is_short);
        });
        let copies = self.pieces.repeated(text, lines, breaks + 1);
        if count == 0 {
            return Verdict::Drop("empty");
        }
        let punctuated = share(ended, count);
        let repeated = share(copies.characters, chars(text) - breaks);
        let per_word = share(breaks, with_words(text, Words::len));
        scores.set_from(0, &[punctuated, share(short, count), repeated, per_word]);
        let unpunctuated = punctuated < config.min_punctuated && !(ended == 0 && config.allow_unpunctuated);
        if unpunctuated {
            Verdict::Drop("line_punct_ratio")
        } else if share(short, count) > config.max_short_lines {
            Verdict::Drop("short_line_ratio")
        } else if repeated > config.max_repeated_chars {
            Verdict::Drop("char_dup_ratio")
        } else if per_word > config.max_breaks {
            Verdict::Drop("list_ratio")
        } else {
            Verdict::Keep
        }
    }

    const THRESHOLDS: &'static [&'static str] =
        &["min_punctuated", "allow_unpunctuated", "max_short_lines", "max_repeated_chars", "max_breaks"];

    fn select(&self, scores: &[f32], before: Option<&str>) -> Option<Verdict> {
        let config = &self.config;
        let [punctuated, short, repeated, per_word] = *scores.first_chunk::<4>()?;
        if before == Some("empty") {
            return Some(Verdict::Drop("empty"));
        }
        let excused = punctuated == 0.0 && config.allow_unpunctuated;
        let unpunctuated = if excused { Some(false) } else { below(punctuated, config.min_punctuated) };
        first(&[
            (unpunctuated, "line_punct_ratio"),
            (above(short, config.max_short_lines), "short_line_ratio"),
            (above(repeated, config.max_repeated_chars), "char_dup_ratio"),
            (above(per_word, config.max_breaks), "list_ratio"),
        ])
    }
}
