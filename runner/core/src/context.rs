//! The only door between a running stage and the world.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::ArtifactKind;
use crate::cancel::CancelToken;
use crate::digest::Digest;
use crate::error::{StageError, StageResult};
use crate::event::{EventSink, Progress, StageEvent};
use crate::id::StageId;
use crate::shard::ShardCache;
use crate::stage::OutputDecl;

/// An input, already verified and in place. Read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputArtifact {
    /// `stage.output` as the pipeline names it, for messages and tables.
    pub from: String,
    pub kind: ArtifactKind,
    pub digest: Digest,
    pub path: Utf8PathBuf,
}

/// A source of the working tree, as it was when the key was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedSource {
    pub path: Utf8PathBuf,
    pub digest: Digest,
}

/// Everything about one execution, serialisable so that another process or machine can run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRequest {
    pub version: u32,
    pub stage: StageId,
    pub kind: String,
    pub config: Value,
    pub inputs: BTreeMap<String, Vec<InputArtifact>>,
    pub sources: BTreeMap<String, ResolvedSource>,
    pub outputs: Vec<OutputDecl>,
    /// Private; outputs go to `scratch/out/NAME`, checkpoints to `scratch/checkpoint`, which survives a failed or
    /// killed run of the same key.
    pub scratch: Utf8PathBuf,
    /// Shared between runs, for things that can be made again (compiled plugins, downloads in flight).
    pub cache: Utf8PathBuf,
    /// The directory of the pipeline file.
    pub directory: Utf8PathBuf,
    /// At least 1.
    pub threads: usize,
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// No network.
    pub offline: bool,
    /// Results of shards that earlier runs left in `cache` are not used: everything is computed anew.
    #[serde(default)]
    pub fresh: bool,
}

/// What a stage is given.
pub struct StageContext<'a> {
    request: StageRequest,
    sink: &'a dyn EventSink,
    cancel: CancelToken,
}

impl<'a> StageContext<'a> {
    #[must_use]
    pub fn new(request: StageRequest, sink: &'a dyn EventSink, cancel: CancelToken) -> Self {
        Self { request, sink, cancel }
    }

    #[must_use]
    pub fn request(&self) -> &StageRequest {
        &self.request
    }

    /// The configuration that `prepare` made.
    ///
    /// # Errors
    /// Only if it was not made by this version's `prepare`.
    pub fn config<T: serde::de::DeserializeOwned>(&self) -> StageResult<T> {
        serde_json::from_value(self.request.config.clone()).map_err(|error| {
            StageError::new("stage::config", "the prepared configuration does not parse").caused_by(error)
        })
    }

    /// The one artifact of a required port.
    ///
    /// # Errors
    /// The port is empty, which validation should have caught.
    pub fn input(&self, port: &str) -> StageResult<&InputArtifact> {
        self.optional_input(port).ok_or_else(|| {
            StageError::input("stage::missing_input", format!("input `{port}` is not connected"))
                .hint(format!("add `{port}: STAGE` under `in:`"))
        })
    }

    #[must_use]
    pub fn optional_input(&self, port: &str) -> Option<&InputArtifact> {
        self.inputs(port).first()
    }

    /// All artifacts of a port, in the order written.
    #[must_use]
    pub fn inputs(&self, port: &str) -> &[InputArtifact] {
        self.request.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// A source declared by `prepare`.
    ///
    /// # Errors
    /// No source has this label.
    pub fn source(&self, label: &str) -> StageResult<&ResolvedSource> {
        self.request
            .sources
            .get(label)
            .ok_or_else(|| StageError::new("stage::source", format!("no source is labelled `{label}`")))
    }

    /// Where output `name` must be written: a path in a directory that exists, itself not yet existing. The stage makes
    /// it a file or a directory.
    #[must_use]
    pub fn output(&self, name: &str) -> Utf8PathBuf {
        self.request.scratch.join("out").join(name)
    }

    /// A private directory for temporary files, emptied before each run.
    #[must_use]
    pub fn temporary(&self) -> Utf8PathBuf {
        self.request.scratch.join("tmp")
    }

    /// A private directory that survives a kill: a later run of the same key finds it again.
    #[must_use]
    pub fn checkpoint(&self) -> Utf8PathBuf {
        self.request.scratch.join("checkpoint")
    }

    #[must_use]
    pub fn cache(&self) -> &Utf8Path {
        &self.request.cache
    }

    /// The results of shards that earlier runs left.
    #[must_use]
    pub fn shards(&self) -> ShardCache {
        ShardCache::new(&self.request.cache, self.request.fresh)
    }

    #[must_use]
    pub fn threads(&self) -> usize {
        self.request.threads.max(1)
    }

    #[must_use]
    pub fn stage(&self) -> &StageId {
        &self.request.stage
    }

    #[must_use]
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    /// Fails with an interruption once the run was asked to stop; call it at least once a second.
    ///
    /// # Errors
    /// [`StageError::interrupted`].
    pub fn check_cancelled(&self) -> StageResult<()> {
        if self.cancel.is_cancelled() { Err(StageError::interrupted()) } else { Ok(()) }
    }

    #[must_use]
    pub fn sink(&self) -> &'a dyn EventSink {
        self.sink
    }

    pub fn emit(&self, event: StageEvent) {
        self.sink.emit(event);
    }

    pub fn progress(&self, done: u64, total: u64, unit: &str, note: impl Into<String>) {
        self.emit(StageEvent::Progress(Progress { done, total, unit: unit.to_owned(), note: note.into() }));
    }

    pub fn warn(&self, message: impl Into<String>, hint: Option<String>) {
        self.emit(StageEvent::Warning { message: message.into(), hint });
    }

    pub fn log(&self, line: impl Into<String>) {
        self.emit(StageEvent::Log(line.into()));
    }
}
