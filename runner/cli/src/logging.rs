//! `--log FILE`: what the program does, as `tracing` events in a file.

use std::sync::Mutex;

use camino::Utf8Path;
use luthier_core::StageEvent;
use luthier_engine::run::RunEvent;
use tracing::{debug, error, info, trace, warn};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, registry, util::SubscriberInitExt};

use crate::failure::Failure;

/// Levels as in `debug` or `luthier_engine=trace,info`.
const LEVEL: &str = "LUTHIER_LOG";

/// Sends everything that is traced to a file, which is replaced.
pub fn to_file(path: &Utf8Path) -> Result<(), Failure> {
    let level = std::env::var(LEVEL).unwrap_or_else(|_| "debug".to_owned());
    let filter = EnvFilter::try_new(&level).map_err(|error| {
        Failure::input("log::level", format!("`{LEVEL}={level}` is not a level: {error}"))
            .hint(format!("`{LEVEL}=debug`, or per crate `{LEVEL}=info,luthier_engine=trace`"))
    })?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_str().is_empty()) {
        fs_err::create_dir_all(parent)?;
    }
    let file = Mutex::new(fs_err::File::create(path)?.into_parts().0);
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file);
    let layer = match path.extension() {
        Some("json" | "jsonl") => layer.json().flatten_event(true).boxed(),
        _ => layer.boxed(),
    };
    // Only a second subscriber of one process can fail here, and there is none.
    let _ = registry().with(layer.with_filter(filter)).try_init();
    info!(version = env!("CARGO_PKG_VERSION"), arguments = ?std::env::args().collect::<Vec<_>>(), "luthier");
    Ok(())
}

/// One event of a run, `at` seconds into it.
pub fn event(at: f64, event: &RunEvent) {
    match event {
        RunEvent::RunStarted { run, pipeline, stages, threads, .. } => {
            info!(at, run, pipeline, stages = stages.len(), threads, "run started");
        }
        RunEvent::StageReused { stage, key, .. } => debug!(at, %stage, %key, "stage reused"),
        RunEvent::StageWaiting { stage, key } => info!(at, %stage, %key, "stage waits for another run"),
        RunEvent::StageStarted { stage, key, why, attempt, threads, .. } => {
            let why = why.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            info!(at, %stage, %key, why, attempt, threads, "stage started");
        }
        RunEvent::StageEvent { stage, event } => stage_event(at, stage, event),
        RunEvent::StageFinished { stage, record } => {
            info!(at, %stage, key = %record.key, seconds = record.seconds, peak_memory = record.peak_memory, "stage finished");
        }
        RunEvent::StageFailed { stage, failure, attempt, will_retry, .. } => {
            error!(at, %stage, code = failure.code, error = %failure, attempt, will_retry, "stage failed");
        }
        RunEvent::StageBlocked { stage, by } => warn!(at, %stage, %by, "stage blocked"),
        RunEvent::RemoteAsked { remote, stages } => info!(at, remote, stages = stages.len(), "remote asked"),
        RunEvent::RemotePulled { remote, shipment } => {
            info!(
                at,
                remote,
                stages = shipment.stages.len(),
                bytes = shipment.bytes,
                problems = shipment.problems.len(),
                "remote pulled"
            );
        }
        RunEvent::RemotePushed { remote, shipment } => {
            info!(
                at,
                remote,
                stages = shipment.stages.len(),
                bytes = shipment.bytes,
                problems = shipment.problems.len(),
                "remote pushed"
            );
        }
        RunEvent::RunFinished { summary } => {
            info!(at, seconds = summary.seconds, succeeded = summary.succeeded(), "run finished");
        }
    }
}

fn stage_event(at: f64, stage: &luthier_core::StageId, event: &StageEvent) {
    match event {
        StageEvent::Progress(progress) => {
            trace!(at, %stage, done = progress.done, total = progress.total, unit = progress.unit, note = progress.note, "progress");
        }
        StageEvent::Warning { message, .. } => warn!(at, %stage, "{message}"),
        StageEvent::Log(line) => debug!(at, %stage, "{line}"),
        StageEvent::Point { series, x, y } => trace!(at, %stage, series, x, y, "point"),
    }
}
