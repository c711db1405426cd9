//! Freeing training data of evaluation data: rows that say the same, that share a long run of words with a row of an
//! evaluation set, or that hold most of one.
//!
//! The rules are those of common practice: a run of 13 words in common (Brown et al. 2020, arXiv 2005.14165, appendix C), or
//! four fifths of the runs of 8 words of an evaluation row. Runs that stand in more than ten evaluation rows are a template,
//! not an answer, and do not count (ibid.). Words are compared without case and punctuation, numbers by their digits.

mod index;
mod step;
mod words;

use luthier_core::ConfigIssue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use step::{DecontaminateStep, PORT, freed, whole_row};

/// When a row counts as a copy of evaluation data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DecontaminateConfig {
    /// Words of a run of which one in common is enough.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default = "default_ngram")]
    pub ngram: usize,
    /// Words of the runs whose share counts.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default = "default_contained_ngram")]
    pub contained_ngram: usize,
    /// Share of an evaluation row's runs of `contained_ngram` words that a row must hold to be dropped.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_contained")]
    pub contained: f64,
    /// Runs that stand in more evaluation rows than this are a template and do not count.
    #[schemars(range(min = 1))]
    #[serde(default = "default_template_rows")]
    pub template_rows: u32,
}

const fn default_ngram() -> usize {
    13
}

const fn default_contained_ngram() -> usize {
    8
}

const fn default_contained() -> f64 {
    0.8
}

const fn default_template_rows() -> u32 {
    10
}

impl Default for DecontaminateConfig {
    fn default() -> Self {
        Self {
            ngram: default_ngram(),
            contained_ngram: default_contained_ngram(),
            contained: default_contained(),
            template_rows: default_template_rows(),
        }
    }
}

impl DecontaminateConfig {
    pub fn check(&self, path: &str, issues: &mut Vec<ConfigIssue>) {
        if self.contained <= 0.0 {
            let message = "`contained: 0` would drop every row".to_owned();
            issues.push(ConfigIssue::new(format!("{path}.contained"), message).help("0.8 is the default"));
        }
    }
}
