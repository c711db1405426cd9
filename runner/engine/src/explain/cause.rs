//! The way from a stage that runs to the change that made it run.
//!
//! Before a run the way follows the plan: a stage waits for one that will run, which has a changed field. Where it leaves
//! the plan, and for stages that are up to date, it follows the records of past executions.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use luthier_core::StageId;
use serde::Serialize;

use crate::fingerprint::DirtyReason;
use crate::run::planner::Planner;
use crate::run::{Action, RunPlan};

/// Stages of a way that are named; those between are counted.
const NAMED: usize = 8;

/// Ways that are kept of one stage, the shortest ones.
const KEPT: usize = 32;

/// One way from a stage down to a change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    /// From the stage asked about to the one that changed; both are the same where the stage itself did.
    pub path: Vec<StageId>,
    /// Stages left out of `path` before its last one.
    pub skipped: usize,
    /// What changed; empty where only different output is known.
    pub reasons: Vec<DirtyReason>,
}

impl Cause {
    /// `tokens changed ← clean: steps[0].max 0.1 → 0.12 (p.yaml:31)`, one line per reason; a change of the stage itself is
    /// the bare reason.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let Some((root, between)) = self.path.get(1..).and_then(<[StageId]>::split_last) else {
            return self.reasons.iter().map(ToString::to_string).collect();
        };
        let mut way = String::new();
        for stage in between {
            way.push_str(&format!("{stage} changed ← "));
        }
        if self.skipped > 0 {
            way.push_str(&format!("… {} more … ← ", self.skipped));
        }
        if self.reasons.is_empty() {
            return vec![format!("{way}{root} changed")];
        }
        self.reasons.iter().map(|reason| format!("{way}{root}: {reason}")).collect()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("; "))
    }
}

/// Answers for the reasons of any stage, from the plan and, where that has none, from the records.
pub(super) struct Reasons<'a> {
    planner: &'a Planner<'a>,
    actions: BTreeMap<&'a StageId, &'a Action>,
}

impl<'a> Reasons<'a> {
    pub fn new(planner: &'a Planner<'a>, plan: &'a RunPlan) -> Self {
        Self { planner, actions: plan.stages.iter().map(|(id, action)| (id, action)).collect() }
    }

    fn of(&self, at: usize) -> &[DirtyReason] {
        let id = &self.planner.pipeline.stages[at].id;
        match self.actions.get(id) {
            Some(Action::Run { why, .. }) => why,
            _ => self.planner.latest(id).map_or(&[], |record| &record.why),
        }
    }

    /// The stage that passes a reason on. An input from a stage that has not run since the reader last did comes by
    /// another edge, so it is the reader's own change.
    fn upstream(&self, at: usize, reason: &DirtyReason) -> Option<usize> {
        let up = *self.planner.layout.place.get(&StageId::new(reason.upstream()?).ok()?)?;
        if matches!(reason, DirtyReason::UpstreamRuns { .. }) {
            return Some(up);
        }
        let started =
            |at: usize| self.planner.latest(&self.planner.pipeline.stages[at].id).map(|record| record.started.as_str());
        let waits = matches!(self.actions.get(&self.planner.pipeline.stages[at].id), Some(Action::Run { .. }));
        // RFC 3339 in UTC sorts as text.
        (!waits || started(up) > started(at)).then_some(up)
    }

    /// All ways down from one stage, shortest first, and how many more there are than are kept.
    pub fn causes(&self, start: usize) -> (Vec<Cause>, usize) {
        let mut parent: BTreeMap<usize, usize> = BTreeMap::from([(start, start)]);
        let mut pending = VecDeque::from([start]);
        let (mut causes, mut more) = (Vec::new(), 0);
        while let Some(at) = pending.pop_front() {
            let mut own = Vec::new();
            let mut passed_on = false;
            for reason in self.of(at) {
                match self.upstream(at, reason) {
                    None => own.push(reason.clone()),
                    Some(up) => {
                        passed_on = true;
                        if let std::collections::btree_map::Entry::Vacant(entry) = parent.entry(up) {
                            entry.insert(at);
                            pending.push_back(up);
                        }
                    }
                }
            }
            if own.is_empty() && (passed_on || at == start) {
                continue;
            }
            if causes.len() == KEPT {
                more += 1;
                continue;
            }
            let mut way = vec![at];
            let mut here = at;
            while here != start {
                here = parent[&here];
                way.push(here);
            }
            way.reverse();
            causes.push(self.cause(&way, own));
        }
        (causes, more)
    }

    fn cause(&self, way: &[usize], reasons: Vec<DirtyReason>) -> Cause {
        let id = |at: &usize| self.planner.pipeline.stages[*at].id.clone();
        let skipped = way.len().saturating_sub(NAMED);
        let (head, tail) = way.split_at(if skipped > 0 { NAMED - 1 } else { way.len() });
        Cause { path: head.iter().chain(tail.last()).map(id).collect(), skipped, reasons }
    }

    /// The nearest cause of every stage that would run, all in one pass over the pipeline.
    pub fn nearest(&self) -> BTreeMap<StageId, Cause> {
        let stages = &self.planner.pipeline.stages;
        // Per stage: steps to its nearest change, and the stage to go to next.
        let mut next: Vec<Option<(usize, usize)>> = vec![None; stages.len()];
        let mut found = BTreeMap::new();
        for (at, stage) in stages.iter().enumerate() {
            if !matches!(self.actions.get(&stage.id), Some(Action::Run { .. })) {
                continue;
            }
            let own: Vec<DirtyReason> =
                self.of(at).iter().filter(|reason| self.upstream(at, reason).is_none()).cloned().collect();
            let way_up = || {
                let upstream = self.of(at).iter().filter_map(|reason| self.upstream(at, reason));
                upstream.map(|up| (next[up].map_or(1, |(steps, _)| steps + 1), up)).min()
            };
            let step = if own.is_empty() { way_up() } else { Some((0, at)) };
            next[at] = step;
            let mut way = vec![at];
            let mut here = at;
            let steps = step.map_or(0, |(steps, _)| steps);
            while way.len() < NAMED
                && let Some((_, up)) = next[here].filter(|(steps, _)| *steps > 0)
            {
                way.push(up);
                here = up;
            }
            let left = steps.saturating_sub(way.len() - 1);
            let cause = if left == 0 {
                let reasons = self.of(here).iter().filter(|reason| self.upstream(here, reason).is_none()).cloned();
                self.cause(&way, if here == at { own } else { reasons.collect() })
            } else {
                // The readers' cause is known already, and ends where this one does.
                let tail: Option<&Cause> = found.get(&stages[*way.get(1).unwrap_or(&at)].id);
                let mut path: Vec<StageId> = way[..NAMED - 1].iter().map(|at| stages[*at].id.clone()).collect();
                path.extend(tail.and_then(|tail| tail.path.last()).cloned());
                let skipped = (steps + 1).saturating_sub(path.len());
                Cause { path, skipped, reasons: tail.map(|tail| tail.reasons.clone()).unwrap_or_default() }
            };
            found.insert(stage.id.clone(), cause);
        }
        found
    }
}
