//! What became of a key that is not in the pipeline as it was.

use std::fmt;

use serde::Serialize;

/// How a key fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The pipeline does something else, or lacks it: results may differ.
    NotCarried,
    /// Nothing is lost: it concerns logging, paths or hardware, or is always so here.
    NotNeeded,
}

/// One key of the foreign file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// 1-based.
    pub line: u64,
    pub key: String,
    pub fate: Fate,
    pub why: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.why)
    }
}
