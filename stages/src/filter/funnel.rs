//! What fell out where: counts, reasons, score distributions and sampled rows, the same for any number of threads.

use std::collections::BTreeMap;

use luthier_core::{Section, StageOutcome};
use serde_json::{Value, json};

use super::sketch::ScoreSketch;

/// Bins of a score's histogram.
const BINS: usize = 40;
/// Sampled rows per step and reason.
const SAMPLES: usize = 3;
/// Longest text of a sample, in characters.
const SAMPLE_CHARS: usize = 300;

/// The account of one step.
#[derive(Debug, Default)]
pub(super) struct StepAccount {
    pub name: String,
    pub rows_in: u64,
    pub rows_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub edited: u64,
    pub failed: u64,
    reasons: BTreeMap<String, ReasonAccount>,
    scores: Vec<(String, ScoreSketch)>,
}

#[derive(Debug, Default)]
struct ReasonAccount {
    rows: u64,
    /// By a hash of the row's id, so that the sample does not favour the start of the dataset.
    samples: BTreeMap<([u8; 8], u64), String>,
}

impl StepAccount {
    pub fn new(name: &str, scores: impl IntoIterator<Item = String>) -> Self {
        let scores = scores.into_iter().map(|score| (score, ScoreSketch::default())).collect();
        Self { name: name.to_owned(), scores, ..Self::default() }
    }

    pub fn enter(&mut self, rows: usize, bytes: u64) {
        self.rows_in += rows as u64;
        self.bytes_in += bytes;
    }

    pub fn leave(&mut self, rows: usize, bytes: u64) {
        self.rows_out += rows as u64;
        self.bytes_out += bytes;
    }

    pub fn dropped(&self) -> u64 {
        self.rows_in - self.rows_out
    }

    /// Counts a dropped row; `text` is called only if the row becomes a sample.
    pub fn drop_row(&mut self, reason: &str, id: &str, row: u64, text: impl FnOnce() -> String) {
        if !self.reasons.contains_key(reason) {
            self.reasons.insert(reason.to_owned(), ReasonAccount::default());
        }
        let Some(account) = self.reasons.get_mut(reason) else { return };
        account.rows += 1;
        let mut rank = [0u8; 8];
        rank.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..8]);
        let key = (rank, row);
        let full = account.samples.len() >= SAMPLES;
        if full && account.samples.keys().next_back().is_some_and(|last| *last < key) {
            return;
        }
        account.samples.insert(key, shorten(&text()));
        if full {
            account.samples.pop_last();
        }
    }

    /// Takes in the scores of a batch, column-major.
    pub fn add_scores(&mut self, rows: usize, values: &[f32]) {
        if rows == 0 {
            return;
        }
        for ((_, sketch), column) in self.scores.iter_mut().zip(values.chunks_exact(rows)) {
            column.iter().for_each(|value| sketch.add(*value));
        }
    }

    fn artifact(&self) -> Value {
        let reasons: BTreeMap<&str, Value> = self
            .reasons
            .iter()
            .map(|(reason, account)| {
                let samples: Vec<&String> = account.samples.values().collect();
                (reason.as_str(), json!({"rows": account.rows, "samples": samples}))
            })
            .collect();
        let scores: BTreeMap<&str, Value> = self
            .scores
            .iter()
            .map(|(name, sketch)| (name.as_str(), json!({"histogram": sketch.histogram(BINS)})))
            .collect();
        json!({
            "name": self.name, "rows_in": self.rows_in, "rows_out": self.rows_out, "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out, "edited": self.edited, "failed": self.failed, "reasons": reasons, "scores": scores,
        })
    }

    /// The most frequent reason.
    pub fn main_reason(&self) -> Option<&str> {
        self.reasons
            .iter()
            .max_by(|a, b| a.1.rows.cmp(&b.1.rows).then_with(|| b.0.cmp(a.0)))
            .map(|(reason, _)| reason.as_str())
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SAMPLE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The format of the output `funnel`.
const VERSION: u32 = 1;

/// The output `funnel`: histograms as the middles of their bins and shares of the rows that a step judged.
pub(super) fn artifact(accounts: &[StepAccount], rows_in: u64, rows_kept: u64) -> Value {
    let steps: Vec<Value> = accounts.iter().map(StepAccount::artifact).collect();
    json!({"version": VERSION, "rows_in": rows_in, "rows_kept": rows_kept, "steps": steps})
}

/// Metrics and report sections of a finished run.
pub(super) fn report(accounts: &[StepAccount], rows_in: u64, rows_kept: u64) -> StageOutcome {
    let mut outcome = StageOutcome::new();
    outcome.metric("rows_in", rows_in as f64, "rows").metric("rows_kept", rows_kept as f64, "rows");
    for account in accounts {
        outcome.metric(&format!("dropped.{}", account.name), account.dropped() as f64, "rows");
        if account.failed > 0 {
            outcome.metric(&format!("failed.{}", account.name), account.failed as f64, "rows");
        }
    }
    let steps = std::iter::once(("rows in".to_owned(), rows_in))
        .chain(accounts.iter().map(|account| (account.name.clone(), account.rows_out)))
        .collect();
    outcome.section(Section::Funnel { title: "Rows left after each step".to_owned(), unit: "rows".to_owned(), steps });
    outcome.section(table(accounts));
    let samples = samples(accounts);
    if !samples.is_empty() {
        outcome.section(Section::Samples {
            title: "Dropped rows".to_owned(),
            columns: vec!["step".to_owned(), "reason".to_owned(), "text".to_owned()],
            rows: samples,
        });
    }
    for account in accounts {
        for (score, sketch) in &account.scores {
            outcome.section(Section::Histogram {
                title: format!("{}: {score}", account.name),
                x_label: score.clone(),
                bins: sketch.histogram(BINS),
            });
        }
    }
    outcome
}

/// To the kilobyte; the bytes are in the output `funnel`.
fn megabytes(bytes: u64) -> String {
    format!("{:.3}", bytes as f64 / 1e6)
}

fn table(accounts: &[StepAccount]) -> Section {
    let mut rows = Vec::new();
    for account in accounts {
        rows.push(vec![
            account.name.clone(),
            account.rows_in.to_string(),
            account.rows_out.to_string(),
            account.edited.to_string(),
            megabytes(account.bytes_in),
            megabytes(account.bytes_out),
            String::new(),
        ]);
        for (reason, reason_account) in &account.reasons {
            rows.push(vec![
                format!("· {reason}"),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                reason_account.rows.to_string(),
            ]);
        }
    }
    let columns = ["step", "rows in", "rows out", "edited", "MB in", "MB out", "dropped"];
    Section::Table { title: "Filter steps".to_owned(), columns: columns.map(str::to_owned).to_vec(), rows }
}

fn samples(accounts: &[StepAccount]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for account in accounts {
        for (reason, reason_account) in &account.reasons {
            for text in reason_account.samples.values() {
                rows.push(vec![account.name.clone(), reason.clone(), text.clone()]);
            }
        }
    }
    rows
}
