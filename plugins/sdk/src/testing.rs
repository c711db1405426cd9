//! Judging single rows in the unit tests of a plugin, natively.

use crate::config::ConfigValue;
use crate::filter::{Filter, Row, Scores, Verdict};
use crate::json::Json;

/// What a filter said about a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub verdict: Verdict,
    /// In the order declared.
    pub scores: Vec<f32>,
}

/// Opens filter `F` with `config` (JSON) and judges one row: its text, and its further columns by name.
///
/// # Panics
/// If the configuration or the verdict is not valid.
#[must_use]
pub fn judge<F: Filter>(config: &str, text: &str, columns: &[(&str, &str)]) -> Judged {
    let about = F::ABOUT;
    let mut issues = Vec::new();
    let json = Json::parse(config).expect("the configuration is JSON");
    let config = F::Config::parse(&json, "", &mut issues);
    assert!(issues.is_empty(), "the configuration is not valid: {issues:?}");
    let mut filter = F::open(config.expect("no issue, so a value")).expect("the filter opens");
    let reads: Vec<&str> = about
        .reads
        .iter()
        .map(|name| columns.iter().find(|(known, _)| known == name).map_or("", |(_, value)| *value))
        .collect();
    let mut values = vec![0.0; about.scores.len()];
    let mut scores = Scores { names: about.scores, values: &mut values, rows: 1, row: 0 };
    let row = Row { index: 0, text, names: about.reads, columns: &reads };
    let verdict = filter.judge(&row, &mut scores);
    match &verdict {
        Verdict::Drop(reason) => assert!(about.reasons.contains(reason), "`{reason}` is not in reasons"),
        Verdict::Edit(_) => assert!(about.edits, "the filter does not declare `edits`"),
        Verdict::Keep | Verdict::Refuse(_) => {}
    }
    Judged { verdict, scores: values }
}
