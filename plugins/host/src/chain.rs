//! Native filters one after the other over each row, while the row is in the cache of the processor: what they have in
//! common, the cut into words, is done once.

use luthier_builtins::Document;
use luthier_core::StageResult;
use serde_json::Value;

use crate::batch::TextBatch;
use crate::builtin::{Builtin, NativeFilter};
use crate::fault::Fault;
use crate::judge::RowFault;
use crate::plugin::config_error;
use crate::verdict::Verdicts;

/// Built-in filters in the order in which they judge.
pub struct Chain {
    filters: Vec<Box<dyn NativeFilter>>,
}

/// What one filter of a chain judges.
#[derive(Debug)]
pub struct ChainInput<'a> {
    pub batch: TextBatch<'a>,
    /// Equal numbers judge the same text: the edits of one are seen by the next.
    pub text: usize,
}

impl Chain {
    /// Opens the filters with their configurations.
    ///
    /// # Errors
    /// A configuration is wrong.
    pub fn open<'a>(filters: impl IntoIterator<Item = (&'a Builtin, &'a Value)>) -> StageResult<Self> {
        let open = |(builtin, config): (&Builtin, &Value)| {
            builtin.open(config).map_err(|issues| {
                let issues: Vec<(String, String)> =
                    issues.into_iter().map(|issue| (issue.path, issue.message)).collect();
                config_error(builtin.name(), &issues, &format!("builtin:{}", builtin.name()))
            })
        };
        Ok(Self { filters: filters.into_iter().map(open).collect::<StageResult<_>>()? })
    }

    /// Judges all rows of `inputs`, one per filter and of equal length. A filter sees the rows that those before it
    /// kept; of the others its verdict is to keep them, with scores of 0.
    ///
    /// # Errors
    /// A filter refuses a row: the number of the filter, and the row.
    pub fn judge(&mut self, inputs: &[ChainInput<'_>]) -> Result<Vec<Verdicts>, (usize, RowFault)> {
        self.judge_until(inputs, |_, verdicts, row| verdicts.drop[row] != 0)
    }

    /// As [`Self::judge`], but every filter sees every row, dropped or not.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub fn judge_all(&mut self, inputs: &[ChainInput<'_>]) -> Result<Vec<Verdicts>, (usize, RowFault)> {
        self.judge_until(inputs, |_, _, _| false)
    }

    /// As [`Self::judge`], but `stops` says of the number of a filter, its verdicts and a row that it has just judged
    /// whether no further filter sees the row. With fewer inputs than filters the last filters see nothing.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub fn judge_until(
        &mut self,
        inputs: &[ChainInput<'_>],
        stops: impl Fn(usize, &Verdicts, usize) -> bool,
    ) -> Result<Vec<Verdicts>, (usize, RowFault)> {
        let rows = inputs.first().map_or(0, |input| input.batch.rows());
        let filters = self.filters.iter().zip(inputs);
        let mut verdicts: Vec<Verdicts> =
            filters.map(|(filter, _)| Verdicts::keep_all(rows, filter.scores())).collect();
        let mut reads: Vec<Vec<&str>> = inputs.iter().map(|input| vec![""; input.batch.reads.len()]).collect();
        for row in 0..rows {
            let _document = Document::begin();
            for (at, (filter, input)) in self.filters.iter_mut().zip(inputs).enumerate() {
                for (slot, column) in reads[at].iter_mut().zip(&input.batch.reads) {
                    *slot = column.get(row);
                }
                let (before, rest) = verdicts.split_at_mut(at);
                let edited = before.iter().zip(inputs).rev().find_map(|(verdicts, earlier)| {
                    let (edited, text) = verdicts.edits.last().filter(|_| earlier.text == input.text)?;
                    (*edited == row).then_some(text.as_str())
                });
                let text = edited.unwrap_or_else(|| input.batch.texts.get(row));
                let judged = filter.judge_row(row, text, &reads[at], &mut rest[0]);
                judged.map_err(|why| (at, RowFault { row, fault: Fault::Refused(why) }))?;
                if stops(at, &rest[0], row) {
                    break;
                }
            }
        }
        Ok(verdicts)
    }
}
