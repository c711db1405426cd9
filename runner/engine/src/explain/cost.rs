//! What a rerun will cost, by what the same stages took last.

use std::fmt;

use luthier_core::StageId;
use serde::Serialize;

use crate::format;

/// Times of stages, one after another.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Of those that ran before.
    pub seconds: f64,
    /// How many stages it covers, also those without a time.
    pub stages: usize,
    /// Stages that never ran, so that nothing is known of them.
    pub untimed: Vec<StageId>,
}

impl Cost {
    pub(super) fn add(&mut self, stage: &StageId, seconds: Option<f64>) {
        self.stages += 1;
        match seconds {
            Some(seconds) => self.seconds += seconds,
            None => self.untimed.push(stage.clone()),
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timed = self.stages - self.untimed.len();
        match (timed, self.untimed.as_slice()) {
            (0, []) => f.write_str("nothing"),
            (0, [one]) => write!(f, "unknown: `{one}` never ran"),
            (0, several) => write!(f, "unknown: {} never ran", format::plural(several.len(), "stage", "stages")),
            (_, untimed) => {
                write!(f, "{} for {}", format::duration(self.seconds), format::plural(timed, "stage", "stages"))?;
                match untimed {
                    [] => Ok(()),
                    [one] => write!(f, ", and `{one}`, which never ran"),
                    several => write!(f, ", and {} more that never ran", several.len()),
                }
            }
        }
    }
}
