//! The step: reads the evaluation sets, then judges rows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use luthier_core::{StageContext, StageError, StageResult};
use luthier_formats::dataset::{DatasetReader, DatasetShape, string_column};
use luthier_formats::decontaminated::Decontaminated;
use luthier_plugins::TextColumn;
use serde::Serialize;

use super::DecontaminateConfig;
use super::index::{EvalIndex, Finding, IndexBuilder};
use crate::filter::column::Judged;
use crate::filter::rows::{RowDrop, RowStep, RowVerdicts};
use crate::filter::tokens::not_connected;

/// The port of the evaluation sets.
pub(in crate::filter) const PORT: &str = "against";

const BATCH: usize = 4_096;

pub(in crate::filter) struct DecontaminateStep {
    name: String,
    judged: Judged,
    index: EvalIndex,
    /// As the pipeline names the evaluation sets.
    sets: Vec<String>,
}

/// Everything that a row says, in one text.
pub(in crate::filter) fn whole_row(shape: DatasetShape) -> Judged {
    match shape {
        DatasetShape::Chat => Judged::Messages,
        DatasetShape::PromptCompletion | DatasetShape::Text => {
            let columns: Vec<String> = shape.columns().iter().map(|name| (*name).to_owned()).collect();
            Judged::of(&columns)
        }
    }
}

impl DecontaminateStep {
    /// Reads the connected evaluation sets.
    ///
    /// # Errors
    /// None is connected, or one cannot be read or has no words.
    pub fn open(
        context: &StageContext<'_>,
        config: DecontaminateConfig,
        name: &str,
        judged: Judged,
    ) -> StageResult<Self> {
        let inputs = context.inputs(PORT);
        if inputs.is_empty() {
            return Err(not_connected(name, PORT, "an evaluation set to compare with", "[split.test]"));
        }
        let mut builder = IndexBuilder::new(config);
        for (set, input) in inputs.iter().enumerate() {
            let reader = DatasetReader::open(&input.path)?;
            let whole = whole_row(reader.shape());
            for batch in reader.batches(BATCH) {
                context.check_cancelled()?;
                let batch = batch?;
                let ids = string_column(&batch, "id")?;
                let texts = whole.texts(&batch)?;
                for (row, text) in texts.iter().enumerate() {
                    builder.add(set as u32, ids.value(row), text);
                }
            }
        }
        let index = builder.finish();
        for (set, input) in inputs.iter().enumerate() {
            if index.rows_of(set as u32) == 0 {
                let message = format!("evaluation set `{}` has no words to compare with", input.from);
                return Err(StageError::input("filter::empty_eval_data", message)
                    .hint(format!("look at the stage that makes it: `luthier show {}`", input.from)));
            }
        }
        let sets = inputs.iter().map(|input| input.from.clone()).collect();
        Ok(Self { name: name.to_owned(), judged, index, sets })
    }
}

/// What the kept rows are free of: what the rows that came in were, and the sets of a decontaminating step.
pub(in crate::filter) fn freed(context: &StageContext<'_>, decontaminates: bool) -> StageResult<Decontaminated> {
    let mut freed = Decontaminated::read(&context.input("data")?.path)?;
    if decontaminates {
        context.inputs(PORT).iter().for_each(|input| freed.insert(input.digest));
    }
    Ok(freed)
}

/// `filter_detail` of a dropped row.
#[derive(Serialize)]
struct Detail<'a> {
    against: &'a str,
    #[serde(flatten)]
    finding: &'a Finding,
}

impl RowStep for DecontaminateStep {
    fn name(&self) -> &str {
        &self.name
    }

    fn scores(&self) -> &'static [&'static str] {
        &[]
    }

    fn texts<'a>(&self, batch: &'a RecordBatch) -> StageResult<TextColumn<'a>> {
        self.judged.texts(batch)
    }

    fn judge(&self, batch: &RecordBatch) -> StageResult<RowVerdicts> {
        let mut verdicts = RowVerdicts::default();
        for text in self.judged.texts(batch)?.iter() {
            verdicts.drops.push(match self.index.find(text) {
                None => None,
                Some(finding) => {
                    let detail = Detail { against: &self.sets[finding.set as usize], finding: &finding };
                    let detail = serde_json::to_string(&detail).map_err(|error| {
                        StageError::new("filter::detail", "a finding cannot be written as JSON").caused_by(error)
                    })?;
                    Some(RowDrop { reason: Arc::from(finding.reason), detail: Some(detail) })
                }
            });
        }
        Ok(verdicts)
    }
}
