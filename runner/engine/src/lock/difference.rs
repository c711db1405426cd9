//! Ways in which results and lock disagree.

use luthier_core::{Digest, StageId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Lock, LockStage};
use crate::fingerprint::{DirtyReason, Fingerprint, Origin};
use crate::store::StageRecord;

/// A field of one stage with the value the lock holds and the value found; `None` where it is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockDifference {
    pub stage: StageId,
    /// `config.steps[0].max`, `input data`, `output adapter`, `metric rows`, `recipe`, or empty for the whole stage.
    pub field: String,
    pub locked: Option<String>,
    pub found: Option<String>,
}

impl LockDifference {
    pub(crate) fn not_in_pipeline(stage: &StageId) -> Self {
        Self { stage: stage.clone(), field: String::new(), locked: Some("present".to_owned()), found: None }
    }

    fn not_in_lock(stage: &StageId) -> Self {
        Self { stage: stage.clone(), field: String::new(), locked: None, found: Some("present".to_owned()) }
    }
}

/// Digests are cut for reading.
fn brief(text: &str) -> &str {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) { &text[..12] } else { text }
}

impl std::fmt::Display for LockDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stage, field, locked, found } = self;
        match (field.is_empty(), locked.as_deref(), found.as_deref()) {
            (true, None, _) => write!(f, "{stage}: not in the lock"),
            (true, _, _) => write!(f, "{stage}: in the lock, but not in the pipeline"),
            (false, Some(locked), Some(found)) => {
                write!(f, "{stage}: {field} is {}, locked {}", brief(found), brief(locked))
            }
            (false, None, found) => {
                write!(f, "{stage}: {field} is {}, not in the lock", brief(found.unwrap_or("absent")))
            }
            (false, Some(locked), None) => write!(f, "{stage}: {field} is absent, locked {}", brief(locked)),
        }
    }
}

/// A reason as a field with two values.
pub(crate) fn field(reason: &DirtyReason) -> (String, Option<String>, Option<String>) {
    let json = |value: &Option<Value>| value.as_ref().map(Value::to_string);
    let hex = |digest: &Option<Digest>| digest.as_ref().map(Digest::hex);
    match reason {
        DirtyReason::ConfigChanged { path, old, new, .. } => {
            let path = if path.is_empty() { "config".to_owned() } else { format!("config.{path}") };
            (path, json(old), json(new))
        }
        DirtyReason::InputChanged { port, old, new, .. } => (format!("input {port}"), hex(old), hex(new)),
        DirtyReason::SourceChanged { label, old, new, .. } => (format!("source {label}"), hex(old), hex(new)),
        DirtyReason::EnvChanged { name, old, new } => (format!("environment variable {name}"), hex(old), hex(new)),
        DirtyReason::RecipeChanged { old, new } => {
            ("recipe version".to_owned(), Some(old.to_string()), Some(new.to_string()))
        }
        DirtyReason::KindChanged { old, new } => ("uses".to_owned(), Some(old.clone()), Some(new.clone())),
        DirtyReason::NumericClassChanged { old, new } => ("numeric class".to_owned(), old.clone(), new.clone()),
        other => (other.to_string(), None, None),
    }
}

impl Lock {
    /// Differences between a stage's key and what the lock has for it; without `inputs` where those are not known yet.
    pub(crate) fn compare_key(&self, id: &StageId, found: &Fingerprint, inputs: bool) -> Vec<LockDifference> {
        let Some(locked) = self.stages.get(id) else { return vec![LockDifference::not_in_lock(id)] };
        let reasons = if inputs {
            locked.fingerprint.diff(found, &Origin::default())
        } else {
            locked.fingerprint.diff_without_inputs(found, &Origin::default())
        };
        reasons
            .iter()
            .map(|reason| {
                let (field, locked, found) = field(reason);
                LockDifference { stage: id.clone(), field, locked, found }
            })
            .collect()
    }

    /// Differences between a whole result and what the lock has for it.
    #[must_use]
    pub fn compare(&self, id: &StageId, record: &StageRecord) -> Vec<LockDifference> {
        let mut differences = self.compare_key(id, &record.fingerprint, true);
        let Some(locked) = self.stages.get(id) else { return differences };
        let found = LockStage::from_record(record);
        let entry = |field: String, locked: Option<String>, found: Option<String>| {
            (locked != found).then(|| LockDifference { stage: id.clone(), field, locked, found })
        };
        let digests = |stage: &LockStage| -> std::collections::BTreeMap<String, String> {
            stage.outputs.iter().map(|(name, artifact)| (name.to_string(), artifact.digest.hex())).collect()
        };
        for (what, old, new) in
            [("output", digests(locked), digests(&found)), ("metric", locked.metrics.clone(), found.metrics.clone())]
        {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            differences.extend(
                names
                    .into_iter()
                    .filter_map(|name| entry(format!("{what} {name}"), old.get(name).cloned(), new.get(name).cloned())),
            );
        }
        differences
    }
}
