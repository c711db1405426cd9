//! `luthier plan`, `luthier status` and `run --dry-run`: what would run, why, and for how long.

use luthier_engine::format;
use luthier_engine::pipeline::Pipeline;
use luthier_engine::run::{self, Action, RunOptions, RunPlan};
use owo_colors::OwoColorize;
use serde_json::json;

use super::{load, open_store, workspace};
use crate::args::{Global, PipelineArgs, PlanArgs};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &PlanArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let pipeline = load(args.pipeline.pipeline.as_deref(), &args.pipeline.params, printer)?;
    if args.memory {
        return memory(&pipeline, global, printer);
    }
    let store = open_store(&workspace(global))?;
    let mut options = RunOptions::default();
    super::run::fill(&mut options, &args.select, &pipeline)?;
    let planned = run::plan(&pipeline, &store, &options)?;
    print(&pipeline, &planned, printer);
    Ok(exit::DONE)
}

pub fn status(args: &PipelineArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let pipeline = load(args.pipeline.as_deref(), &args.params, printer)?;
    let store = open_store(&workspace(global))?;
    let planned = run::plan(&pipeline, &store, &RunOptions::default())?;
    print(&pipeline, &planned, printer);
    Ok(exit::DONE)
}

/// A line per stage, then the sum.
pub fn print(pipeline: &Pipeline, planned: &RunPlan, printer: Printer) {
    if printer.json {
        let stages: Vec<_> = planned
            .stages
            .iter()
            .map(|(id, action)| {
                let stage = pipeline.stages.iter().find(|stage| stage.id == *id);
                let reads: Vec<_> = stage.map(|stage| stage.dependencies().collect()).unwrap_or_default();
                json!({"stage": id, "kind": stage.map(|stage| stage.stage.kind()), "reads": reads, "action": action})
            })
            .collect();
        printer.json(&json!({"version": 1, "pipeline": pipeline.name, "stages": stages,
            "up_to_date": planned.is_up_to_date(), "estimate_seconds": planned.estimate_seconds()}));
        return;
    }
    let width = planned.stages.iter().map(|(id, _)| id.as_str().chars().count()).max().unwrap_or(0).max(8);
    for (id, action) in &planned.stages {
        let line = match action {
            Action::Reuse { key } => format!(
                "{} {id:<width$}  {}",
                "✓".green(),
                format!("up to date  {}", key.short()).dimmed(),
                id = id.as_str()
            ),
            Action::Run { why, estimate_seconds, .. } => {
                let reasons: Vec<String> = why.iter().map(ToString::to_string).collect();
                let cost = estimate_seconds
                    .map_or_else(String::new, |seconds| format!("  (about {})", format::duration(seconds)));
                format!("{} {id:<width$}  {}{}", "▸".yellow(), reasons.join("; "), cost.dimmed(), id = id.as_str())
            }
            Action::Blocked { by } => format!(
                "{} {id:<width$}  needs `{by}`, which is not up to date and not selected",
                "–".dimmed(),
                id = id.as_str()
            ),
        };
        printer.result(&line);
    }
    let running = planned.running().count();
    let sum = if planned.is_up_to_date() {
        "nothing to do: everything is up to date".to_owned()
    } else {
        let time = planned
            .estimate_seconds()
            .map_or_else(String::new, |seconds| format!(", about {} by the last times", format::duration(seconds)));
        format!("{running} of {} would run{time}", format::plural(planned.stages.len(), "stage", "stages"))
    };
    printer.result(&sum);
}

/// The memory plan of every training stage, from the model's configuration alone where the model is a local directory.
fn memory(pipeline: &Pipeline, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let _ = (pipeline, global, printer);
    Err(Failure::input("plan::memory", "no training stage in this pipeline"))
}
