//! `luthier report`, and the report that every run leaves behind.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_engine::explain;
use luthier_engine::report::{self, Report, ReportStage, ReportStatus};
use luthier_engine::run::{RunStatus, RunSummary, StageResult, journal};
use luthier_engine::store::Store;
use luthier_engine::workspace::Workspace;

use super::{open_store, workspace};
use crate::args::{Global, ReportArgs};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &ReportArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let workspace = workspace(global);
    let store = open_store(&workspace)?;
    let summary = journal::load(&workspace, args.run.as_deref())?;
    let path = write_for(&workspace, &store, &summary, Some(&args.output))?;
    if printer.json {
        printer.json(&serde_json::json!({"run": summary.run, "report": path}));
    } else {
        printer.result(path.as_str());
    }
    Ok(exit::DONE)
}

/// Writes the report of a run, beside its journal unless `output` says otherwise.
pub fn write_for(
    workspace: &Workspace,
    store: &Store,
    summary: &RunSummary,
    output: Option<&Utf8Path>,
) -> Result<Utf8PathBuf, Failure> {
    let beside = || workspace.runs_dir().join(&summary.run).join("report.html");
    let path = output.map_or_else(beside, Utf8Path::to_owned);
    let page = report::render(&collect(store, summary));
    luthier_core::fs::write_atomic(&path, page.as_bytes())?;
    Ok(path)
}

fn collect(store: &Store, summary: &RunSummary) -> Report {
    let causes = explain::of_run(summary);
    Report {
        pipeline: summary.pipeline.clone(),
        run_id: summary.run.clone(),
        started: summary.started.clone(),
        seconds: summary.seconds,
        host: summary.host.clone(),
        version: summary.program.clone(),
        succeeded: summary.succeeded(),
        comparisons: summary.comparisons.clone(),
        stages: summary.stages.iter().map(|result| stage(store, result, causes.get(&result.stage))).collect(),
    }
}

fn stage(store: &Store, result: &StageResult, why: Option<&Vec<String>>) -> ReportStage {
    let mut page = ReportStage {
        id: result.stage.to_string(),
        kind: result.kind.clone(),
        status: match result.status {
            RunStatus::Reused => ReportStatus::Reused,
            RunStatus::Ran => ReportStatus::Ran,
            RunStatus::Failed => ReportStatus::Failed,
            RunStatus::Blocked | RunStatus::Stopped => ReportStatus::Blocked,
        },
        why: why.cloned().unwrap_or_default(),
        seconds: result.seconds,
        reads: result.reads.iter().map(ToString::to_string).collect(),
        ..ReportStage::default()
    };
    if let Some(failure) = &result.failure {
        page.why.push(failure.to_string());
        page.error = anstream::adapter::strip_str(&crate::live::render_failure(&result.stage, failure)).to_string();
    }
    if let Some(by) = &result.blocked_by {
        page.why.push(format!("needs {by}"));
    }
    // A result that was collected since still has its place in the graph.
    if let Some(record) = result.key.and_then(|key| store.record(&key).ok().flatten()) {
        page.key = record.key.to_string();
        page.config = record.fingerprint.config;
        page.peak_memory = record.peak_memory;
        page.outputs = record.outputs.into_iter().map(|(name, artifact)| (name.to_string(), artifact)).collect();
        page.metrics = record.outcome.metrics;
        page.sections = record.outcome.sections;
        page.warnings = record.outcome.warnings;
    }
    page
}
