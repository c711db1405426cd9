//! Bounds on the length of a text.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::chars;
use crate::select::{count, first};
use crate::shared::with_words;
use crate::words::Words;

#[derive(Config)]
pub struct LengthConfig {
    /// Fewest characters.
    #[config(default = 0)]
    min_chars: usize,
    /// Most characters.
    max_chars: Option<usize>,
    /// Fewest words.
    #[config(default = 0)]
    min_words: usize,
    /// Most words.
    max_words: Option<usize>,
}

/// Drops texts that are too short or too long.
pub struct Length {
    config: LengthConfig,
}

impl Filter for Length {
    type Config = LengthConfig;

    const ABOUT: About = About {
        name: "length",
        version: "1",
        about: "Drops texts with too few or too many characters or words.",
        text: "",
        reads: &[],
        scores: &[("chars", ScoreKind::Count), ("words", ScoreKind::Count)],
        reasons: &["few_chars", "many_chars", "few_words", "many_words"],
        edits: false,
    };

    fn open(config: LengthConfig) -> Result<Self, String> {
        let crossed = |least: usize, most: Option<usize>| most.is_some_and(|most| most < least);
        if crossed(config.min_chars, config.max_chars) || crossed(config.min_words, config.max_words) {
            return Err("a minimum is larger than its maximum, so every row would be dropped".to_owned());
        }
        Ok(Self { config })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let config = &self.config;
        let characters = chars(row.text());
        let words = with_words(row.text(), Words::len);
        scores.set_from(0, &[characters as f64, words as f64]);
        if characters < config.min_chars {
            Verdict::Drop("few_chars")
        } else if config.max_chars.is_some_and(|most| characters > most) {
            Verdict::Drop("many_chars")
        } else if words < config.min_words {
            Verdict::Drop("few_words")
        } else if config.max_words.is_some_and(|most| words > most) {
            Verdict::Drop("many_words")
        } else {
            Verdict::Keep
        }
    }

    const THRESHOLDS: &'static [&'static str] = &["min_chars", "max_chars", "min_words", "max_words"];

    fn select(&self, scores: &[f32], _before: Option<&str>) -> Option<Verdict> {
        let config = &self.config;
        let (characters, words) = (count(scores[0])?, count(scores[1])?);
        first(&[
            (Some(characters < config.min_chars), "few_chars"),
            (Some(config.max_chars.is_some_and(|most| characters > most)), "many_chars"),
            (Some(words < config.min_words), "few_words"),
            (Some(config.max_words.is_some_and(|most| words > most)), "many_words"),
        ])
    }
}
