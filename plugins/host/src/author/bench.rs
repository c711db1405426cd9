//! How fast a plugin is on one thread, and what the boundary costs.

use std::time::{Duration, Instant};

use luthier_core::{StageError, StageResult};
use serde::Serialize;
use serde_json::Value;

use crate::batch::{TextBatch, TextColumn};
use crate::component::PluginComponent;
use crate::judge::{JudgeError, OnTrap, Worker};

/// What `luthier plugin bench` shows.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    pub rows: usize,
    pub bytes: usize,
    /// Batches judged while measuring.
    pub batches: usize,
    /// Text judged per second of one thread, 10^6 bytes.
    pub megabytes_per_second: f64,
    pub rows_per_second: f64,
    pub nanoseconds_per_row: f64,
    /// Opening an instance, microseconds.
    pub open_microseconds: f64,
    /// A call with a single empty row, microseconds: what crossing the boundary costs.
    pub call_microseconds: f64,
}

/// Judges `texts` again and again for about `budget`.
///
/// # Errors
/// The plugin refuses the configuration or fails on a row.
pub fn bench(plugin: &PluginComponent, config: &Value, texts: &[String], budget: Duration) -> StageResult<BenchReport> {
    let manifest = plugin.manifest();
    let column = |texts: &mut dyn Iterator<Item = &str>| {
        TextColumn::from_texts(texts)
            .ok_or_else(|| StageError::input("plugin::bench", "the sample has more than 4 GiB of text"))
    };
    let judged = column(&mut texts.iter().map(String::as_str))?;
    let bytes = judged.data().len();
    let reads = manifest.reads.iter().map(|_| column(&mut texts.iter().map(|_| ""))).collect::<StageResult<_>>()?;
    let batch = TextBatch { texts: judged, reads };
    let one = TextBatch {
        texts: column(&mut std::iter::once(""))?,
        reads: manifest.reads.iter().map(|_| column(&mut std::iter::once(""))).collect::<StageResult<_>>()?,
    };

    let start = Instant::now();
    let mut worker = Worker::open(plugin, config)?;
    let open = start.elapsed();
    let mut judge = |batch: &TextBatch<'_>| match worker.judge(batch, OnTrap::Fail) {
        Ok(_) => Ok(()),
        Err(JudgeError::Open(error)) => Err(error),
        Err(JudgeError::Row(failed)) => Err(StageError::new(
            "plugin::bench",
            format!("plugin `{}` {} on row {}", manifest.name, failed.fault, failed.row + 1),
        )
        .hint("`luthier plugin test` shows what it says about a row")),
    };
    judge(&batch)?;
    judge(&one)?;
    let calls = 200;
    let start = Instant::now();
    for _ in 0..calls {
        judge(&one)?;
    }
    let call = start.elapsed() / calls;
    let start = Instant::now();
    let mut batches = 0;
    while batches == 0 || start.elapsed() < budget {
        judge(&batch)?;
        batches += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    let rows = texts.len() * batches;
    Ok(BenchReport {
        rows: texts.len(),
        bytes,
        batches,
        megabytes_per_second: bytes as f64 * batches as f64 / seconds / 1e6,
        rows_per_second: rows as f64 / seconds,
        nanoseconds_per_row: seconds * 1e9 / (rows.max(1) as f64),
        open_microseconds: open.as_secs_f64() * 1e6,
        call_microseconds: call.as_secs_f64() * 1e6,
    })
}
