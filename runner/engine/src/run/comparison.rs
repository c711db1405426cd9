//! The members of a matrix side by side: what each was given, what each reached, and which is best.
//!
//! Groups over the same axes share one table, so that a sweep of trainings stands beside the scores of each.

use std::collections::{BTreeMap, BTreeSet};

use luthier_core::{MetricValue, StageId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::format;
use crate::pipeline::Pipeline;
use crate::store::{StageRecord, StoreError};

/// One sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sweep {
    /// The stages of the file that have these axes, in pipeline order.
    pub groups: Vec<StageId>,
    pub axes: Vec<String>,
    /// By group, then by metric.
    pub columns: Vec<SweepColumn>,
    /// A combination each, in the order of the file.
    pub rows: Vec<SweepRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepColumn {
    pub group: StageId,
    pub metric: String,
    pub unit: String,
    /// Equal on every machine, so that the difference is the parameters' doing.
    pub deterministic: bool,
    /// Which end is better, where the metric's name says so.
    pub better: Option<Better>,
    /// Members differ in it.
    pub varies: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepRow {
    /// By axis.
    pub values: Vec<Value>,
    /// By column; `None` where the member has no result or no such metric.
    pub cells: Vec<Option<f64>>,
    /// By column: the best value, shared or not, of one that varies.
    pub best: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Lower,
    Higher,
}

impl Better {
    /// What the last part of a metric's name says; the change against a base has no better end of its own.
    fn of(metric: &str) -> Option<Self> {
        const HIGHER: [&str; 12] = [
            "acc",
            "accuracy",
            "agreement",
            "bleu",
            "chrf",
            "f1",
            "match",
            "pass",
            "per_second",
            "reward",
            "rouge",
            "score",
        ];
        const LOWER: [&str; 13] = [
            "bits_per_byte",
            "cer",
            "difference",
            "distance",
            "divergence",
            "error",
            "gap",
            "kl",
            "loss",
            "memory",
            "perplexity",
            "seconds",
            "wer",
        ];
        if metric.starts_with("change.") {
            return None;
        }
        let name = metric.rsplit('.').next().unwrap_or_default();
        // Whole words only: `trained` holds no `ned`.
        let has = |word: &&str| format!("_{name}_").contains(&format!("_{word}_"));
        if HIGHER.iter().any(&has) {
            Some(Self::Higher)
        } else if LOWER.iter().any(has) {
            Some(Self::Lower)
        } else {
            None
        }
    }

    fn beats(self, a: f64, b: f64) -> bool {
        match self {
            Self::Lower => a < b,
            Self::Higher => a > b,
        }
    }
}

/// The comparisons of a pipeline, from whatever results there are. A sweep whose members have none is left out.
///
/// # Errors
/// A record cannot be read.
pub(crate) fn compare(
    pipeline: &Pipeline,
    record: &mut dyn FnMut(&StageId) -> Result<Option<StageRecord>, StoreError>,
) -> Result<Vec<Sweep>, StoreError> {
    let mut sweeps: Vec<(Vec<String>, Vec<StageId>)> = Vec::new();
    for stage in pipeline.stages.iter().filter(|stage| !stage.matrix.is_empty()) {
        let mut axes: Vec<String> = stage.matrix.iter().map(|(name, _)| name.clone()).collect();
        let sorted = |axes: &[String]| axes.iter().cloned().collect::<BTreeSet<String>>();
        match sweeps.iter_mut().find(|(known, _)| sorted(known) == sorted(&axes)) {
            Some((_, groups)) if groups.contains(&stage.group) => {}
            Some((_, groups)) => groups.push(stage.group.clone()),
            None => sweeps.push((std::mem::take(&mut axes), vec![stage.group.clone()])),
        }
    }
    let mut found = Vec::new();
    for (axes, groups) in sweeps {
        found.extend(sweep(pipeline, axes, groups, record)?);
    }
    Ok(found)
}

fn sweep(
    pipeline: &Pipeline,
    axes: Vec<String>,
    groups: Vec<StageId>,
    record: &mut dyn FnMut(&StageId) -> Result<Option<StageRecord>, StoreError>,
) -> Result<Option<Sweep>, StoreError> {
    let mut rows: Vec<Vec<Value>> = Vec::new();
    let mut metrics: Vec<BTreeMap<(usize, String), MetricValue>> = Vec::new();
    for stage in pipeline.stages.iter().filter(|stage| groups.contains(&stage.group)) {
        let value = |axis: &String| stage.matrix.iter().find(|(name, _)| name == axis).map(|(_, value)| value.clone());
        let values: Vec<Value> = axes.iter().filter_map(value).collect();
        let at = rows.iter().position(|known| *known == values).unwrap_or_else(|| {
            rows.push(values);
            metrics.push(BTreeMap::new());
            rows.len() - 1
        });
        let group = groups.iter().position(|group| *group == stage.group).unwrap_or(0);
        for (name, metric) in record(&stage.id)?.into_iter().flat_map(|record| record.outcome.metrics) {
            metrics[at].insert((group, name), metric);
        }
    }
    let names: BTreeSet<&(usize, String)> = metrics.iter().flat_map(BTreeMap::keys).collect();
    if rows.len() < 2 || names.is_empty() {
        return Ok(None);
    }
    let mut columns = Vec::with_capacity(names.len());
    let mut cells: Vec<Vec<Option<f64>>> = vec![Vec::new(); rows.len()];
    let mut best: Vec<Vec<bool>> = vec![Vec::new(); rows.len()];
    for name in names {
        let known: Vec<Option<&MetricValue>> = metrics.iter().map(|of_row| of_row.get(name)).collect();
        let values: Vec<f64> = known.iter().flatten().map(|metric| metric.value).collect();
        let varies = values.iter().any(|value| *value != values[0]);
        let better = Better::of(&name.1);
        let winner = better.filter(|_| varies).and_then(|better| {
            values
                .iter()
                .copied()
                .filter(|value| value.is_finite())
                .reduce(|a, b| if better.beats(b, a) { b } else { a })
        });
        for (at, metric) in known.iter().enumerate() {
            let value = metric.map(|metric| metric.value);
            best[at].push(winner.is_some() && value == winner);
            cells[at].push(value);
        }
        let first = known.iter().flatten().next();
        columns.push(SweepColumn {
            group: groups[name.0].clone(),
            metric: name.1.clone(),
            unit: first.map(|metric| metric.unit.clone()).unwrap_or_default(),
            deterministic: known.iter().flatten().all(|metric| metric.deterministic),
            better,
            varies,
        });
    }
    let rows = rows.into_iter().zip(cells).zip(best);
    let rows = rows.map(|((values, cells), best)| SweepRow { values, cells, best }).collect();
    Ok(Some(Sweep { groups, axes, columns, rows }))
}

/// One cell of a table for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepCell {
    pub text: String,
    pub best: bool,
}

impl Sweep {
    /// `adapter, scores by rank × learning_rate`.
    #[must_use]
    pub fn title(&self) -> String {
        let groups: Vec<&str> = self.groups.iter().map(StageId::as_str).collect();
        format!("{} by {}", groups.join(", "), self.axes.join(" × "))
    }

    /// The columns worth a glance: those with a better end in which members differ, what the parameters decide before
    /// what the machine does.
    #[must_use]
    pub fn telling(&self) -> Vec<usize> {
        let mut columns: Vec<usize> = (0..self.columns.len())
            .filter(|at| self.columns[*at].varies && self.columns[*at].better.is_some())
            .collect();
        columns.sort_by_key(|at| !self.columns[*at].deterministic);
        columns
    }

    /// Headings and rows for people: the axes, then these columns.
    #[must_use]
    pub fn table(&self, columns: &[usize]) -> (Vec<String>, Vec<Vec<SweepCell>>) {
        let heading = |at: usize| {
            let column = &self.columns[at];
            let shared = self.columns.iter().filter(|other| other.metric == column.metric).count() > 1;
            if shared { format!("{} {}", column.group, column.metric) } else { column.metric.clone() }
        };
        let headings = self.axes.iter().cloned().chain(columns.iter().map(|at| heading(*at))).collect();
        let plain = |text: String| SweepCell { text, best: false };
        let rows = self.rows.iter().map(|row| {
            let values = row.values.iter().map(|value| match value {
                Value::String(text) => plain(text.clone()),
                other => plain(other.to_string()),
            });
            let cells = columns.iter().map(|at| SweepCell {
                text: row.cells[*at].map_or_else(|| "–".to_owned(), |value| self.columns[*at].text(value)),
                best: row.best[*at],
            });
            values.chain(cells).collect()
        });
        (headings, rows.collect())
    }
}

impl SweepColumn {
    fn text(&self, value: f64) -> String {
        format::metric(&MetricValue { value, unit: self.unit.clone(), deterministic: self.deterministic })
    }
}

#[cfg(test)]
mod tests {
    use super::Better;

    #[test]
    fn names_say_which_end_is_better() {
        for (name, better) in [
            ("loss", Some(Better::Lower)),
            ("tuned.phoneme_error_rate", Some(Better::Lower)),
            ("tuned.exact_match", Some(Better::Higher)),
            ("tokens_per_second", Some(Better::Higher)),
            ("training_seconds", Some(Better::Lower)),
            ("change.exact_match", None),
            ("trained_tokens", None),
            ("rows.train", None),
        ] {
            assert_eq!(Better::of(name), better, "{name}");
        }
    }
}
