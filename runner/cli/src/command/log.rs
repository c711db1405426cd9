//! `luthier log`.

use luthier_engine::format;
use luthier_engine::report::ChromeTrace;
use luthier_engine::run::{RunStatus, RunSummary, journal};
use owo_colors::OwoColorize;

use super::workspace;
use crate::args::{Global, LogArgs};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &LogArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let workspace = workspace(global);
    // The newest run under a name that needs no looking up.
    let named = args.run.as_deref().filter(|run| *run != "last");
    if args.chrome_trace {
        let run = match named {
            Some(run) => run.to_owned(),
            None => journal::load(&workspace, None)?.run,
        };
        printer.result(&ChromeTrace::of(&journal::timed_events(&workspace, &run)?).to_json().to_string());
        return Ok(exit::DONE);
    }
    if args.run.is_some() {
        let summary = journal::load(&workspace, named)?;
        if printer.json {
            printer.json(&journal::timed_events(&workspace, &summary.run)?);
        } else {
            for stage in &summary.stages {
                let why: Vec<String> = stage.why.iter().map(ToString::to_string).collect();
                let status = format!("{:?}", stage.status).to_lowercase();
                printer.result(&format!(
                    "{status:<8} {:<16} {:>10}  {}",
                    stage.stage.as_str(),
                    format::duration(stage.seconds),
                    why.join("; ")
                ));
                if let Some(failure) = &stage.failure {
                    printer.result(&crate::live::render_failure(&stage.stage, failure));
                }
            }
        }
        return Ok(exit::DONE);
    }
    let runs = journal::list(&workspace, args.count)?;
    if printer.json {
        printer.json(&runs);
    } else if runs.is_empty() {
        printer.note("no runs yet");
    } else {
        for run in &runs {
            printer.result(&line(run));
        }
    }
    Ok(exit::DONE)
}

fn line(run: &RunSummary) -> String {
    let mark = if run.succeeded() { "✓".green().to_string() } else { "✗".red().to_string() };
    format!(
        "{mark} {}  {:<16} {} ran, {} reused, {} failed  {}",
        run.run,
        run.pipeline,
        run.count(RunStatus::Ran),
        run.count(RunStatus::Reused),
        run.count(RunStatus::Failed),
        format::duration(run.seconds).dimmed()
    )
}
