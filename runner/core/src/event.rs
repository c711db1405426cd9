//! What a running stage says while it runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far a stage is. Sent at least every two seconds by anything that takes longer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    pub done: u64,
    /// Unknown when 0.
    pub total: u64,
    /// What is counted: `rows`, `bytes`, `steps`, `words`.
    pub unit: String,
    /// Anything worth a glance beside the bar, such as `loss 0.61 · 182 tok/s`.
    pub note: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageEvent {
    Progress(Progress),
    /// Only for what the user can act on.
    Warning {
        message: String,
        hint: Option<String>,
    },
    /// A line for the log.
    Log(String),
    /// One point of a named curve, for live plots and the report.
    Point {
        series: String,
        x: f64,
        y: f64,
    },
}

/// Where events go. Implementations must be cheap and never block for long.
pub trait EventSink: Send + Sync {
    fn emit(&self, event: StageEvent);
}

/// Drops everything; for tests and library use.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullSink;

impl EventSink for NullSink {
    fn emit(&self, _event: StageEvent) {}
}
