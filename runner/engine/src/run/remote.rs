//! What a run asks of a place where results are shared. The place itself is none of the engine's business.

use std::fmt;

use luthier_core::{CancelToken, Digest, StageId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StageFailure;
use crate::lock::LockStage;
use crate::store::Store;

/// A result that a run has no use for unless somebody made it already.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub stage: StageId,
    pub key: Digest,
    /// What the lock says the result is. Then exactly these bytes are brought, whoever made them.
    pub locked: Option<LockStage>,
}

/// Something that could not be shared; the run goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemoteProblem {
    /// `None` if the remote as a whole is meant.
    pub stage: Option<StageId>,
    pub failure: StageFailure,
}

/// What came of a pull or a push.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shipment {
    /// Stages whose results were brought or sent, in the order asked.
    pub stages: Vec<StageId>,
    /// Stages whose results the other side does not have, or for a push has already.
    pub skipped: Vec<StageId>,
    /// Files that went over the wire.
    pub objects: usize,
    pub bytes: u64,
    /// Bytes that an earlier, interrupted transfer had moved.
    pub resumed: u64,
    pub problems: Vec<RemoteProblem>,
}

/// A place where results are shared. Safe to use from several threads.
pub trait Remote: fmt::Debug + Send + Sync {
    /// For people, without credentials.
    fn address(&self) -> String;

    /// Brings results into the store, each whole and verified or not at all; what the remote lacks is no problem.
    fn pull(&self, store: &Store, wanted: &[Wanted], cancel: &CancelToken) -> Shipment;

    /// Sends results of the store, objects first and records last.
    fn push(&self, store: &Store, results: &[(StageId, Digest)], cancel: &CancelToken) -> Shipment;
}
