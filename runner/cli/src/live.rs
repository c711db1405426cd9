//! What the terminal shows while a pipeline runs: a line per running stage on a terminal, plain lines elsewhere, events as
//! JSON lines with `--json`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use luthier_core::{Progress, StageEvent, StageId};
use luthier_engine::format;
use luthier_engine::run::{RunEvent, StageFailure, TimedEvent};
use owo_colors::OwoColorize;

use crate::command::remote;
use crate::eta::{self, Eta};
use crate::failure;
use crate::printer::{Printer, Verbosity};
use crate::screen::Screen;

/// Plain output repeats a stage's progress at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Drawings of the live display at most.
const PER_SECOND: u8 = 20;

/// Columns of a stage's name: at least, and at most on the live display.
const NAME: (usize, usize) = (14, 26);

pub struct Live {
    printer: Printer,
    bars: MultiProgress,
    running: Mutex<BTreeMap<StageId, Running>>,
    /// Columns of the longest name of the run.
    name: AtomicUsize,
    began: Instant,
}

struct Running {
    bar: ProgressBar,
    since: Instant,
    said: Instant,
    eta: Arc<Mutex<Eta>>,
    measured: bool,
}

impl Live {
    #[must_use]
    pub fn new(printer: Printer) -> Self {
        let target = if printer.live {
            ProgressDrawTarget::term_like_with_hz(Box::new(Screen::default()), PER_SECOND)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            printer,
            bars: MultiProgress::with_draw_target(target),
            running: Mutex::default(),
            name: AtomicUsize::new(NAME.0),
            began: Instant::now(),
        }
    }

    /// Takes one event. Called from any thread.
    pub fn event(&self, event: &RunEvent) {
        if self.printer.json {
            match serde_json::to_string(&TimedEvent { at: self.began.elapsed().as_secs_f64(), event }) {
                Ok(line) => self.printer.result(&line),
                Err(error) => self.printer.error_line(&format!("error: an event is not JSON: {error}")),
            }
            return;
        }
        match event {
            RunEvent::RunStarted { stages, .. } => {
                let longest = stages.iter().map(|stage| stage.as_str().chars().count()).max().unwrap_or(0);
                self.name.store(longest.clamp(NAME.0, NAME.1), Ordering::Relaxed);
            }
            RunEvent::StageWaiting { stage, .. } => {
                self.say(&format!("{} {stage} is being made by another run; waiting for its result", mark("·")));
            }
            RunEvent::StageStarted { stage, why, attempt, estimate_seconds, .. } => {
                let reasons: Vec<String> = why.iter().map(ToString::to_string).collect();
                let again = if *attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
                self.start(stage, *estimate_seconds);
                if !self.printer.live {
                    self.say(&format!("{} {}{again}: {}", mark("▸"), stage.bold(), reasons.join("; ")));
                }
            }
            RunEvent::StageEvent { stage, event } => self.stage_event(stage, event),
            RunEvent::StageFinished { stage, record } => {
                self.finish(stage);
                let outputs: Vec<String> = record.outputs.values().map(|output| format::bytes(output.size)).collect();
                let why: Vec<String> = record.why.iter().map(ToString::to_string).collect();
                let width = self.name.load(Ordering::Relaxed);
                let outputs = format!("{:<22}", outputs.join(" + "));
                let mut why = why.join("; ");
                if self.printer.live {
                    let taken = stage.as_str().chars().count().max(width) + outputs.chars().count() + 17;
                    why = fit(&why, self.printer.width().saturating_sub(taken));
                }
                let line = format!(
                    "{} {:<width$} {:>10}  {} {}",
                    "✓".green(),
                    stage.as_str(),
                    format::duration(record.seconds),
                    outputs.dimmed(),
                    why.dimmed(),
                );
                self.say(line.trim_end());
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
            // Where another run made the result that this one waited for.
            RunEvent::StageReused { stage, .. } => self.finish(stage),
            RunEvent::RunFinished { .. } => {}
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

    fn running(&self) -> MutexGuard<'_, BTreeMap<StageId, Running>> {
        // Entries are added and removed whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, stage: &StageId, estimate_seconds: Option<f64>) {
        let now = Instant::now();
        let eta = Arc::new(Mutex::new(Eta::new(now, estimate_seconds)));
        let bar = self.bars.add(ProgressBar::new_spinner());
        let width = self.name.load(Ordering::Relaxed);
        bar.set_prefix(format!("{:<width$}", fit(stage.as_str(), width)));
        bar.set_style(self.style("{spinner:.yellow} {prefix} {clock:>7}  {left}{wide_msg:.dim}", &eta));
        bar.enable_steady_tick(Duration::from_millis(120));
        self.running().insert(stage.clone(), Running { bar, since: now, said: now, eta, measured: false });
    }

    fn finish(&self, stage: &StageId) {
        if let Some(entry) = self.running().remove(stage) {
            entry.bar.finish_and_clear();
            self.bars.remove(&entry.bar);
        }
    }

    fn progress(&self, stage: &StageId, progress: &Progress) {
        let mut running = self.running();
        let Some(entry) = running.get_mut(stage) else { return };
        let now = Instant::now();
        entry.eta.lock().unwrap_or_else(PoisonError::into_inner).progress(now, progress);
        if self.printer.live {
            if progress.total > 0 {
                if !entry.measured {
                    entry.measured = true;
                    let template = "{spinner:.yellow} {prefix} {clock:>7} {bar:12.yellow/dim}  {left}{wide_msg}";
                    entry.bar.set_style(self.style(template, &entry.eta).progress_chars("━━╌"));
                }
                entry.bar.set_length(progress.total);
                entry.bar.set_position(progress.done.min(progress.total));
            }
            entry.bar.set_message(describe(progress));
        } else if entry.said.elapsed() >= PLAIN_EVERY {
            entry.said = now;
            let left = entry.eta.lock().unwrap_or_else(PoisonError::into_inner).left(now);
            let left = left.map_or_else(String::new, |left| format!(" · {} left", format::duration(left)));
            let line = format!(
                "  {stage}: {}{left} · {} so far",
                describe(progress),
                format::duration(now.duration_since(entry.since).as_secs_f64())
            );
            drop(running);
            self.say(&line);
        }
    }

    fn say_all(&self, lines: &[String]) {
        for line in lines {
            self.say(line);
        }
    }

    /// A line of the live display. What it says of time comes first, so that a narrow terminal cuts the rest.
    fn style(&self, template: &str, eta: &Arc<Mutex<Eta>>) -> ProgressStyle {
        let eta = Arc::clone(eta);
        let plain = [":.yellow", ".yellow/dim", ":.dim"]
            .iter()
            .fold(template.to_owned(), |text, colour| text.replace(colour, ""));
        let style = ProgressStyle::with_template(if self.printer.color() { template } else { &plain })
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        // Writing to a string cannot fail.
        style
            .with_key("clock", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(out, "{}", eta::clock(state.elapsed().as_secs_f64()));
            })
            .with_key("left", move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
                if let Some(left) = eta.lock().unwrap_or_else(PoisonError::into_inner).left(Instant::now()) {
                    let _ = write!(out, "{} left · ", eta::clock(left));
                }
            })
    }

    /// A line above the live display.
    fn say(&self, text: &str) {
        if self.printer.verbosity == Verbosity::Quiet && !text.contains("error") {
            return;
        }
        self.bars.suspend(|| self.printer.message(text));
    }
}

fn mark(text: &str) -> String {
    text.yellow().to_string()
}

/// Cuts a text to so many columns.
fn fit(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    match columns.checked_sub(1) {
        Some(kept) => text.chars().take(kept).chain(std::iter::once('…')).collect(),
        None => String::new(),
    }
}

/// `34 of 100 steps · loss 0.61`.
fn describe(progress: &Progress) -> String {
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
        assert_eq!(describe(&progress), "25 of 100 steps · loss 0.61");
        let bytes = Progress { done: 98_400_000, unit: "bytes".to_owned(), ..Progress::default() };
        assert_eq!(describe(&bytes), "98.4 MB");
    }

    #[test]
    fn texts_are_cut_to_columns() {
        assert_eq!(fit("adapter", 7), "adapter");
        assert_eq!(fit("adapter@rank=16", 8), "adapter…");
        assert_eq!(fit("x", 0), "");
    }
}
