//! Bounds on scores: the thresholds of a step, apart from what it costs to compute the scores.

use std::collections::BTreeMap;

use luthier_core::{ConfigIssue, nearest, quoted};
use luthier_plugins::Manifest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The values of one score with which a row stays.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ScoreBounds {
    /// Least value that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Largest value that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// What is wrong with the bounds of the step at `path`, apart from the names of scores.
pub(super) fn check(keep: &BTreeMap<String, ScoreBounds>, path: &str, issues: &mut Vec<ConfigIssue>) {
    for (score, bounds) in keep {
        let at = format!("{path}.keep.{score}");
        match (bounds.min, bounds.max) {
            (None, None) => {
                issues.push(ConfigIssue::new(at, "expected `min` or `max`, found neither").help("such as `{min: 0.5}`"))
            }
            (Some(min), Some(max)) if min > max => {
                issues.push(
                    ConfigIssue::new(at, "`min` is larger than `max`, so every row would be dropped")
                        .help("swap them, or leave one out"),
                );
            }
            _ => {}
        }
    }
}

/// The first name that is no score of the plugin: message and help.
pub(super) fn unknown_score(
    keep: &BTreeMap<String, ScoreBounds>,
    manifest: &Manifest,
) -> Option<(String, String, String)> {
    let names: Vec<&str> = manifest.scores.iter().map(|score| score.name.as_str()).collect();
    let unknown = keep.keys().find(|name| !names.contains(&name.as_str()))?;
    let message = format!("plugin `{}` has no score `{unknown}`", manifest.name);
    let help = match nearest(unknown, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => "it declares no scores; bounds need a plugin that does".to_owned(),
        None => format!("its scores are [{}]", quoted(&names)),
    };
    Some((unknown.clone(), message, help))
}

/// Bounds in the order of the plugin's scores.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds(Vec<Bound>);

#[derive(Debug, Clone)]
struct Bound {
    score: usize,
    /// Scores are 32 bits wide, and so is what they are compared with: 0.1 is not above a bound of 0.1.
    min: f32,
    max: f32,
    below: String,
    above: String,
}

impl Bounds {
    pub fn new(keep: &BTreeMap<String, ScoreBounds>, manifest: &Manifest) -> Self {
        let bound = |(score, column): (usize, &luthier_plugins::ScoreColumn)| {
            let bounds = keep.get(&column.name)?;
            Some(Bound {
                score,
                min: bounds.min.map_or(f32::NEG_INFINITY, |min| min as f32),
                max: bounds.max.map_or(f32::INFINITY, |max| max as f32),
                below: format!("{} < {}", column.name, bounds.min.unwrap_or_default()),
                above: format!("{} > {}", column.name, bounds.max.unwrap_or_default()),
            })
        };
        Self(manifest.scores.iter().enumerate().filter_map(bound).collect())
    }

    /// Why row `row` of `rows` goes, if it does; `scores` is column-major.
    pub fn reason(&self, scores: &[f32], rows: usize, row: usize) -> Option<&str> {
        self.0.iter().find_map(|bound| {
            let value = scores[bound.score * rows + row];
            if value < bound.min {
                Some(bound.below.as_str())
            } else if value > bound.max {
                Some(bound.above.as_str())
            } else {
                None
            }
        })
    }
}
