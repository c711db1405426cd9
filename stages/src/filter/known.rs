//! Verdicts of earlier runs about the same rows, and which rows are still to be judged.

use std::sync::atomic::{AtomicU64, Ordering};

use luthier_core::{Digest, ShardCache, ShardKey, StageResult};
use luthier_plugins::{Builtin, TextBatch, TextColumn, Verdicts};
use serde_json::Value;

use super::ledger::{Entry, Ledger, Seen};

/// What a plugin with one configuration is known to say.
pub(super) struct KnownVerdicts {
    key: ShardKey,
    /// Of the whole configuration, thresholds included.
    config: Digest,
    scores: usize,
    reasons: usize,
    /// A built-in whose verdicts follow from scores and thresholds, opened with the configuration of this run.
    selector: Option<Builtin>,
    values: Value,
    judged: AtomicU64,
}

impl KnownVerdicts {
    /// `key` is over the plugin's code and all of its configuration that scores depend on.
    pub fn new(key: ShardKey, values: Value, [scores, reasons]: [usize; 2], selector: Option<Builtin>) -> Self {
        let config = ShardKey::new("filter-config", 0).with_config("config", &values).finish();
        Self { key, config, scores, reasons, selector, values, judged: AtomicU64::new(0) }
    }

    /// Rows that the plugin was asked about.
    pub fn judged(&self) -> u64 {
        self.judged.load(Ordering::Relaxed)
    }

    /// Whether anything is filed about the shard with digest `shard`.
    pub fn knows(&self, cache: &ShardCache, shard: &Digest) -> bool {
        cache.contains(&self.key_of(shard))
    }

    fn key_of(&self, shard: &Digest) -> Digest {
        self.key.clone().with("shard", shard.as_bytes()).finish()
    }

    /// The verdicts about `rows`, rows of the shard with digest `shard` of which the plugin sees `seen`; `judge` is asked for
    /// those that are not known, by their places in `rows`.
    ///
    /// # Errors
    /// Those of `judge`.
    pub fn get_or_judge(
        &self,
        cache: &ShardCache,
        shard: &Digest,
        rows: &[u32],
        seen: &[Seen],
        texts: &TextBatch<'_>,
        judge: impl FnOnce(&TextBatch<'_>, &[usize]) -> StageResult<Verdicts>,
    ) -> StageResult<Verdicts> {
        let key = self.key_of(shard);
        let filed = cache.get(&key).and_then(|bytes| Ledger::decode(&bytes, self.scores, self.reasons));
        let outdated = filed.as_ref().is_some_and(|ledger| ledger.config != self.config);
        let known = filed.map(|ledger| self.select(ledger));
        let entry = |at: usize| known.as_ref()?.rows.get(&rows[at]).filter(|entry| entry.seen == seen[at]);
        let mut verdicts = Verdicts::keep_all(rows.len(), self.scores);
        let mut missing = Vec::new();
        for at in 0..rows.len() {
            match entry(at) {
                Some(entry) => put(&mut verdicts, at, entry, self.selector.as_ref()),
                None => missing.push(at),
            }
        }
        cache.count(missing.is_empty());
        if missing.is_empty() && !outdated {
            return Ok(verdicts);
        }
        let mut ledger = known.unwrap_or_else(|| Ledger::new(self.config));
        if !missing.is_empty() {
            self.judged.fetch_add(missing.len() as u64, Ordering::Relaxed);
            let judged = match missing.len() == rows.len() {
                true => judge(texts, &missing)?,
                false => judge(&subset(texts, &missing), &missing)?,
            };
            let numbers: Vec<u32> = missing.iter().map(|at| rows[*at]).collect();
            let seen: Vec<Seen> = missing.iter().map(|at| seen[*at]).collect();
            ledger.add(&judged, &numbers, &seen);
            spread(&mut verdicts, judged, &missing);
        }
        if let Some(bytes) = ledger.encode() {
            cache.put(&key, &bytes);
        }
        Ok(verdicts)
    }

    /// The ledger under the thresholds of this run: rows whose verdict does not follow from their scores go.
    fn select(&self, mut ledger: Ledger) -> Ledger {
        if ledger.config == self.config {
            return ledger;
        }
        ledger.config = self.config;
        let select = self.selector.map(|builtin| builtin.selector(&self.values));
        ledger.rows.retain(|_, entry| {
            let drop = select.as_ref().and_then(|select| select(&entry.scores, entry.judged));
            drop.is_some_and(|drop| {
                entry.drop = drop;
                true
            })
        });
        ledger
    }
}

/// As a filter that judges the row now would say it: without scores that it would not come to.
fn put(verdicts: &mut Verdicts, at: usize, entry: &Entry, builtin: Option<&Builtin>) {
    let rows = verdicts.drop.len();
    verdicts.drop[at] = entry.drop;
    let shown = builtin.map_or(entry.scores.len(), |builtin| builtin.scores_of(entry.drop));
    for (score, value) in entry.scores.iter().enumerate().take(shown) {
        verdicts.scores[score * rows + at] = *value;
    }
    if let Some(text) = entry.edit.as_ref().filter(|_| entry.drop == 0) {
        verdicts.edits.push((at, text.clone()));
    }
}

/// Puts the verdicts about some rows to their places among all.
pub(super) fn spread(verdicts: &mut Verdicts, judged: Verdicts, places: &[usize]) {
    let (rows, part) = (verdicts.drop.len(), places.len());
    for (index, at) in places.iter().enumerate() {
        verdicts.drop[*at] = judged.drop[index];
        for (score, column) in judged.scores.chunks_exact(part).enumerate() {
            verdicts.scores[score * rows + at] = column[index];
        }
    }
    verdicts.edits.extend(judged.edits.into_iter().map(|(row, text)| (places[row], text)));
    verdicts.edits.sort_by_key(|(row, _)| *row);
    verdicts.faults.extend(judged.faults.into_iter().map(|(row, why)| (places[row], why)));
}

pub(super) fn subset(texts: &TextBatch<'_>, rows: &[usize]) -> TextBatch<'static> {
    let some = |column: &TextColumn<'_>| {
        // The rows fit a column before, so some of them do.
        TextColumn::from_texts(rows.iter().map(|row| column.get(*row)))
            .unwrap_or_else(|| unreachable!("fewer rows of the same text"))
    };
    TextBatch { texts: some(&texts.texts), reads: texts.reads.iter().map(some).collect() }
}
