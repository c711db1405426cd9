//! Everything that can be said about one stage, and about all of them in short.

use std::collections::BTreeMap;
use std::fmt;

use luthier_core::{Digest, StageId};
use serde::Serialize;

use super::cause::{Cause, Reasons};
use super::cost::Cost;
use crate::error::EngineError;
use crate::format;
use crate::pipeline::Pipeline;
use crate::run::planner::Planner;
use crate::run::{Action, RunOptions, RunPlan};
use crate::store::Store;

/// Why a stage runs, or last ran, and what that costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub stage: StageId,
    pub action: Action,
    /// Of the coming execution, or of the last one if the stage is up to date; shortest way first.
    pub causes: Vec<Cause>,
    /// Causes beyond those listed.
    pub more_causes: usize,
    /// When the present result was made, RFC 3339; `None` if there is none.
    pub last_ran: Option<String>,
    /// What the last execution took.
    pub seconds: Option<f64>,
    /// Of this stage and of what must run before it.
    pub cost: Cost,
    /// Of everything that reads this stage, directly or not, and is not up to date either.
    pub downstream: Cost,
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
    let until = readers(pipeline, stage)?;
    let options = RunOptions { only: Vec::new(), from: Vec::new(), until, ..options.clone() };
    let planner = Planner::new(pipeline, store, &options)?;
    let unknown = || crate::run::select::unknown(pipeline, stage);
    let at = planner.layout.place.get(stage).copied().ok_or_else(unknown)?;
    let standings = planner.standings()?;
    store.memo().save();
    let plan = planner.plan(&standings);
    let action = plan.action(stage).cloned().ok_or_else(unknown)?;
    let record = planner.latest(stage);
    let (causes, more_causes) = Reasons::new(&planner, &plan).causes(at);
    let (up, down) = (planner.layout.up(&[at]), planner.layout.down(&[at]));
    let (mut cost, mut downstream) = (Cost::default(), Cost::default());
    for (id, action) in &plan.stages {
        let Action::Run { estimate_seconds, .. } = action else { continue };
        match planner.layout.place.get(id) {
            Some(place) if up.contains(place) => cost.add(id, *estimate_seconds),
            Some(place) if down.contains(place) => downstream.add(id, *estimate_seconds),
            _ => {}
        }
    }
    let key = match &action {
        Action::Reuse { key } => Some(*key),
        Action::Run { key, .. } => *key,
        Action::Blocked { .. } => None,
    };
    Ok(Explanation {
        stage: stage.clone(),
        causes,
        more_causes,
        last_ran: record.map(|record| record.started.clone()),
        seconds: record.map(|record| record.seconds),
        cost,
        downstream,
        key,
        action,
    })
}

/// The stage and all that read it.
fn readers(pipeline: &Pipeline, stage: &StageId) -> Result<Vec<StageId>, EngineError> {
    let layout = crate::run::select::Layout::new(pipeline);
    let at = *layout.place.get(stage).ok_or_else(|| crate::run::select::unknown(pipeline, stage))?;
    Ok(layout.down(&[at]).into_iter().map(|at| pipeline.stages[at].id.clone()).collect())
}

/// The plan, and the nearest cause of every stage that would run.
///
/// # Errors
/// As [`explain`].
pub fn overview(
    pipeline: &Pipeline,
    store: &Store,
    options: &RunOptions,
) -> Result<(RunPlan, BTreeMap<StageId, Cause>), EngineError> {
    let planner = Planner::new(pipeline, store, options)?;
    let standings = planner.standings()?;
    store.memo().save();
    let plan = planner.plan(&standings);
    let causes = Reasons::new(&planner, &plan).nearest();
    Ok((plan, causes))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = &self.stage;
        let verb = match &self.action {
            Action::Run { how: Some(how), .. } => how.as_str(),
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
        for cause in &self.causes {
            let sign = if cause.path.len() > 1 { " ←" } else { ":" };
            for line in cause.lines() {
                writeln!(f, "{stage} {verb}{sign} {line}")?;
            }
        }
        if self.more_causes > 0 {
            writeln!(f, "and for {} further up", format::plural(self.more_causes, "cause", "causes"))?;
        }
        if !matches!(self.action, Action::Run { .. }) {
            return Ok(());
        }
        let most = if matches!(self.action, Action::Run { how: Some(_), .. }) { "at most " } else { "" };
        writeln!(f, "cost by the last times: {most}{}", self.cost)?;
        if self.downstream.stages > 0 {
            writeln!(f, "and after it: {}", self.downstream)?;
        }
        if self.causes.iter().any(|cause| cause.path.len() > 1) || self.downstream.stages > 0 {
            writeln!(f, "less where a stage makes the same output again: nothing that reads it runs")?;
        }
        Ok(())
    }
}
