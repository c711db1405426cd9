//! Neighbouring native filters that judge the same text: each text goes through all of them while it is in the cache of the
//! processor, and is cut into words once.
//!
//! Steps still come one after the other, each with its own account and its own ledger. The first of such neighbours that has
//! rows to judge takes them through those behind it too, as far as a row gets; what these said is kept beside the rows and
//! handed out when their turn comes. Filters are functions of a text, and nothing but the neighbours themselves changes a
//! text between them, so the outputs are those of one step after the other.

use std::sync::{Mutex, PoisonError};

use luthier_core::StageResult;
use luthier_plugins::{Builtin, Chain, ChainInput, RowFault, TextBatch, Verdicts};
use serde_json::Value;

/// A step and its neighbours behind it, ready to judge together.
#[derive(Default)]
pub(super) struct Neighbours {
    /// With their configurations; that of the step first. Empty if it judges alone.
    filters: Vec<(Builtin, Value)>,
    idle: Mutex<Vec<Chain>>,
}

/// What the steps behind one said of the rows that it judged.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Place of the first step that it is of.
    first: usize,
    /// Numbers of the rows in the shard, ascending.
    rows: Vec<u32>,
    /// How many of the steps judged each row.
    reached: Vec<usize>,
    /// Of each step.
    verdicts: Vec<Verdicts>,
}

impl Neighbours {
    pub fn new(filters: Vec<(Builtin, Value)>) -> Self {
        Self { filters, idle: Mutex::default() }
    }

    /// How many steps are behind the first.
    pub fn behind(&self) -> usize {
        self.filters.len().saturating_sub(1)
    }

    /// Takes `texts` through `steps` filters; `stops` says of a filter, its verdicts and a row whether the row goes.
    /// `None` if a filter refuses a row.
    ///
    /// # Errors
    /// A configuration is wrong.
    pub fn judge(
        &self,
        texts: &TextBatch<'_>,
        steps: usize,
        stops: impl Fn(usize, &Verdicts, usize) -> bool,
    ) -> StageResult<Option<Vec<Verdicts>>> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut chain = match idle {
            Some(chain) => chain,
            None => Chain::open(self.filters.iter().map(|(builtin, config)| (builtin, config)))?,
        };
        let rows = 0..texts.rows();
        let inputs: Vec<ChainInput<'_>> =
            (0..steps).map(|_| ChainInput { batch: texts.slice(rows.clone()), text: 0 }).collect();
        let judged: Result<_, (usize, RowFault)> = chain.judge_until(&inputs, stops);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(chain);
        Ok(judged.ok())
    }
}

impl Ahead {
    /// What the steps from `first` on said of `rows`, and how many of them saw each.
    pub fn new(first: usize, rows: Vec<u32>, reached: Vec<usize>, verdicts: Vec<Verdicts>) -> Self {
        Self { first, rows, reached, verdicts }
    }

    fn find(&self, step: usize, row: u32) -> Option<usize> {
        let at = self.rows.binary_search(&row).ok()?;
        (self.first..self.first + self.reached[at]).contains(&step).then_some(at)
    }
}

/// The verdicts of a step about those of `rows` that were judged ahead, and the places of the others in `rows`.
pub(super) fn served(ahead: &[Ahead], step: usize, rows: &[u32], scores: usize) -> (Verdicts, Vec<usize>) {
    let count = rows.len();
    let mut verdicts = Verdicts::keep_all(count, scores);
    let mut missing = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        // The latest knows most: it judged what those before it did not come to.
        let Some((found, at)) = ahead.iter().rev().find_map(|ahead| Some((ahead, ahead.find(step, *row)?))) else {
            missing.push(place);
            continue;
        };
        let judged = &found.verdicts[step - found.first];
        verdicts.drop[place] = judged.drop[at];
        for (score, column) in judged.scores.chunks_exact(found.rows.len()).enumerate() {
            verdicts.scores[score * count + place] = column[at];
        }
        if let Ok(edit) = judged.edits.binary_search_by_key(&at, |(row, _)| *row) {
            verdicts.edits.push((place, judged.edits[edit].1.clone()));
        }
    }
    (verdicts, missing)
}
