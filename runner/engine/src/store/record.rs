//! What is kept about one finished stage.

use std::collections::BTreeMap;

use luthier_core::{Artifact, ArtifactName, Digest, StageId, StageOutcome};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fingerprint::{DirtyReason, Fingerprint};

/// The result of one execution, filed under its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageRecord {
    /// [`StageRecord::FORMAT`] of the writer.
    pub version: u32,
    /// The stage that ran; the result serves any stage with the same key.
    pub stage: StageId,
    pub key: Digest,
    pub fingerprint: Fingerprint,
    pub outputs: BTreeMap<ArtifactName, Artifact>,
    /// Empty in records that come from the index; read the whole record by its key for reports.
    #[serde(default)]
    pub outcome: StageOutcome,
    /// Why that execution happened.
    #[serde(default)]
    pub why: Vec<DirtyReason>,
    /// Wall time.
    pub seconds: f64,
    /// RFC 3339, UTC.
    pub started: String,
    /// Highest resident bytes of the process while the stage ran; 0 if unknown.
    pub peak_memory: u64,
    pub host: String,
}

impl StageRecord {
    /// 1: the first.
    pub const FORMAT: u32 = 1;
}
