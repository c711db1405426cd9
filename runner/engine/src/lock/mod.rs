//! `NAME.lock`: what a pipeline's results were, committed beside `NAME.yaml`.
//!
//! A lock is a pure function of pipeline and results: one block per stage, sorted by id, each with the whole
//! fingerprint, the outputs and the metrics that are the same on every machine of the numeric class. No paths, times or
//! hosts. So git merges changes to different stages, and two locks can be compared field by field. The text is a subset
//! of YAML, one `name: value` per line, values as JSON or space-separated words.
//!
//! ```yaml
//! version: 1
//!
//! stages:
//!   clean:
//!     kind: filter
//!     recipe: 1
//!     key: 6b1f…
//!     config:
//!       steps[0].config.max: 0.12
//!     inputs:
//!       data: dataset 3fa9…
//!     outputs:
//!       data: dataset tree 81920 77c0…
//!     metrics:
//!       rows_kept: 71230.0
//! ```

mod difference;
mod error;
mod parse;
mod render;
mod revision;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Artifact, ArtifactName, Digest, MetricValue, StageId};
use serde::Serialize;

use crate::fingerprint::Fingerprint;
use crate::pipeline::Pipeline;
use crate::store::StageRecord;

pub use difference::LockDifference;
pub(crate) use difference::field;
pub use error::LockError;
pub use revision::Revisions;

/// The format of the file. 1: the first.
pub const FORMAT: u64 = 1;

/// A parsed lock.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Lock {
    pub stages: BTreeMap<StageId, LockStage>,
}

/// One stage of a lock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LockStage {
    pub key: Digest,
    pub fingerprint: Fingerprint,
    pub outputs: BTreeMap<ArtifactName, Artifact>,
    /// Deterministic metrics; the shortest text that reads back as the same number.
    pub metrics: BTreeMap<String, String>,
}

impl LockStage {
    /// What a lock says about a result. The record is a whole one, with its outcome.
    #[must_use]
    pub fn from_record(record: &StageRecord) -> Self {
        let metrics = record
            .outcome
            .metrics
            .iter()
            .filter(|(_, metric)| metric.deterministic)
            .map(|(name, metric)| (name.clone(), number(metric)))
            .collect();
        Self { key: record.key, fingerprint: record.fingerprint.clone(), outputs: record.outputs.clone(), metrics }
    }

    /// Whether key and outputs are those of the record.
    #[must_use]
    pub fn describes(&self, record: &StageRecord) -> bool {
        self.key == record.key && self.outputs == record.outputs && self.fingerprint == record.fingerprint
    }
}

fn number(metric: &MetricValue) -> String {
    serde_json::Number::from_f64(metric.value).map_or_else(|| metric.value.to_string(), |number| number.to_string())
}

impl Lock {
    /// Where the lock of a pipeline is: beside its file, with the extension `lock`.
    #[must_use]
    pub fn path_of(pipeline: &Pipeline) -> Utf8PathBuf {
        pipeline.file.with_extension("lock")
    }

    /// Reads a lock; `None` if there is no such file.
    ///
    /// # Errors
    /// It cannot be read, holds conflict markers, does not parse, or is of a newer version.
    pub fn read(file: &Utf8Path) -> Result<Option<Self>, LockError> {
        match fs_err::read_to_string(file) {
            Ok(text) => parse::parse(&text, file).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Parses the text of a lock; `file` is for messages.
    ///
    /// # Errors
    /// As [`Lock::read`].
    pub fn parse(text: &str, file: &Utf8Path) -> Result<Self, LockError> {
        parse::parse(text, file)
    }

    /// The text of the file: equal locks give equal bytes.
    #[must_use]
    pub fn render(&self) -> String {
        render::render(self)
    }

    /// Writes the file, old or new but never half.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, file: &Utf8Path) -> Result<(), LockError> {
        Ok(luthier_core::fs::write_atomic(file, self.render().as_bytes())?)
    }
}
