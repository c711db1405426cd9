//! The diary of runs: `.luthier/runs/ID/{events.jsonl,summary.json}`, and `last` with the id of the newest.
//!
//! Events are written as they happen and survive a kill; the summary is written at the end. Progress is left out: it
//! says nothing once the run is over.

use std::io::{BufWriter, Write};
use std::time::Instant;

use camino::Utf8PathBuf;
use luthier_core::StageEvent;

use super::{RunEvent, RunSummary, TimedEvent};
use crate::error::EngineError;
use crate::workspace::Workspace;

/// The open diary of one run.
pub(crate) struct Journal {
    directory: Utf8PathBuf,
    runs: Utf8PathBuf,
    id: String,
    events: BufWriter<fs_err::File>,
    began: Instant,
}

impl Journal {
    /// Opens the diary under `wanted`, or under a name made from it if another run of the same moment has that.
    pub fn create(workspace: &Workspace, wanted: &str) -> std::io::Result<Self> {
        let runs = workspace.runs_dir();
        fs_err::create_dir_all(&runs)?;
        let mut id = wanted.to_owned();
        let mut further = 0;
        let directory = loop {
            let directory = runs.join(&id);
            match fs_err::create_dir(&directory) {
                Ok(()) => break directory,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    further += 1;
                    id = format!("{wanted}-{further}");
                }
                Err(error) => return Err(error),
            }
        };
        let events = BufWriter::new(fs_err::File::create(directory.join("events.jsonl"))?);
        Ok(Self { directory, runs, id, events, began: Instant::now() })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Adds an event. What the journal cannot hold must not stop the run.
    pub fn write(&mut self, event: &RunEvent) {
        if matches!(event, RunEvent::StageEvent { event: StageEvent::Progress(_), .. }) {
            return;
        }
        let line = TimedEvent { at: self.began.elapsed().as_secs_f64(), event };
        let done = serde_json::to_writer(&mut self.events, &line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.events.write_all(b"\n"));
        if let Err(error) = done {
            tracing::warn!("the journal of the run lacks an event: {error}");
        }
    }

    /// Makes what was written visible to others.
    pub fn flush(&mut self) {
        if let Err(error) = self.events.flush() {
            tracing::warn!("the journal of the run lacks events: {error}");
        }
    }

    pub fn finish(mut self, summary: &RunSummary) -> std::io::Result<()> {
        self.flush();
        let mut text = serde_json::to_string_pretty(summary)?;
        text.push('\n');
        fs_err::write(self.directory.join("summary.json"), text)?;
        fs_err::write(self.runs.join("last"), format!("{}\n", self.id))
    }
}

/// The ids of all runs, newest first, also of those that did not end.
#[must_use]
pub fn ids(workspace: &Workspace) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(workspace.runs_dir()) else { return Vec::new() };
    let mut ids: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    ids.sort_by(|a, b| b.cmp(a));
    ids
}

/// Summaries of the newest runs that ended, newest first.
///
/// # Errors
/// The runs cannot be listed.
pub fn list(workspace: &Workspace, count: usize) -> Result<Vec<RunSummary>, EngineError> {
    let runs = workspace.runs_dir();
    if runs.exists() {
        fs_err::read_dir(&runs)
            .map_err(|source| EngineError::System { what: "the runs cannot be listed".to_owned(), source })?;
    }
    Ok(ids(workspace).iter().filter_map(|id| summary(workspace, id)).take(count).collect())
}

fn summary(workspace: &Workspace, id: &str) -> Option<RunSummary> {
    let text = fs_err::read_to_string(workspace.runs_dir().join(id).join("summary.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// The directory of a run, for its report.
#[must_use]
pub fn directory(workspace: &Workspace, id: &str) -> Utf8PathBuf {
    workspace.runs_dir().join(id)
}

/// The summary of a run, or of the last one.
///
/// # Errors
/// There is no such run, or it did not end.
pub fn load(workspace: &Workspace, id: Option<&str>) -> Result<RunSummary, EngineError> {
    let found = match id {
        Some(id) => summary(workspace, id),
        None => fs_err::read_to_string(workspace.runs_dir().join("last"))
            .ok()
            .and_then(|last| summary(workspace, last.trim()))
            .or_else(|| ids(workspace).iter().find_map(|id| summary(workspace, id))),
    };
    found.ok_or_else(|| EngineError::UnknownRun { name: id.unwrap_or("last").to_owned() })
}

/// The events of a run, in order; a line torn by a kill is skipped.
///
/// # Errors
/// There is no such run.
pub fn events(workspace: &Workspace, id: &str) -> Result<Vec<RunEvent>, EngineError> {
    Ok(timed_events(workspace, id)?.into_iter().map(|timed| timed.event).collect())
}

/// As [`events`], each with its time; 0 in journals of versions that kept none.
///
/// # Errors
/// There is no such run.
pub fn timed_events(workspace: &Workspace, id: &str) -> Result<Vec<TimedEvent>, EngineError> {
    let text = fs_err::read_to_string(workspace.runs_dir().join(id).join("events.jsonl"))
        .map_err(|_| EngineError::UnknownRun { name: id.to_owned() })?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
