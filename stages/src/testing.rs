//! Runs a stage in a temporary directory, as the runner would: prepare, resolve sources, run, look at the outputs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{
    ArtifactKind, CancelToken, ConfigIssue, Digest, EventSink, InputArtifact, PrepareEnv, Prepared, ResolvedSource,
    ShardCache, Stage, StageContext, StageEvent, StageId, StageOutcome, StageRequest, StageResult, digest_path,
};
use luthier_formats::dataset::{DatasetShape, DatasetWriter};
use serde_json::Value;

/// Writes a dataset of rows `id0`, `id1`, … with the texts of its shape's columns.
pub fn write_dataset(path: &Utf8Path, shape: DatasetShape, rows: &[&[&str]]) {
    let schema = Arc::new(shape.schema([]));
    let ids: ArrayRef = Arc::new((0..rows.len()).map(|row| Some(format!("id{row}"))).collect::<StringArray>());
    let texts = (0..shape.columns().len())
        .map(|column| Arc::new(rows.iter().map(|row| Some(row[column])).collect::<StringArray>()) as ArrayRef);
    let columns = std::iter::once(ids).chain(texts).collect();
    let mut writer = DatasetWriter::create(path, Arc::clone(&schema), shape).expect("a writer");
    writer.write(&RecordBatch::try_new(schema, columns).expect("a batch")).expect("write");
    writer.finish().expect("finish");
}

/// Keeps what a stage says.
#[derive(Default)]
pub struct Events(pub Mutex<Vec<StageEvent>>);

impl EventSink for Events {
    fn emit(&self, event: StageEvent) {
        self.0.lock().expect("no panic while emitting").push(event);
    }
}

/// A pipeline directory and a scratch directory.
pub struct Bench {
    directory: tempfile::TempDir,
    inputs: BTreeMap<String, Vec<InputArtifact>>,
    /// Shared between runs.
    pub cache: Utf8PathBuf,
    pub offline: bool,
    /// Leave the shards of earlier runs unused.
    pub fresh: bool,
    pub threads: usize,
    pub cancel: CancelToken,
    pub events: Events,
    runs: usize,
}

/// What a run left.
#[derive(Debug)]
pub struct Done {
    pub outcome: StageOutcome,
    pub out: Utf8PathBuf,
}

impl Done {
    /// Shards that were reused, and all.
    pub fn shards(&self) -> (u64, u64) {
        let metric = |name: &str| self.outcome.metrics[name].value as u64;
        (metric("shards_reused"), metric("shards"))
    }

    /// Of all outputs together.
    pub fn digest(&self) -> Digest {
        digest_path(&self.out).expect("readable").0
    }
}

impl Bench {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs_err::create_dir_all(directory.path().join("pipeline")).expect("a directory");
        let cache = Utf8Path::from_path(directory.path()).expect("UTF-8").join("cache");
        Self {
            cache,
            directory,
            inputs: BTreeMap::new(),
            offline: false,
            fresh: false,
            threads: 2,
            cancel: CancelToken::new(),
            events: Events::default(),
            runs: 0,
        }
    }

    pub fn root(&self) -> &Utf8Path {
        Utf8Path::from_path(self.directory.path()).expect("UTF-8")
    }

    /// A path beside the pipeline file.
    pub fn path(&self, name: &str) -> Utf8PathBuf {
        self.root().join("pipeline").join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Utf8PathBuf {
        let path = self.path(name);
        fs_err::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs_err::write(&path, bytes).expect("write");
        path
    }

    pub fn input(&mut self, port: &str, kind: ArtifactKind, path: &Utf8Path) -> &mut Self {
        let digest = digest_path(path).expect("readable").0;
        let artifact = InputArtifact { from: format!("{port}.{kind}"), kind, digest, path: path.to_owned() };
        self.inputs.entry(port.to_owned()).or_default().push(artifact);
        self
    }

    pub fn disconnect(&mut self) {
        self.inputs.clear();
    }

    /// Of every file among the shards of earlier runs, which a test may damage.
    pub fn shard_files(&self) -> Vec<Utf8PathBuf> {
        let entries = ShardCache::entries(&ShardCache::directory(&self.cache)).expect("readable");
        entries.into_iter().map(|entry| entry.path).collect()
    }

    pub fn prepare(&self, stage: &dyn Stage, with: &Value) -> Result<Prepared, Vec<ConfigIssue>> {
        stage.prepare(with, PrepareEnv { directory: &self.root().join("pipeline"), cache: None, build: false })
    }

    /// Issues as `path | message | help`.
    pub fn issues(&self, stage: &dyn Stage, with: &Value) -> Vec<String> {
        let issues = self.prepare(stage, with).expect_err("issues");
        let help = |issue: &ConfigIssue| issue.help.clone().unwrap_or_else(|| "-".to_owned());
        issues.iter().map(|issue| format!("{} | {} | {}", issue.path, issue.message, help(issue))).collect()
    }

    pub fn request(&self, stage: &dyn Stage, with: &Value, scratch: &Utf8Path) -> StageRequest {
        let prepared = self.prepare(stage, with).expect("a valid configuration");
        let directory = self.root().join("pipeline");
        let sources = prepared.sources.iter().map(|source| {
            let path = directory.join(&source.path);
            let digest = digest_path(&path).expect("a readable source").0;
            (source.label.clone(), ResolvedSource { path, digest })
        });
        StageRequest {
            version: 1,
            stage: StageId::new("tested").expect("a name"),
            kind: stage.kind().to_owned(),
            config: prepared.config,
            inputs: self.inputs.clone(),
            sources: sources.collect(),
            outputs: prepared.outputs,
            scratch: scratch.to_owned(),
            cache: self.cache.clone(),
            directory,
            threads: self.threads,
            device: "cpu".to_owned(),
            offline: self.offline,
            fresh: self.fresh,
        }
    }

    /// Runs the stage in a scratch directory of its own.
    pub fn run(&mut self, stage: &dyn Stage, with: &Value) -> StageResult<Done> {
        self.runs += 1;
        let scratch = self.root().join(format!("scratch-{}", self.runs));
        for name in ["out", "tmp", "checkpoint"] {
            fs_err::create_dir_all(scratch.join(name)).expect("a directory");
        }
        let request = self.request(stage, with, &scratch);
        let mut context = StageContext::new(request, &self.events, self.cancel.clone());
        let outcome = stage.run(&mut context)?;
        Ok(Done { outcome, out: scratch.join("out") })
    }
}
