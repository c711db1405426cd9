//! How a run ended.

use luthier_core::{Digest, ErrorClass, StageId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{StageFailure, Sweep};
use crate::fingerprint::DirtyReason;

/// How one stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Reused,
    Ran,
    Failed,
    /// A stage it reads failed, was blocked, or is not up to date and not selected.
    Blocked,
    /// Stopped by Ctrl-C, or never started because of it or of an earlier failure.
    Stopped,
}

/// One stage of a [`RunSummary`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageResult {
    pub stage: StageId,
    pub kind: String,
    /// Stages it reads, each once, in pipeline order.
    pub reads: Vec<StageId>,
    pub status: RunStatus,
    /// Under which `Store::record` finds the whole record if it ran or was reused.
    pub key: Option<Digest>,
    /// Of this run; empty unless it ran or failed.
    pub why: Vec<DirtyReason>,
    /// Of the execution that made the result, which for a reused stage was an earlier one.
    pub seconds: f64,
    pub failure: Option<StageFailure>,
    pub blocked_by: Option<StageId>,
}

/// What became of the lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LockOutcome {
    Written,
    Unchanged,
    /// `--locked`, and everything agreed.
    Verified,
    /// Not asked for, or the run did not succeed.
    Untouched,
}

/// Kept as `.luthier/runs/ID/summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSummary {
    /// [`RunSummary::FORMAT`] of the writer.
    pub version: u32,
    /// Sorts by time.
    pub run: String,
    pub pipeline: String,
    /// RFC 3339, UTC.
    pub started: String,
    pub seconds: f64,
    pub host: String,
    /// Of luthier.
    pub program: String,
    pub threads: usize,
    /// The selected stages in topological order.
    pub stages: Vec<StageResult>,
    pub lock: LockOutcome,
    /// A table per sweep, if anything ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<Sweep>,
}

impl RunSummary {
    /// 1: the first.
    pub const FORMAT: u32 = 1;

    #[must_use]
    pub fn count(&self, status: RunStatus) -> usize {
        self.stages.iter().filter(|stage| stage.status == status).count()
    }

    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.stages.iter().all(|stage| matches!(stage.status, RunStatus::Ran | RunStatus::Reused))
    }

    /// Decides the exit code; `None` if the run succeeded. The first failed stage decides; an interruption goes first.
    #[must_use]
    pub fn error_class(&self) -> Option<ErrorClass> {
        let classes = || self.stages.iter().filter_map(|stage| stage.failure.as_ref()).map(|failure| failure.class);
        if self.succeeded() {
            None
        } else if classes().any(|class| class == ErrorClass::Interrupted) {
            Some(ErrorClass::Interrupted)
        } else if let Some(class) = classes().next() {
            Some(class)
        } else if self.count(RunStatus::Stopped) > 0 {
            Some(ErrorClass::Interrupted)
        } else {
            Some(ErrorClass::Input)
        }
    }
}
