//! One way in which results and lock disagree.

use luthier_core::StageId;
use serde::{Deserialize, Serialize};

/// A field of one stage with the value the lock holds and the value found; `None` where it is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockDifference {
    pub stage: StageId,
    /// `config.steps[0].max`, `input data`, `output adapter`, `metric rows`, `recipe`, or empty for the whole stage.
    pub field: String,
    pub locked: Option<String>,
    pub found: Option<String>,
}

impl std::fmt::Display for LockDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stage, field, locked, found } = self;
        match (field.is_empty(), locked, found) {
            (true, None, _) => write!(f, "{stage}: not in the lock"),
            (true, _, _) => write!(f, "{stage}: in the lock, but not in the pipeline"),
            (false, Some(locked), Some(found)) => write!(f, "{stage}: {field} is {found}, locked {locked}"),
            (false, None, found) => {
                write!(f, "{stage}: {field} is {}, not in the lock", found.as_deref().unwrap_or("absent"))
            }
            (false, Some(locked), None) => write!(f, "{stage}: {field} is absent, locked {locked}"),
        }
    }
}
