//! Length in tokens. A plugin cannot see a tokenizer, so this is a step of the stage, which has the model as an input.

use std::sync::Arc;

use arrow::array::RecordBatch;
use luthier_core::{ConfigIssue, StageError, StageResult};
use luthier_formats::tokenizer::Tokenizer;
use luthier_plugins::TextColumn;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::column::Judged;
use super::rows::{RowDrop, RowStep, RowVerdicts};

/// The port of the model whose tokenizer counts.
pub(super) const PORT: &str = "model";

/// Bounds on the tokens of a text: of the text alone, without the special tokens and the template of a training sample.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokensConfig {
    /// Fewest tokens.
    #[serde(default)]
    pub min: usize,
    /// Most tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<usize>,
}

impl TokensConfig {
    pub fn check(&self, path: &str, issues: &mut Vec<ConfigIssue>) {
        if self.min == 0 && self.max.is_none() {
            issues.push(ConfigIssue::new(path, "expected `min` or `max`, found neither").help("such as `{max: 2048}`"));
        }
        if self.max.is_some_and(|max| max < self.min) {
            let message = "`min` is larger than `max`, so every row would be dropped".to_owned();
            issues.push(ConfigIssue::new(path, message).help("swap them, or leave one out"));
        }
    }
}

pub(super) struct TokensStep {
    pub name: String,
    pub judged: Judged,
    pub bounds: TokensConfig,
    pub tokenizer: Tokenizer,
}

/// The error for a step whose input `port` is not connected.
pub(super) fn not_connected(step: &str, port: &str, what: &str, example: &str) -> StageError {
    StageError::input(
        "filter::not_connected",
        format!("step `{step}` needs {what}, but input `{port}` is not connected"),
    )
    .hint(format!("add it under `in:`, such as `in: {{data: raw, {port}: {example}}}`"))
}

impl RowStep for TokensStep {
    fn name(&self) -> &str {
        &self.name
    }

    fn scores(&self) -> &'static [&'static str] {
        &["tokens"]
    }

    fn texts<'a>(&self, batch: &'a RecordBatch) -> StageResult<TextColumn<'a>> {
        self.judged.texts(batch)
    }

    fn judge(&self, batch: &RecordBatch) -> StageResult<RowVerdicts> {
        let mut verdicts = RowVerdicts::default();
        for text in self.judged.texts(batch)?.iter() {
            let tokens = self.tokenizer.encode(text, false)?.len();
            verdicts.scores.push(tokens as f32);
            let reason = if tokens < self.bounds.min {
                Some("few_tokens")
            } else if self.bounds.max.is_some_and(|max| tokens > max) {
                Some("many_tokens")
            } else {
                None
            };
            verdicts.drops.push(reason.map(|reason| RowDrop { reason: Arc::from(reason), detail: None }));
        }
        Ok(verdicts)
    }
}
