//! Two locks side by side: parameters, digests, metrics. How they read is in `render`.

use std::collections::{BTreeMap, BTreeSet};

use luthier_core::StageId;
use serde::Serialize;

use crate::fingerprint::Origin;
use crate::lock::{self, Lock, LockStage};

/// What one stage has different.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageChange {
    pub stage: StageId,
    /// `added`, `removed` or `changed`.
    pub change: &'static str,
    pub fields: Vec<FieldChange>,
}

/// One field of a stage, `None` where it is absent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldChange {
    /// `parameter`, `input`, `source`, `output`, `metric` or `key`.
    pub what: &'static str,
    pub name: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// All differences of two locks, by stage; empty if they say the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LockDiff {
    pub stages: Vec<StageChange>,
}

/// Compares two locks.
#[must_use]
pub fn diff(old: &Lock, new: &Lock) -> LockDiff {
    let ids: BTreeSet<&StageId> = old.stages.keys().chain(new.stages.keys()).collect();
    let stages = ids
        .into_iter()
        .filter_map(|id| {
            let (change, fields) = match (old.stages.get(id), new.stages.get(id)) {
                (Some(old), Some(new)) => ("changed", fields(old, new)),
                (None, Some(new)) => ("added", results(None, Some(new))),
                (old, None) => ("removed", results(old, None)),
            };
            (change != "changed" || !fields.is_empty()).then(|| StageChange { stage: id.clone(), change, fields })
        })
        .collect();
    LockDiff { stages }
}

fn fields(old: &LockStage, new: &LockStage) -> Vec<FieldChange> {
    let mut changes: Vec<FieldChange> = old
        .fingerprint
        .diff(&new.fingerprint, &Origin::default())
        .iter()
        .map(|reason| {
            let (field, old, new) = lock::field(reason);
            let (what, name) = [("config.", "parameter"), ("input ", "input"), ("source ", "source")]
                .into_iter()
                .find_map(|(prefix, what)| field.strip_prefix(prefix).map(|name| (what, name.to_owned())))
                .unwrap_or(("key", field.clone()));
            FieldChange { what, name, old, new }
        })
        .collect();
    changes.extend(results(Some(old), Some(new)));
    changes
}

fn results(old: Option<&LockStage>, new: Option<&LockStage>) -> Vec<FieldChange> {
    let outputs = |stage: Option<&LockStage>| -> BTreeMap<String, String> {
        stage
            .into_iter()
            .flat_map(|stage| &stage.outputs)
            .map(|(name, artifact)| (name.to_string(), artifact.digest.hex()))
            .collect()
    };
    let metrics = |stage: Option<&LockStage>| stage.map(|stage| stage.metrics.clone()).unwrap_or_default();
    let mut changes = Vec::new();
    for (what, old, new) in [("output", outputs(old), outputs(new)), ("metric", metrics(old), metrics(new))] {
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let (was, is) = (old.get(name).cloned(), new.get(name).cloned());
            if was != is {
                changes.push(FieldChange { what, name: name.clone(), old: was, new: is });
            }
        }
    }
    changes
}

impl LockDiff {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }
}
