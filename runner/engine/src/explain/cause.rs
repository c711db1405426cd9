//! The chain of causes of one stage.
//!
//! Before a run the chain follows the plan: a stage waits for one that will run, which has a changed field. After a run
//! it follows the records: a stage ran because an input changed, whose stage ran because of a changed field.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use luthier_core::{Digest, StageId};
use serde::Serialize;

use crate::error::EngineError;
use crate::fingerprint::DirtyReason;
use crate::format;
use crate::pipeline::Pipeline;
use crate::run::planner::Planner;
use crate::run::{Action, RunOptions};
use crate::store::Store;

/// One stage of a chain of causes, with the chains that led to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    pub stage: StageId,
    pub reason: DirtyReason,
    /// What made the upstream stage run, where the reason is an upstream stage.
    pub because: Vec<Cause>,
}

/// Everything that can be said about why a stage runs, or last ran.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub stage: StageId,
    pub action: Action,
    /// Of the coming execution, or of the last one if the stage is up to date.
    pub causes: Vec<Cause>,
    /// When the present result was made, RFC 3339; `None` if there is none.
    pub last_ran: Option<String>,
    /// What the last execution took.
    pub seconds: Option<f64>,
    /// Wall time of everything that must run to bring this stage up to date, by the last times; `None` if any was never
    /// timed.
    pub cost_seconds: Option<f64>,
    pub key: Option<Digest>,
}

/// Explains one stage. Selection in `options` is ignored: the question is about the stage itself.
///
/// # Errors
/// An unknown stage, a source that cannot be read, or a store that cannot be.
pub fn explain(
    pipeline: &Pipeline,
    store: &Store,
    options: &RunOptions,
    stage: &StageId,
) -> Result<Explanation, EngineError> {
    let options = RunOptions { only: Vec::new(), from: Vec::new(), until: vec![stage.clone()], ..options.clone() };
    let planner = Planner::new(pipeline, store, &options)?;
    let Some(at) = planner.layout.place.get(stage).copied() else {
        return Err(crate::run::select::unknown(pipeline, stage));
    };
    let standings = planner.standings()?;
    store.memo().save();
    let plan = planner.plan(&standings);
    let actions: BTreeMap<&StageId, &Action> = plan.stages.iter().map(|(id, action)| (id, action)).collect();
    let action = plan.action(stage).cloned().ok_or_else(|| crate::run::select::unknown(pipeline, stage))?;
    let record = planner.latest(&pipeline.stages[at].id);
    let reasons = |id: &StageId| -> Vec<DirtyReason> {
        match actions.get(id) {
            Some(Action::Run { why, .. }) => why.clone(),
            _ => Vec::new(),
        }
    };
    let past =
        |id: &StageId| -> Vec<DirtyReason> { planner.latest(id).map(|record| record.why.clone()).unwrap_or_default() };
    let causes = match &action {
        Action::Run { .. } => chain(stage, &reasons, &mut BTreeSet::new()),
        _ => chain(stage, &past, &mut BTreeSet::new()),
    };
    let cost_seconds = match &action {
        Action::Run { .. } => plan.estimate_seconds(),
        _ => Some(0.0),
    };
    let key = match &action {
        Action::Reuse { key } => Some(*key),
        Action::Run { key, .. } => *key,
        Action::Blocked { .. } => None,
    };
    Ok(Explanation {
        stage: stage.clone(),
        causes,
        last_ran: record.map(|record| record.started.clone()),
        seconds: record.map(|record| record.seconds),
        cost_seconds,
        key,
        action,
    })
}

fn chain(stage: &StageId, reasons: &dyn Fn(&StageId) -> Vec<DirtyReason>, seen: &mut BTreeSet<StageId>) -> Vec<Cause> {
    if !seen.insert(stage.clone()) {
        // Told already, on another way down.
        return Vec::new();
    }
    reasons(stage)
        .into_iter()
        .map(|reason| {
            let because = match reason.upstream().and_then(|name| StageId::new(name).ok()) {
                Some(upstream) => chain(&upstream, reasons, seen),
                None => Vec::new(),
            };
            Cause { stage: stage.clone(), reason, because }
        })
        .collect()
}

impl Cause {
    /// One line per way from the stage down to a root cause:
    /// `train reruns ← tokens changed ← clean: steps[0].config.max 0.1 → 0.12 (quickstart.yaml:31)`.
    fn lines(&self, prefix: &str, lines: &mut Vec<String>) {
        match (&self.reason, self.reason.upstream()) {
            (reason, Some(upstream)) => {
                let verb = if matches!(reason, DirtyReason::UpstreamRuns { .. }) { "reruns" } else { "changed" };
                if self.because.is_empty() {
                    lines.push(format!("{prefix} ← {upstream} {verb}"));
                    return;
                }
                for cause in &self.because {
                    let here = if cause.reason.upstream().is_some() {
                        format!("{prefix} ← {upstream} {verb}")
                    } else {
                        prefix.to_owned()
                    };
                    cause.lines(&here, lines);
                }
            }
            (reason, None) => lines.push(format!("{prefix} ← {}: {reason}", self.stage)),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = &self.stage;
        let verb = match &self.action {
            Action::Run { .. } if self.last_ran.is_some() => "reruns",
            Action::Run { .. } => "runs",
            Action::Reuse { .. } => {
                write!(f, "{stage} is up to date")?;
                if let (Some(when), Some(seconds)) = (&self.last_ran, self.seconds) {
                    write!(f, "; last ran {when} in {}", format::duration(seconds))?;
                }
                writeln!(f)?;
                "ran"
            }
            Action::Blocked { by } => return writeln!(f, "{stage} is blocked by {by}"),
        };
        let mut lines = Vec::new();
        for cause in &self.causes {
            if cause.reason.upstream().is_some() {
                cause.lines(&format!("{stage} {verb}"), &mut lines);
            } else {
                lines.push(format!("{stage} {verb}: {}", cause.reason));
            }
        }
        for line in &lines {
            writeln!(f, "{line}")?;
        }
        if matches!(self.action, Action::Run { .. }) {
            if lines.iter().any(|line| line.contains('←')) {
                writeln!(f, "where an upstream stage makes the same output again, nothing after it runs")?;
            }
            match self.cost_seconds {
                Some(seconds) => writeln!(f, "cost by the last times: {}", format::duration(seconds))?,
                None => writeln!(f, "cost unknown: not every stage that runs has run before")?,
            }
        }
        Ok(())
    }
}
