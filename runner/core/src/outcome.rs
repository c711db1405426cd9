//! What a finished stage reports besides its artifacts.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One measured value. Deterministic metrics go into the lock; measured ones (times, memory, rates) do not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricValue {
    pub value: f64,
    /// `rows`, `bytes`, `tokens/s`, `s`, or empty for a pure number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// The same on every machine of the numeric class, so it belongs in the lock.
    pub deterministic: bool,
}

/// A named line of a plot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A piece of the report, rendered by the runner without knowing the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    Table {
        title: String,
        columns: Vec<String>,
        rows: Vec<Vec<String>>,
    },
    Plot {
        title: String,
        x_label: String,
        y_label: String,
        series: Vec<Series>,
    },
    /// Shares of the whole by the middle of each bin; all bins are equally wide.
    Histogram {
        title: String,
        x_label: String,
        bins: Vec<(f64, f64)>,
    },
    /// A funnel: a label and a count per step, in order, with the reason rows fell out.
    Funnel {
        title: String,
        unit: String,
        steps: Vec<(String, u64)>,
    },
    /// Texts side by side: each row is one sample, each cell one variant.
    Samples {
        title: String,
        columns: Vec<String>,
        rows: Vec<Vec<String>>,
    },
    Text {
        title: String,
        body: String,
    },
}

/// Returned by [`crate::Stage::run`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageOutcome {
    pub metrics: BTreeMap<String, MetricValue>,
    pub sections: Vec<Section>,
    /// Shown after the run, stored with the record, counted in the summary.
    pub warnings: Vec<String>,
}

impl StageOutcome {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A metric that is equal on every machine of the numeric class.
    pub fn metric(&mut self, name: &str, value: f64, unit: &str) -> &mut Self {
        self.insert(name, value, unit, true)
    }

    /// A metric of this machine and moment: seconds, resident bytes, rates.
    pub fn measured(&mut self, name: &str, value: f64, unit: &str) -> &mut Self {
        self.insert(name, value, unit, false)
    }

    pub fn section(&mut self, section: Section) -> &mut Self {
        self.sections.push(section);
        self
    }

    pub fn warn(&mut self, message: impl Into<String>) -> &mut Self {
        self.warnings.push(message.into());
        self
    }

    fn insert(&mut self, name: &str, value: f64, unit: &str, deterministic: bool) -> &mut Self {
        self.metrics.insert(name.to_owned(), MetricValue { value, unit: unit.to_owned(), deterministic });
        self
    }
}
