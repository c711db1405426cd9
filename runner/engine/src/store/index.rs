//! Records: the whole ones under their keys, and the index that makes a no-op run read one file.
//!
//! The index of a pipeline is a list of lines, one record each, without outcomes; the last line of a stage wins. Lines
//! are appended as stages finish and rewritten as one block when most are out of date. Torn or foreign lines are
//! skipped: the records are the truth.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Digest, StageId, StageOutcome};
use serde::{Deserialize, Serialize};

use super::{StageRecord, Store, StoreError};
use crate::pipeline::Pipeline;

/// The first line: which pipeline file the index belongs to, so that its lock can be found when garbage is collected.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    pipeline: Utf8PathBuf,
}

/// Short names of files and the newest record per stage.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub records: BTreeMap<StageId, StageRecord>,
    /// Lines in the file, also superseded ones.
    pub lines: usize,
}

fn absolute(path: &Utf8Path) -> Utf8PathBuf {
    std::path::absolute(path)
        .ok()
        .and_then(|path| Utf8PathBuf::from_path_buf(path).ok())
        .unwrap_or_else(|| path.to_owned())
}

impl Store {
    fn index_path(&self, pipeline: &Utf8Path) -> Utf8PathBuf {
        let pipeline = absolute(pipeline);
        let name = pipeline.file_stem().unwrap_or("pipeline");
        let hash = Digest::of(pipeline.as_str().as_bytes()).hex();
        self.root().join("index").join(format!("{name}-{}.jsonl", &hash[..8]))
    }

    /// The newest record of each stage of a pipeline, without outcomes.
    ///
    /// # Errors
    /// The index exists and cannot be read.
    pub fn latest(&self, pipeline: &Pipeline) -> Result<BTreeMap<StageId, StageRecord>, StoreError> {
        Ok(self.index(&pipeline.file)?.records)
    }

    pub(crate) fn index(&self, file: &Utf8Path) -> Result<Index, StoreError> {
        let bytes = self
            .disk()
            .read(&self.index_path(file))
            .map_err(|error| self.error("the index of records cannot be read", error))?
            .unwrap_or_default();
        let mut index = Index::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            index.lines += 1;
            if let Ok(record) = serde_json::from_slice::<StageRecord>(line)
                && record.version == StageRecord::FORMAT
            {
                index.records.insert(record.stage.clone(), record);
            }
        }
        Ok(index)
    }

    /// The whole record of a key.
    ///
    /// # Errors
    /// The record exists and cannot be read. One that does not parse counts as absent.
    pub fn record(&self, key: &Digest) -> Result<Option<StageRecord>, StoreError> {
        let bytes =
            self.disk().read(&self.record_path(key)).map_err(|error| self.error("a record cannot be read", error))?;
        Ok(bytes
            .and_then(|bytes| serde_json::from_slice::<StageRecord>(&bytes).ok())
            .filter(|record| record.version == StageRecord::FORMAT && record.key == *key))
    }

    /// Files a record under its key; everything it names is in the store already.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn file_record(&self, record: &StageRecord) -> Result<(), StoreError> {
        let fail = |error| self.error("a record cannot be written", error);
        let mut bytes = serde_json::to_vec(record).map_err(|error| fail(error.into()))?;
        bytes.push(b'\n');
        self.disk().write_atomic(&self.record_path(&record.key), &bytes).map_err(fail)
    }

    /// Makes a record the newest of `stage` in the pipeline of `file`.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn index_record(&self, file: &Utf8Path, stage: &StageId, record: &StageRecord) -> Result<(), StoreError> {
        let fail = |error| self.error("the index of records cannot be written", error);
        let path = self.index_path(file);
        if !path.exists() {
            let header = serde_json::to_string(&Header { pipeline: absolute(file) }).map_err(|e| fail(e.into()))?;
            self.disk().append_line(&path, &header).map_err(fail)?;
        }
        let line = index_line(stage, record).map_err(|error| fail(error.into()))?;
        self.disk().append_line(&path, &line).map_err(fail)
    }

    /// Rewrites an index of which most lines are superseded, and drops stages that the pipeline no longer has.
    ///
    /// # Errors
    /// The store cannot be written.
    pub(crate) fn compact_index(&self, file: &Utf8Path, stages: &[&StageId]) -> Result<(), StoreError> {
        let index = self.index(file)?;
        if index.lines <= 2 * stages.len() + 16 {
            return Ok(());
        }
        let fail = |error| self.error("the index of records cannot be written", error);
        let mut text = serde_json::to_string(&Header { pipeline: absolute(file) }).map_err(|e| fail(e.into()))?;
        text.push('\n');
        for stage in stages {
            if let Some(record) = index.records.get(*stage) {
                text.push_str(&index_line(stage, record).map_err(|e| fail(e.into()))?);
                text.push('\n');
            }
        }
        self.disk().write_atomic(&self.index_path(file), text.as_bytes()).map_err(fail)
    }

    /// The pipeline files that have an index here.
    pub(crate) fn known_pipelines(&self) -> Vec<Utf8PathBuf> {
        let Ok(files) = luthier_core::fs::walk_files(&self.root().join("index")) else { return Vec::new() };
        files
            .iter()
            .filter_map(|name| self.disk().read(&self.root().join("index").join(name)).ok().flatten())
            .filter_map(|bytes| {
                let first = bytes.split(|byte| *byte == b'\n').find(|line| !line.is_empty())?;
                serde_json::from_slice::<Header>(first).ok()
            })
            .map(|header| header.pipeline)
            .collect()
    }
}

fn index_line(stage: &StageId, record: &StageRecord) -> serde_json::Result<String> {
    let slim = StageRecord { stage: stage.clone(), outcome: StageOutcome::default(), ..record.clone() };
    serde_json::to_string(&slim)
}
