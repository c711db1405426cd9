//! What the terminal shows while a pipeline runs: a line per running stage on a terminal, plain lines elsewhere, events as
//! JSON lines with `--json`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use luthier_core::{Progress, StageEvent, StageId};
use luthier_engine::format;
use luthier_engine::run::{RunEvent, StageFailure};
use owo_colors::OwoColorize;

use crate::command::remote;
use crate::failure;
use crate::printer::{Printer, Verbosity};

/// Plain output repeats a stage's progress at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

pub struct Live {
    printer: Printer,
    bars: MultiProgress,
    running: Mutex<BTreeMap<StageId, Running>>,
}

struct Running {
    bar: ProgressBar,
    since: Instant,
    said: Instant,
    width: usize,
}

impl Live {
    #[must_use]
    pub fn new(printer: Printer) -> Self {
        let target = if printer.live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { printer, bars: MultiProgress::with_draw_target(target), running: Mutex::default() }
    }

    /// Takes one event. Called from any thread.
    pub fn event(&self, event: &RunEvent) {
        if self.printer.json {
            if let Ok(line) = serde_json::to_string(event) {
                self.printer.result(&line);
            }
            return;
        }
        match event {
            RunEvent::StageWaiting { stage, .. } => {
                self.say(&format!("{} {stage} is being made by another run; waiting for its result", mark("·")));
            }
            RunEvent::StageStarted { stage, why, attempt, .. } => {
                let reasons: Vec<String> = why.iter().map(ToString::to_string).collect();
                let again = if *attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
                self.start(stage);
                if !self.printer.live {
                    self.say(&format!("{} {}{again}: {}", mark("▸"), stage.bold(), reasons.join("; ")));
                }
            }
            RunEvent::StageEvent { stage, event } => self.stage_event(stage, event),
            RunEvent::StageFinished { stage, record } => {
                self.finish(stage);
                let outputs: Vec<String> = record.outputs.values().map(|output| format::bytes(output.size)).collect();
                let why: Vec<String> = record.why.iter().map(ToString::to_string).collect();
                self.say(&format!(
                    "{} {:<width$} {:>10}  {:<22} {}",
                    "✓".green(),
                    stage.as_str(),
                    format::duration(record.seconds),
                    outputs.join(" + ").dimmed(),
                    why.join("; ").dimmed(),
                    width = 14
                ));
                for warning in &record.outcome.warnings {
                    self.say(&format!("  {} {stage}: {warning}", "warning:".yellow().bold()));
                }
            }
            RunEvent::StageFailed { stage, failure, will_retry, .. } => {
                self.finish(stage);
                self.say(&render_failure(stage, failure));
                if *will_retry {
                    self.say(&format!("{} {stage}: trying again", mark("▸")));
                }
            }
            RunEvent::StageBlocked { stage, by } => {
                self.say(&format!("{} {stage} not run: it needs `{by}`", "–".dimmed()));
            }
            RunEvent::RemoteAsked { remote, stages } => {
                let results = format::plural(stages.len(), "result", "results");
                self.say(&format!("{} looking for {results} in {remote}", mark("·")));
            }
            RunEvent::RemotePulled { remote, shipment } => self.say_all(&remote::told("from", remote, shipment)),
            RunEvent::RemotePushed { remote, shipment } => self.say_all(&remote::told("to", remote, shipment)),
            RunEvent::StageReused { .. } | RunEvent::RunStarted { .. } | RunEvent::RunFinished { .. } => {}
        }
    }

    fn stage_event(&self, stage: &StageId, event: &StageEvent) {
        match event {
            StageEvent::Progress(progress) => self.progress(stage, progress),
            StageEvent::Warning { message, hint } => {
                let mut text = format!("  {} {stage}: {message}", "warning:".yellow().bold());
                if let Some(hint) = hint {
                    text.push_str(&format!("\n  {} {hint}", "hint:".cyan().bold()));
                }
                self.say(&text);
            }
            StageEvent::Log(line) => {
                if self.printer.verbosity == Verbosity::Verbose {
                    self.say(&format!("  {} {line}", format!("{stage}:").dimmed()));
                }
            }
            StageEvent::Point { .. } => {}
        }
    }

    fn start(&self, stage: &StageId) {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_prefix(format!("{:<14}", stage.as_str()));
        bar.set_style(style("{spinner:.yellow} {prefix} {elapsed:>8}  {msg}"));
        bar.enable_steady_tick(Duration::from_millis(120));
        let now = Instant::now();
        if let Ok(mut running) = self.running.lock() {
            running.insert(stage.clone(), Running { bar, since: now, said: now, width: 0 });
        }
    }

    fn finish(&self, stage: &StageId) {
        if let Ok(mut running) = self.running.lock()
            && let Some(entry) = running.remove(stage)
        {
            entry.bar.finish_and_clear();
            self.bars.remove(&entry.bar);
        }
    }

    fn progress(&self, stage: &StageId, progress: &Progress) {
        let Ok(mut running) = self.running.lock() else { return };
        let Some(entry) = running.get_mut(stage) else { return };
        let text = describe(progress, entry.since.elapsed().as_secs_f64());
        if self.printer.live {
            if progress.total > 0 {
                if entry.width == 0 {
                    entry.width = 24;
                    entry.bar.set_style(
                        style("{spinner:.yellow} {prefix} {elapsed:>8}  {bar:24.yellow/dim}  {msg}")
                            .progress_chars("━━╌"),
                    );
                }
                entry.bar.set_length(progress.total);
                entry.bar.set_position(progress.done.min(progress.total));
            }
            entry.bar.set_message(text);
        } else if entry.said.elapsed() >= PLAIN_EVERY {
            entry.said = Instant::now();
            let line = format!("  {stage}: {text}");
            drop(running);
            self.say(&line);
        }
    }

    fn say_all(&self, lines: &[String]) {
        for line in lines {
            self.say(line);
        }
    }

    /// A line above the live display.
    fn say(&self, text: &str) {
        if self.printer.verbosity == Verbosity::Quiet && !text.contains("error") {
            return;
        }
        self.bars.suspend(|| self.printer.error_line(text));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn mark(text: &str) -> String {
    text.yellow().to_string()
}

/// `34 of 100 steps · loss 0.61 · 55 s left`.
fn describe(progress: &Progress, elapsed: f64) -> String {
    let mut parts = Vec::new();
    let amount = |value: u64| {
        if progress.unit == "bytes" { format::bytes(value) } else { format::count(value) }
    };
    let unit = if progress.unit == "bytes" { String::new() } else { format!(" {}", progress.unit) };
    if progress.total > 0 {
        parts.push(format!("{} of {}{unit}", amount(progress.done), amount(progress.total)));
    } else if progress.done > 0 {
        parts.push(format!("{}{unit}", amount(progress.done)));
    }
    if !progress.note.is_empty() {
        parts.push(progress.note.clone());
    }
    if progress.total > progress.done && progress.done > 0 && elapsed > 3.0 && !progress.note.contains("left") {
        let left = elapsed / progress.done as f64 * (progress.total - progress.done) as f64;
        parts.push(format!("{} left", format::duration(left)));
    }
    parts.join(" · ")
}

/// A stage's failure: its name, the message, causes, the last log lines, hints.
#[must_use]
pub fn render_failure(stage: &StageId, failure: &StageFailure) -> String {
    let message = format!("stage `{stage}`: {failure}");
    let mut causes = failure.causes.clone();
    causes.extend(failure.log.iter().map(|line| format!("log: {line}")));
    failure::render(&message, &causes, &failure.hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_as_a_sentence() {
        let progress = Progress { done: 25, total: 100, unit: "steps".to_owned(), note: "loss 0.61".to_owned() };
        assert_eq!(describe(&progress, 20.0), "25 of 100 steps · loss 0.61 · 1 min 00 s left");
        let bytes = Progress { done: 98_400_000, unit: "bytes".to_owned(), ..Progress::default() };
        assert_eq!(describe(&bytes, 1.0), "98.4 MB");
    }
}
