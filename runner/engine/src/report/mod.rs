//! The HTML report of a run: one self-contained file that opens anywhere, without network and without scripts.
//!
//! The report knows stages only by what they reported: metrics and [`Section`]s. It draws the graph, says what ran and
//! why, and renders each stage's sections in order. All text is escaped by construction (maud).

mod comparison;
mod graph;
mod page;
mod plot;
mod section;
mod trace;

use luthier_core::{Artifact, MetricValue, Section};
use std::collections::BTreeMap;

pub use page::render;
pub use trace::ChromeTrace;

/// Everything the page shows.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub pipeline: String,
    pub run_id: String,
    /// RFC 3339, or empty.
    pub started: String,
    pub seconds: f64,
    pub host: String,
    pub version: String,
    pub succeeded: bool,
    /// In topological order.
    pub stages: Vec<ReportStage>,
    pub comparisons: Vec<crate::run::Sweep>,
}

/// How a stage fared in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReportStatus {
    #[default]
    Reused,
    Ran,
    Failed,
    Blocked,
}

impl ReportStatus {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reused => "reused",
            Self::Ran => "ran",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
        }
    }
}

/// One stage of the page.
#[derive(Debug, Clone, Default)]
pub struct ReportStage {
    pub id: String,
    pub kind: String,
    pub status: ReportStatus,
    /// Rendered reasons; what a blocked stage needs.
    pub why: Vec<String>,
    /// Of a failed stage: the message, its causes, the last lines of its log, hints.
    pub error: String,
    /// Of the execution whose result is shown, which for a reused stage was an earlier run.
    pub seconds: f64,
    pub peak_memory: u64,
    pub key: String,
    pub config: serde_json::Value,
    /// Ids of the stages it reads.
    pub reads: Vec<String>,
    pub outputs: BTreeMap<String, Artifact>,
    pub metrics: BTreeMap<String, MetricValue>,
    pub sections: Vec<Section>,
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests;
