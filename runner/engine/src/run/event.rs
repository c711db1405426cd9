//! The one stream that the terminal, the journal and the report read.

use std::collections::BTreeMap;

use luthier_core::{Artifact, ArtifactName, Digest, StageEvent, StageId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RunSummary, Shipment, StageFailure};
use crate::fingerprint::DirtyReason;
use crate::store::StageRecord;

/// What happens in a run, in order. Per stage: one of `StageReused`, `StageBlocked`, or `StageStarted`, any number of
/// `StageEvent`, then `StageFinished`, `StageReused` (another process made the result meanwhile) or `StageFailed`
/// (followed by a new `StageStarted` if it is tried again).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RunEvent {
    RunStarted {
        run: String,
        pipeline: String,
        /// The selected stages, in topological order.
        stages: Vec<StageId>,
        threads: usize,
        /// RFC 3339, UTC.
        started: String,
    },
    StageReused {
        stage: StageId,
        key: Digest,
        outputs: BTreeMap<ArtifactName, Artifact>,
        /// What the execution that made the result took.
        seconds: f64,
    },
    /// Another process is executing the same key; this one waits for its result.
    StageWaiting {
        stage: StageId,
        key: Digest,
    },
    StageStarted {
        stage: StageId,
        key: Digest,
        why: Vec<DirtyReason>,
        estimate_seconds: Option<f64>,
        /// 1 for the first try.
        attempt: u32,
        threads: usize,
    },
    StageEvent {
        stage: StageId,
        event: StageEvent,
    },
    StageFinished {
        stage: StageId,
        record: Box<StageRecord>,
    },
    StageFailed {
        stage: StageId,
        key: Option<Digest>,
        failure: StageFailure,
        attempt: u32,
        will_retry: bool,
    },
    StageBlocked {
        stage: StageId,
        /// The stage whose failure or absence blocks it.
        by: StageId,
    },
    /// Results that are not in the store are looked for in the remote.
    RemoteAsked {
        remote: String,
        stages: Vec<StageId>,
    },
    /// What the remote had of them.
    RemotePulled {
        remote: String,
        shipment: Shipment,
    },
    /// What this run made was sent.
    RemotePushed {
        remote: String,
        shipment: Shipment,
    },
    RunFinished {
        summary: RunSummary,
    },
}

/// An event and when it happened, as journals and `--json` have it: one object, the event's fields beside `at`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TimedEvent<E = RunEvent> {
    /// Seconds since the run began.
    #[serde(default)]
    pub at: f64,
    #[serde(flatten)]
    pub event: E,
}

/// The JSON Schema, 2020-12, of one line of `luthier run --json` and of a journal.
#[must_use]
pub fn event_schema() -> serde_json::Value {
    let mut schema =
        schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<TimedEvent>();
    schema.insert("title".to_owned(), "Luthier run event".into());
    schema.to_value()
}
