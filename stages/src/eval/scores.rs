//! The result: `scores.json`, the metrics of the stage, and what the report shows.
//!
//! The file is the same bytes on every machine of the numeric class: fields in a fixed order, no times, no paths.

use std::collections::BTreeMap;

use luthier_core::{Section, StageOutcome};
use luthier_model::scalar;
use serde::{Deserialize, Serialize};

use super::compare::{Change, compare};
use super::expect::{Verdict, short};
use super::metrics::{Estimate, Part};
use super::subject::Variant;

/// Format of the file.
pub const VERSION: u32 = 1;

/// All that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub version: u32,
    /// Rows of `data` that were used.
    pub items: usize,
    /// How the base weights were held, `stored` or `nf4`.
    pub precision: String,
    /// Whether prompts went through the chat template.
    pub template: bool,
    /// Where the general text came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub general: Option<String>,
    pub metrics: Vec<Metric>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expectations: Vec<Verdict>,
    /// Every answer, in the order of the rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<AnswerRecord>,
}

/// One number for base and tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    pub name: String,
    pub higher_is_better: bool,
    /// How many items, documents or tokens it rests on.
    pub items: usize,
    pub base: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
}

/// A value and its standard error. `null` where nothing could be measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Value {
    pub value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
}

/// The answers to one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    pub id: String,
    pub prompt: String,
    pub reference: String,
    pub base: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<String>,
}

/// How the ratio of a metric's parts becomes its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Plain,
    /// `e^ratio`, for perplexity: the error is carried through the slope.
    Exponential,
}

impl Metric {
    /// A metric from its items' parts, base first.
    pub fn new(name: &str, higher_is_better: bool, scale: Scale, parts: &[Vec<Part>], seed: u64) -> Self {
        let value = |parts: &[Part]| {
            let estimate = Estimate::of(parts);
            let (value, slope) = match scale {
                Scale::Plain => (estimate.value, 1.0),
                Scale::Exponential => (scalar::exp(estimate.value), scalar::exp(estimate.value)),
            };
            let finite = |x: f64| x.is_finite().then_some(x);
            Value { value: finite(value), stderr: estimate.stderr.map(|error| error * slope).and_then(finite) }
        };
        let change = match parts {
            [base, tuned] => {
                let mut change = compare(base, tuned, higher_is_better, seed, name);
                if scale == Scale::Exponential {
                    // The interval is of the ratio of perplexities' logarithm; a difference is shown at the values.
                    let (b, t) = (Estimate::of(base).value, Estimate::of(tuned).value);
                    change.difference = scalar::exp(t) - scalar::exp(b);
                    change.interval = change.interval.map(|log| scalar::exp(b + log) - scalar::exp(b));
                }
                (change.difference.is_finite() && change.interval.iter().all(|end| end.is_finite())).then_some(change)
            }
            _ => None,
        };
        Self {
            name: name.to_owned(),
            higher_is_better,
            items: parts[0].len(),
            base: value(&parts[0]),
            tuned: parts.get(1).map(|parts| value(parts)),
            change,
        }
    }

    /// A number that exists only for the tuned model, such as its divergence from the base.
    pub fn of_tuned(name: &str, parts: &[Part]) -> Self {
        let estimate = Estimate::of(parts);
        let finite = |x: f64| x.is_finite().then_some(x);
        Self {
            name: name.to_owned(),
            higher_is_better: false,
            items: parts.len(),
            base: Value { value: Some(0.0), stderr: None },
            tuned: Some(Value { value: finite(estimate.value), stderr: estimate.stderr.and_then(finite) }),
            change: None,
        }
    }
}

impl Scores {
    /// Scores by full name, for expectations: `base.x`, `tuned.x`, `change.x`. Without an adapter `base` alone.
    pub fn named(&self) -> BTreeMap<String, f64> {
        let mut named = BTreeMap::new();
        for metric in &self.metrics {
            let mut put = |prefix: &str, value: Option<f64>| {
                if let Some(value) = value {
                    named.insert(format!("{prefix}.{}", metric.name), value);
                }
            };
            put(Variant::Base.name(), metric.base.value);
            put(Variant::Tuned.name(), metric.tuned.and_then(|tuned| tuned.value));
            put("change", metric.change.as_ref().map(|change| change.difference));
        }
        named
    }

    /// Metrics and sections for the record and the report.
    pub fn outcome(&self, samples: usize) -> StageOutcome {
        let mut outcome = StageOutcome::new();
        for (name, value) in self.named() {
            outcome.metric(&name, value, "");
        }
        outcome.metric("items", self.items as f64, "rows");
        outcome.section(self.table());
        if !self.expectations.is_empty() {
            outcome.section(Section::Table {
                title: "Expectations".to_owned(),
                columns: ["score", "condition", "found", "wanted", ""].map(str::to_owned).to_vec(),
                rows: self
                    .expectations
                    .iter()
                    .map(|verdict| {
                        let mark = if verdict.holds { "holds" } else { "fails" };
                        vec![
                            verdict.name.clone(),
                            verdict.condition.clone(),
                            short(verdict.found),
                            verdict.wanted.clone(),
                            mark.to_owned(),
                        ]
                    })
                    .collect(),
            });
        }
        if !self.answers.is_empty() && samples > 0 {
            let tuned = self.answers.iter().any(|answer| answer.tuned.is_some());
            let mut columns = vec!["prompt".to_owned(), "reference".to_owned(), "base".to_owned()];
            if tuned {
                columns.push("tuned".to_owned());
            }
            outcome.section(Section::Samples {
                title: "Answers side by side".to_owned(),
                columns,
                rows: self
                    .answers
                    .iter()
                    .take(samples)
                    .map(|answer| {
                        let mut row = vec![answer.prompt.clone(), answer.reference.clone(), answer.base.clone()];
                        row.extend(answer.tuned.clone());
                        row
                    })
                    .collect(),
            });
        }
        outcome
    }

    fn table(&self) -> Section {
        let tuned = self.metrics.iter().any(|metric| metric.tuned.is_some());
        let mut columns = vec!["metric", "base"];
        if tuned {
            columns.extend(["tuned", "change", "95 % interval", "better / worse / equal", "p"]);
        }
        let rows = self
            .metrics
            .iter()
            .map(|metric| {
                let arrow = if metric.higher_is_better { "↑" } else { "↓" };
                let mut row = vec![format!("{} {arrow}", metric.name), with_error(metric.base)];
                if tuned {
                    row.push(metric.tuned.map_or_else(String::new, with_error));
                    match &metric.change {
                        Some(change) => row.extend([
                            signed(change.difference),
                            format!("{} … {}", signed(change.interval[0]), signed(change.interval[1])),
                            format!("{} / {} / {}", change.wins, change.losses, change.ties),
                            change.p_value.map_or_else(String::new, p_text),
                        ]),
                        None => row.extend(std::iter::repeat_n(String::new(), 4)),
                    }
                }
                row
            })
            .collect();
        let title = if tuned { "Base against tuned" } else { "Scores" };
        Section::Table { title: title.to_owned(), columns: columns.into_iter().map(str::to_owned).collect(), rows }
    }
}

fn with_error(value: Value) -> String {
    match (value.value, value.stderr) {
        (Some(value), Some(error)) => format!("{} ± {}", short(value), short(error)),
        (Some(value), None) => short(value),
        (None, _) => "–".to_owned(),
    }
}

fn signed(value: f64) -> String {
    let text = short(value);
    if value > 0.0 && text != "0" { format!("+{text}") } else { text }
}

fn p_text(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".to_owned() } else { short(p) }
}
