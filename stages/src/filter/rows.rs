//! Steps of the stage's own that judge each row by itself.

use std::sync::Arc;

use arrow::array::RecordBatch;
use luthier_core::StageResult;
use luthier_plugins::TextColumn;

/// Judges rows one by one; shared by all threads.
pub(super) trait RowStep: Send + Sync {
    fn name(&self) -> &str;

    /// Names of the scores.
    fn scores(&self) -> &'static [&'static str];

    /// The text of each row, for samples.
    fn texts<'a>(&self, batch: &'a RecordBatch) -> StageResult<TextColumn<'a>>;

    fn judge(&self, batch: &RecordBatch) -> StageResult<RowVerdicts>;
}

/// What a step says about a batch.
#[derive(Debug, Default)]
pub(super) struct RowVerdicts {
    /// Of each row.
    pub drops: Vec<Option<RowDrop>>,
    /// All rows of the first score, then all of the second, ….
    pub scores: Vec<f32>,
}

/// Why a row is dropped.
#[derive(Debug, Clone)]
pub(super) struct RowDrop {
    pub reason: Arc<str>,
    /// JSON for the column `filter_detail`.
    pub detail: Option<String>,
}
