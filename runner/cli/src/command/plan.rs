//! `luthier plan`, `luthier status` and `run --dry-run`: what would run, why, and for how long.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::StageId;
use luthier_engine::explain::{self, Cause};
use luthier_engine::format;
use luthier_engine::pipeline::{Pipeline, PlannedStage};
use luthier_engine::run::{Action, RunOptions, RunPlan};
use owo_colors::OwoColorize;
use serde_json::json;

use super::{load_checked, open_store, workspace};
use crate::args::{Global, PipelineArgs, PlanArgs};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &PlanArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    if let Some(model) = args.pipeline.pipeline.as_deref().filter(|path| args.memory && is_model(path)) {
        return memory_of(model, &args.pipeline.params, printer);
    }
    let pipeline =
        load_checked(args.pipeline.pipeline.as_deref(), &args.pipeline.params, &workspace(global), false, printer)?;
    if args.memory {
        return memory(&pipeline, global, printer);
    }
    let store = open_store(&workspace(global))?;
    let mut options = RunOptions::default();
    super::run::fill(&mut options, &args.select, &pipeline)?;
    let (planned, causes) = explain::overview(&pipeline, &store, &options)?;
    print(&pipeline, &planned, &causes, printer);
    Ok(exit::DONE)
}

pub fn status(args: &PipelineArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let pipeline = load_checked(args.pipeline.as_deref(), &args.params, &workspace(global), false, printer)?;
    let store = open_store(&workspace(global))?;
    let (planned, causes) = explain::overview(&pipeline, &store, &RunOptions::default())?;
    print(&pipeline, &planned, &causes, printer);
    Ok(exit::DONE)
}

/// A line per stage with the way down to what changed, then the sum.
pub fn print(pipeline: &Pipeline, planned: &RunPlan, causes: &BTreeMap<StageId, Cause>, printer: Printer) {
    if printer.json {
        let stages: Vec<_> = planned
            .stages
            .iter()
            .map(|(id, action)| {
                let stage = pipeline.stages.iter().find(|stage| stage.id == *id);
                let reads: Vec<_> = stage.map(|stage| stage.dependencies().collect()).unwrap_or_default();
                json!({"stage": id, "kind": stage.map(|stage| stage.stage.kind()), "reads": reads, "action": action,
                    "cause": causes.get(id)})
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
            Action::Run { why, how, estimate_seconds, .. } => {
                let why = match causes.get(id) {
                    Some(cause) if cause.path.len() > 1 => format!("← {cause}"),
                    Some(cause) => cause.to_string(),
                    None => why.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                };
                let about = if how.is_some() { "less than" } else { "about" };
                let how = how.as_ref().map_or_else(String::new, |how| format!("; {how}"));
                let cost = estimate_seconds
                    .map_or_else(String::new, |seconds| format!("  ({about} {})", format::duration(seconds)));
                format!("{} {id:<width$}  {why}{how}{}", "▸".yellow(), cost.dimmed(), id = id.as_str())
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
        format!(
            "{} of {} would run{time}",
            format::count(running as u64),
            format::plural(planned.stages.len(), "stage", "stages")
        )
    };
    printer.result(&sum);
}

fn is_model(path: &Utf8Path) -> bool {
    path.extension() == Some("gguf") || path.join("config.json").is_file()
}

/// The memory plan of a model that no pipeline names; `params` are those of a `plan` stage.
fn memory_of(model: &Utf8Path, params: &[(String, String)], printer: Printer) -> Result<u8, Failure> {
    let mut with = serde_json::Map::new();
    for (name, value) in params {
        let value = serde_json::from_str(value).unwrap_or_else(|_| serde_json::Value::String(value.clone()));
        with.insert(name.clone(), value);
    }
    let prediction = luthier_stages::plan::predict_memory(model, None, &serde_json::Value::Object(with))?;
    if printer.json {
        printer.json(&json!({"model": model, "prediction": prediction}));
    } else {
        for section in luthier_stages::plan::sections(&prediction) {
            printer.result(&super::section::text(&section, printer.result_width()));
        }
    }
    Ok(exit::DONE)
}

/// The memory plan of every `plan` stage, from the model's configuration alone: the model may be in the store, or a local
/// directory that holds no more than `config.json`.
fn memory(pipeline: &Pipeline, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let store = open_store(&workspace(global))?;
    let latest = store.latest(pipeline)?;
    let stages: Vec<&PlannedStage> = pipeline.stages.iter().filter(|stage| stage.stage.kind() == "plan").collect();
    if stages.is_empty() {
        return Err(Failure::input("plan::memory", format!("`{}` has no stage that `uses: plan`", pipeline.file))
            .hint("add one beside the training: `memory: {uses: plan, in: {model: base, data: tokens}}`"));
    }
    let stored = |stage: &PlannedStage, port: &str| -> Option<Utf8PathBuf> {
        let reference = stage.inputs.get(port)?.first()?;
        let artifact = latest.get(&reference.stage)?.outputs.get(&reference.output)?;
        Some(store.artifact_path(artifact)).filter(|path| path.exists())
    };
    let mut all = Vec::new();
    for stage in stages {
        let Some(model) = local_model(pipeline, stage).or_else(|| stored(stage, "model")) else {
            let from = stage.inputs.get("model").and_then(|found| found.first());
            let from = from.map_or_else(String::new, |found| found.stage.to_string());
            return Err(Failure::input("plan::no_model", format!("stage `{}`: the model of `{from}` is not here yet", stage.id))
                .hint(format!("fetch it with `luthier run {} --until {from}`, or give a directory that holds its config.json, as in `-p model=DIR` where the pipeline has such a parameter", pipeline.file)));
        };
        let prediction =
            luthier_stages::plan::predict_memory(&model, stored(stage, "data").as_deref(), &stage.prepared.config)?;
        if printer.json {
            all.push(json!({"stage": stage.id, "prediction": prediction}));
        } else {
            printer.result(&stage.id.bold().to_string());
            for section in luthier_stages::plan::sections(&prediction) {
                printer.result(&super::section::text(&section, printer.result_width()));
            }
        }
    }
    if printer.json {
        printer.json(&all);
    }
    Ok(exit::DONE)
}

/// The path of a model that its fetch stage takes from this machine.
fn local_model(pipeline: &Pipeline, stage: &PlannedStage) -> Option<Utf8PathBuf> {
    let reference = stage.inputs.get("model")?.first()?;
    let fetch = pipeline.stages.iter().find(|candidate| candidate.id == reference.stage)?;
    let source = fetch.prepared.sources.first()?;
    Some(pipeline.directory.join(&source.path))
}
