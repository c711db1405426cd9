//! What a run would do, before it does it.

use luthier_core::{Digest, StageId};
use serde::{Deserialize, Serialize};

use crate::fingerprint::DirtyReason;

/// What happens to one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// The store has the result.
    Reuse { key: Digest },
    Run {
        /// Never empty.
        why: Vec<DirtyReason>,
        /// What it will do where that is less than everything, as `selects again by stored scores`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        how: Option<String>,
        /// What the last execution took.
        estimate_seconds: Option<f64>,
        /// Unknown while an upstream stage has yet to run; then the stage may still turn out to be up to date.
        key: Option<Digest>,
    },
    /// It reads a stage that is not up to date and was not selected.
    Blocked { by: StageId },
}

/// The selected stages in topological order, each with its action.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunPlan {
    pub stages: Vec<(StageId, Action)>,
}

impl RunPlan {
    #[must_use]
    pub fn action(&self, stage: &StageId) -> Option<&Action> {
        self.stages.iter().find(|(id, _)| id == stage).map(|(_, action)| action)
    }

    /// Stages that would run.
    pub fn running(&self) -> impl Iterator<Item = &StageId> {
        self.stages.iter().filter(|(_, action)| matches!(action, Action::Run { .. })).map(|(id, _)| id)
    }

    #[must_use]
    pub fn is_up_to_date(&self) -> bool {
        self.stages.iter().all(|(_, action)| matches!(action, Action::Reuse { .. }))
    }

    /// Wall time of the stages that would run, one after another; `None` if any was never timed.
    #[must_use]
    pub fn estimate_seconds(&self) -> Option<f64> {
        self.stages
            .iter()
            .filter_map(|(_, action)| match action {
                Action::Run { estimate_seconds, .. } => Some(*estimate_seconds),
                _ => None,
            })
            .sum()
    }
}
