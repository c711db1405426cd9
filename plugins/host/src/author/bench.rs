//! How fast a filter is on one thread, what the boundary costs, and how far it is from its native build.

use std::time::{Duration, Instant};

use luthier_core::{StageError, StageResult};
use serde::Serialize;
use serde_json::Value;

use crate::batch::{TextBatch, TextColumn};
use crate::judge::{JudgeError, OnTrap, Worker};
use crate::plugin::Plugin;

/// What `luthier plugin bench` shows.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    pub rows: usize,
    pub bytes: usize,
    /// Batches judged while measuring.
    pub batches: usize,
    /// Text judged per second of one thread, 10^6 bytes; that of the fastest batch, as all measures here.
    pub megabytes_per_second: f64,
    pub rows_per_second: f64,
    pub nanoseconds_per_row: f64,
    /// Opening an instance, microseconds.
    pub open_microseconds: f64,
    /// Handing such a batch to the guest and back, nothing judged, microseconds: the call and the copies. 0 for what has
    /// no boundary.
    pub boundary_microseconds: f64,
    /// Copying such a batch once, which is the least that handing it over can cost, microseconds.
    pub copy_microseconds: f64,
    /// Of the time of a batch, percent: the boundary, and what of it is not that copy.
    pub boundary_percent: f64,
    pub call_percent: f64,
    /// The same of instructions, where the engine counts fuel and the batch is one call.
    pub boundary_instructions_percent: Option<f64>,
}

/// A plugin while it is measured.
struct Subject {
    worker: Worker,
    batch: TextBatch<'static>,
    name: String,
    open: Duration,
    /// Of the fastest batch, and of the fastest way there and back.
    best: Duration,
    crossing: Option<Duration>,
    /// Instructions of each.
    spent: [Option<u64>; 2],
}

/// A batch of `texts`, whatever further columns `plugin` reads empty.
fn batch_of(plugin: &Plugin, texts: &[String]) -> StageResult<TextBatch<'static>> {
    let column = |texts: &mut dyn Iterator<Item = &str>| {
        TextColumn::from_texts(texts)
            .ok_or_else(|| StageError::input("plugin::bench", "the sample has more than 4 GiB of text"))
    };
    let reads =
        plugin.manifest().reads.iter().map(|_| column(&mut texts.iter().map(|_| ""))).collect::<StageResult<_>>()?;
    Ok(TextBatch { texts: column(&mut texts.iter().map(String::as_str))?, reads })
}

/// The fastest of some copies of all that a batch holds, into memory that was written before.
fn copying(batch: &TextBatch<'_>) -> Duration {
    let columns = || std::iter::once(&batch.texts).chain(&batch.reads);
    let mut copies: Vec<(Vec<u8>, Vec<u32>)> =
        columns().map(|column| (column.data().as_bytes().to_vec(), column.offsets().to_vec())).collect();
    let copy = |copies: &mut Vec<(Vec<u8>, Vec<u32>)>| {
        let start = Instant::now();
        for ((data, offsets), column) in copies.iter_mut().zip(columns()) {
            data.copy_from_slice(column.data().as_bytes());
            offsets.copy_from_slice(column.offsets());
        }
        std::hint::black_box(copies);
        start.elapsed()
    };
    (0..20).map(|_| copy(&mut copies)).min().unwrap_or_default()
}

fn judge(worker: &mut Worker, batch: &TextBatch<'_>, name: &str) -> StageResult<Duration> {
    let start = Instant::now();
    match worker.judge(batch, OnTrap::Fail) {
        Ok(_) => Ok(start.elapsed()),
        Err(JudgeError::Open(error)) => Err(error),
        Err(JudgeError::Row(failed)) => {
            Err(StageError::new("plugin::bench", format!("plugin `{name}` {} on row {}", failed.fault, failed.row + 1))
                .hint("`luthier plugin test` shows what it says about a row"))
        }
    }
}

/// Judges `texts` again and again for about `budget`.
///
/// # Errors
/// The plugin refuses the configuration or fails on a row.
pub fn bench(plugin: &Plugin, config: &Value, texts: &[String], budget: Duration) -> StageResult<BenchReport> {
    Ok(bench_all(&[plugin], config, texts, budget)?.remove(0))
}

/// Judges `texts` by each of `plugins` in turn, again and again, so that what slows the machine down slows all of them.
///
/// # Errors
/// As [`bench`].
pub fn bench_all(
    plugins: &[&Plugin],
    config: &Value,
    texts: &[String],
    budget: Duration,
) -> StageResult<Vec<BenchReport>> {
    let mut subjects = Vec::with_capacity(plugins.len());
    for plugin in plugins {
        let name = plugin.manifest().name;
        let batch = batch_of(plugin, texts)?;
        let start = Instant::now();
        let mut worker = plugin.open(config)?;
        let open = start.elapsed();
        judge(&mut worker, &batch, &name)?;
        subjects.push(Subject { worker, batch, name, open, best: Duration::MAX, crossing: None, spent: [None; 2] });
    }
    let start = Instant::now();
    let mut batches = 0;
    while batches < 3 || start.elapsed() < budget {
        for Subject { worker, batch, name, best, crossing, spent, .. } in &mut subjects {
            *best = (*best).min(judge(worker, batch, name)?);
            spent[0] = worker.spent();
            let start = Instant::now();
            if worker.cross(batch) {
                *crossing = Some(crossing.unwrap_or(Duration::MAX).min(start.elapsed()));
                spent[1] = worker.spent();
            }
        }
        batches += 1;
    }
    Ok(subjects
        .into_iter()
        .map(|Subject { batch, open, best, crossing, spent, .. }| {
            let boundary = crossing.unwrap_or_default().as_secs_f64();
            let copy = if crossing.is_some() { copying(&batch).as_secs_f64() } else { 0.0 };
            let spent = spent[0].zip(spent[1]);
            let (seconds, bytes, rows) = (best.as_secs_f64().max(1e-9), batch.texts.data().len(), batch.rows());
            BenchReport {
                rows,
                bytes,
                batches,
                megabytes_per_second: bytes as f64 / seconds / 1e6,
                rows_per_second: rows as f64 / seconds,
                nanoseconds_per_row: seconds * 1e9 / (rows.max(1) as f64),
                open_microseconds: open.as_secs_f64() * 1e6,
                boundary_microseconds: boundary * 1e6,
                copy_microseconds: copy * 1e6,
                boundary_percent: 100.0 * boundary / seconds,
                call_percent: 100.0 * (boundary - copy).max(0.0) / seconds,
                boundary_instructions_percent: spent.map(|(all, boundary)| 100.0 * boundary as f64 / all.max(1) as f64),
            }
        })
        .collect())
}
