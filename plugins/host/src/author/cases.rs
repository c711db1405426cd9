//! Sample rows with what is expected of them: `cases.jsonl`, one case a line.
//!
//! ```json
//! {"config": {"max": 2}, "row": {"text": "a b c"}, "expect": "drop", "reason": "too-long"}
//! {"row": {"text": "a"}, "expect": "keep", "scores": {"words": 1}}
//! {"row": {"text": " a "}, "expect": "edit", "edited": "a"}
//! ```

use std::collections::BTreeMap;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::batch::{TextBatch, TextColumn};
use crate::component::PluginComponent;
use crate::judge::{JudgeError, OnTrap, Worker};

/// One row and what the plugin should say about it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Columns by name; the judged one is the plugin's own, else `text`.
    pub row: BTreeMap<String, String>,
    pub expect: Expectation,
    /// The reason of a drop; any if missing.
    #[serde(default)]
    pub reason: Option<String>,
    /// The text of an edit; any if missing.
    #[serde(default)]
    pub edited: Option<String>,
    /// Expected scores, to a relative 1e-5; those not named may be anything.
    #[serde(default)]
    pub scores: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expectation {
    Keep,
    Drop,
    Edit,
}

/// How one case went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseResult {
    /// In the file, from 1.
    pub line: usize,
    pub passed: bool,
    /// What the plugin said: `keep`, `drop: REASON`, `edit: TEXT`.
    pub said: String,
    /// What was expected, if it was something else.
    pub expected: Option<String>,
}

/// How all went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TestReport {
    pub cases: Vec<CaseResult>,
    pub passed: usize,
    pub failed: usize,
}

/// Runs every case of a `cases.jsonl`.
///
/// # Errors
/// The file cannot be read, a line of it is no case, or the plugin refuses a configuration.
pub fn run_cases(plugin: &PluginComponent, file: &Utf8Path) -> StageResult<TestReport> {
    let text = fs_err::read_to_string(file)?;
    let mut cases = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let case: Case = serde_json::from_str(line).map_err(|error| {
            StageError::input("plugin::case", format!("not a test case: {error}"))
                .at(file, index as u64 + 1, error.column() as u64)
                .hint(r#"write one as {"config": {…}, "row": {"text": "…"}, "expect": "keep"}"#)
        })?;
        cases.push(run_case(plugin, &case, index + 1).map_err(|error| error.at(file, index as u64 + 1, 0))?);
    }
    let passed = cases.iter().filter(|case| case.passed).count();
    Ok(TestReport { failed: cases.len() - passed, passed, cases })
}

fn run_case(plugin: &PluginComponent, case: &Case, line: usize) -> StageResult<CaseResult> {
    let manifest = plugin.manifest();
    let judged = if manifest.text.is_empty() { "text" } else { &manifest.text };
    let known: Vec<&str> = std::iter::once(judged).chain(manifest.reads.iter().map(String::as_str)).collect();
    if let Some(unknown) = case.row.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(StageError::input(
            "plugin::case",
            format!("the row has a column `{unknown}`, but the plugin reads `{}`", known.join("`, `")),
        )
        .hint("rename the column, or declare it in `reads`"));
    }
    let column = |name: &str| {
        let text = case.row.get(name).map_or("", String::as_str);
        TextColumn::from_texts([text])
            .ok_or_else(|| StageError::input("plugin::case", format!("column `{name}` has more than 4 GiB of text")))
    };
    let reads = manifest.reads.iter().map(|name| column(name)).collect::<StageResult<_>>()?;
    let batch = TextBatch { texts: column(judged)?, reads };
    let mut worker = Worker::open(plugin, &Value::Object(case.config.clone()))?;
    let verdicts = match worker.judge(&batch, OnTrap::Fail) {
        Ok(verdicts) => verdicts,
        Err(JudgeError::Open(error)) => return Err(error),
        Err(JudgeError::Row(failed)) => {
            let said = format!("failure: {}", failed.fault);
            return Ok(CaseResult { line, passed: false, said, expected: Some(describe(case)) });
        }
    };
    let reason = usize::from(verdicts.drop[0]).checked_sub(1).map(|at| manifest.reasons[at].as_str());
    let edited = verdicts.edits.first().map(|(_, text)| text.as_str());
    let (expectation, said) = match (reason, edited) {
        (Some(reason), _) => (Expectation::Drop, format!("drop: {reason}")),
        (None, Some(text)) => (Expectation::Edit, format!("edit: {text}")),
        (None, None) => (Expectation::Keep, "keep".to_owned()),
    };
    let mut passed = expectation == case.expect
        && case.reason.as_deref().is_none_or(|wanted| reason == Some(wanted))
        && case.edited.as_deref().is_none_or(|wanted| edited == Some(wanted));
    let mut said = said;
    for (name, wanted) in &case.scores {
        let at = manifest.scores.iter().position(|score| score.name == *name).ok_or_else(|| {
            StageError::input("plugin::case", format!("the plugin has no score `{name}`"))
                .hint("declare it: `scores = [\"…\"]`")
        })?;
        let found = f64::from(verdicts.scores[at]);
        said.push_str(&format!(", {name} = {found}"));
        passed &= (found - wanted).abs() <= 1e-5 * wanted.abs().max(1e-30);
    }
    Ok(CaseResult { line, passed, said, expected: (!passed).then(|| describe(case)) })
}

fn describe(case: &Case) -> String {
    let mut text = match case.expect {
        Expectation::Keep => "keep".to_owned(),
        Expectation::Drop => {
            format!("drop{}", case.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default())
        }
        Expectation::Edit => {
            format!("edit{}", case.edited.as_deref().map(|text| format!(": {text}")).unwrap_or_default())
        }
    };
    for (name, wanted) in &case.scores {
        text.push_str(&format!(", {name} = {wanted}"));
    }
    text
}
