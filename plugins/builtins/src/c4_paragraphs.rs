//! mC4's paragraph rule (Xue et al. 2021, arXiv 2010.11934): enough long lines.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::chars;
use crate::select::{count, first};

#[derive(Config)]
pub struct C4ParagraphsConfig {
    /// Fewest paragraphs: lines of at least `min_length` characters.
    #[config(default = 3, min = 1)]
    min_paragraphs: usize,
    /// Fewest characters of a paragraph.
    #[config(default = 200)]
    min_length: usize,
}

/// Drops texts with few long lines.
pub struct C4Paragraphs {
    config: C4ParagraphsConfig,
}

impl Filter for C4Paragraphs {
    type Config = C4ParagraphsConfig;

    const ABOUT: About = About {
        name: "c4-paragraphs",
        version: "1",
        about: "Drops texts with fewer than three lines of 200 characters.",
        text: "",
        reads: &[],
        scores: &[("paragraphs", ScoreKind::Count)],
        reasons: &["few_paragraphs"],
        edits: false,
    };

    fn open(config: C4ParagraphsConfig) -> Result<Self, String> {
        Ok(Self { config })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let long = row
            .text()
            .split('\n')
            .filter(|line| line.len() >= self.config.min_length && chars(line) >= self.config.min_length)
            .count();
        scores.set_from(0, &[long as f64]);
        if long < self.config.min_paragraphs { Verdict::Drop("few_paragraphs") } else { Verdict::Keep }
    }

    const THRESHOLDS: &'static [&'static str] = &["min_paragraphs"];

    fn select(&self, scores: &[f32], _before: Option<&str>) -> Option<Verdict> {
        first(&[(Some(count(*scores.first()?)? < self.config.min_paragraphs), "few_paragraphs")])
    }
}
