//! `luthier run`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use camino::Utf8PathBuf;
use luthier_core::{CancelToken, ExecutorSpec, StageId};
use luthier_engine::EngineError;
use luthier_engine::explain;
use luthier_engine::format;
use luthier_engine::pipeline::Pipeline;
use luthier_engine::report::ChromeTrace;
use luthier_engine::run::{self, BatchFactory, LockMode, LockOutcome, RunEvent, RunOptions, RunStatus, RunSummary};
use owo_colors::OwoColorize;

use super::{load_checked, open_store, plan, select, workspace};
use crate::args::{Global, RunArgs, SelectArgs};
use crate::exit;
use crate::failure::Failure;
use crate::live::Live;
use crate::printer::Printer;

pub fn run(args: &RunArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let began = Instant::now();
    let pipeline =
        load_checked(args.pipeline.pipeline.as_deref(), &args.pipeline.params, &workspace(global), true, printer)?;
    let workspace = workspace(global);
    let store = open_store(&workspace)?;
    let options = options(args, &pipeline)?;
    if args.dry_run {
        let (planned, causes) = explain::overview(&pipeline, &store, &options)?;
        plan::print(&pipeline, &planned, &causes, printer);
        return Ok(exit::DONE);
    }
    let cancel = CancelToken::new();
    run::interrupt_on_ctrl_c(&cancel)?;
    let live = Arc::new(Live::new(printer));
    let trace = args.trace.as_ref().map(|_| Arc::new(Mutex::new(ChromeTrace::default())));
    let sink = {
        let (live, trace) = (Arc::clone(&live), trace.clone());
        Arc::new(move |event: RunEvent| {
            let at = began.elapsed().as_secs_f64();
            crate::logging::event(at, &event);
            if let Some(trace) = &trace {
                trace.lock().unwrap_or_else(PoisonError::into_inner).add(at, &event);
            }
            live.event(&event);
        })
    };
    let outcome = run::run(&pipeline, &store, &options, sink, cancel);
    if let (Some(file), Some(trace)) = (&args.trace, trace) {
        let trace = trace.lock().unwrap_or_else(PoisonError::into_inner).to_json();
        luthier_core::fs::write_atomic(file, trace.to_string().as_bytes())?;
        printer.note(&format!("trace: {file}"));
    }
    let summary = match outcome {
        Ok(summary) => summary,
        Err(EngineError::LockMismatch { file, differences }) => {
            for difference in &differences {
                printer.error_line(&format!("  {} {difference}", "≠".red()));
            }
            return Err(EngineError::LockMismatch { file, differences }.into());
        }
        Err(error) => return Err(error.into()),
    };
    // A run that did nothing must stay fast; `luthier report` still writes its page when asked.
    let news = summary.count(RunStatus::Ran) + summary.count(RunStatus::Failed) > 0;
    let report = news.then(|| super::report::write_for(&workspace, &store, &summary, None));
    if !printer.json {
        for comparison in &summary.comparisons {
            printer.note(&super::comparison::text(comparison, printer.width()));
        }
        printer.note(&closing(&summary, began.elapsed().as_secs_f64()));
        match report {
            Some(Ok(path)) => printer.note(&format!("report: {path}")),
            Some(Err(failure)) => failure.print(printer),
            None => {}
        }
    }
    Ok(summary.error_class().map_or(exit::DONE, exit::code))
}

fn closing(summary: &RunSummary, seconds: f64) -> String {
    let ran = summary.count(RunStatus::Ran);
    let reused = summary.count(RunStatus::Reused);
    let time = format::duration(seconds);
    let lock = match summary.lock {
        LockOutcome::Written => ", lock written",
        LockOutcome::Verified => ", equal to the lock",
        LockOutcome::Unchanged | LockOutcome::Untouched => "",
    };
    if summary.succeeded() && ran == 0 {
        return format!(
            "{} nothing to do: {} up to date{lock} ({time})",
            "✓".green(),
            format::plural(reused, "stage", "stages")
        );
    }
    let mut parts = vec![format!("{ran} ran"), format!("{reused} reused")];
    for (status, word) in
        [(RunStatus::Failed, "failed"), (RunStatus::Blocked, "blocked"), (RunStatus::Stopped, "stopped")]
    {
        if summary.count(status) > 0 {
            parts.push(format!("{} {word}", summary.count(status)));
        }
    }
    let mark = if summary.succeeded() { "✓".green().to_string() } else { "✗".red().to_string() };
    format!("{mark} {}{lock} in {time}", parts.join(", "))
}

fn options(args: &RunArgs, pipeline: &Pipeline) -> Result<RunOptions, Failure> {
    let device = match args.device.as_str() {
        "auto" | "cpu" => "cpu".to_owned(),
        other => {
            return Err(Failure::input(
                "run::device",
                format!(
                    "device `{other}` is not that of a whole run: stages choose their own, and it enters their keys"
                ),
            )
            .hint("leave `--device` out, and set `device: cuda` in the `with:` of `train` and `eval`"));
        }
    };
    let mut options = RunOptions { device, ..RunOptions::default() };
    options.threads = args.threads.unwrap_or(options.threads).max(1);
    options.jobs = args.jobs;
    options.memory = args.memory;
    options.gpus = args.gpus;
    options.keep_going = args.keep_going;
    options.retries = args.retries;
    options.offline = args.offline;
    options.lock = match (args.locked, args.pipeline.params.is_empty()) {
        (true, _) => LockMode::Locked,
        (false, true) => LockMode::Write,
        // An experiment with overridden parameters is not what the committed file describes.
        (false, false) => LockMode::Ignore,
    };
    options.remote = super::remote::of_run(&args.remote, args.no_push, args.offline, pipeline)?;
    fill(&mut options, &args.select, pipeline)?;
    place(&mut options, &args.executor, pipeline)?;
    Ok(options)
}

/// Turns each `--executor [STAGE=]EXECUTOR` into where stages execute.
fn place(options: &mut RunOptions, texts: &[String], pipeline: &Pipeline) -> Result<(), Failure> {
    options.program = std::env::current_exe().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
    options.batch = BatchFactory::new(luthier_executors::make);
    for text in texts {
        // Names of members and commands contain `=` too, so the one in question is where an executor begins.
        let split = text
            .match_indices('=')
            .find_map(|(at, _)| Some((&text[..at], text[at + 1..].parse::<ExecutorSpec>().ok()?)));
        match (text.parse::<ExecutorSpec>(), split) {
            (Ok(executor), _) => options.executor = Some(executor),
            (Err(_), Some((name, executor))) => {
                options.executors.extend(select(pipeline, name)?.into_iter().map(|stage| (stage, executor.clone())));
            }
            (Err(error), None) => {
                let last = text.rsplit_once('=').and_then(|(_, last)| last.parse::<ExecutorSpec>().err());
                let error = last.unwrap_or(error);
                return Err(Failure::input("run::executor", error.message).hint(error.hint));
            }
        }
    }
    Ok(())
}

/// Turns `--only`, `--from`, `--until` and `--force` into stages.
pub fn fill(options: &mut RunOptions, args: &SelectArgs, pipeline: &Pipeline) -> Result<(), Failure> {
    let resolve = |names: &[String]| -> Result<Vec<StageId>, Failure> {
        let mut stages = Vec::new();
        for name in names {
            stages.extend(select(pipeline, name)?);
        }
        Ok(stages)
    };
    options.only = resolve(&args.only)?;
    options.from = resolve(&args.from)?;
    options.until = resolve(&args.until)?;
    options.force = resolve(&args.force)?;
    Ok(())
}
