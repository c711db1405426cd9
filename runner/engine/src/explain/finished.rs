//! Why the stages of a finished run ran, for its report and its log.

use std::collections::BTreeMap;

use luthier_core::StageId;

use crate::fingerprint::DirtyReason;
use crate::run::{RunStatus, RunSummary};

/// Longest way that is spelt out; the rest is in the stages it names.
const LONGEST: usize = 160;

/// Per stage that ran, a line for each reason, followed down to the stage that changed.
#[must_use]
pub fn of_run(summary: &RunSummary) -> BTreeMap<&StageId, Vec<String>> {
    let mut lines: BTreeMap<&StageId, Vec<String>> = BTreeMap::new();
    // In topological order, so what a stage reads is told already.
    for stage in summary.stages.iter().filter(|stage| stage.status != RunStatus::Reused) {
        let told = stage.why.iter().map(|reason| line(reason, &lines)).collect();
        lines.insert(&stage.stage, told);
    }
    lines
}

fn line(reason: &DirtyReason, told: &BTreeMap<&StageId, Vec<String>>) -> String {
    let way = || {
        let upstream = StageId::new(reason.upstream()?).ok()?;
        let first = told.get(&upstream)?.first()?;
        let changed = if first.contains('←') { format!("{upstream} changed ← ") } else { format!("{upstream}: ") };
        Some(format!("← {changed}{}", first.trim_start_matches("← ")))
    };
    way().filter(|way| way.chars().count() <= LONGEST).unwrap_or_else(|| reason.to_string())
}
