//! The filter stage as a run executes it, from Parquet to Parquet with its ledgers and its funnel, on one thread.

use std::collections::BTreeMap;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{
    ArtifactKind, CancelToken, EventSink, InputArtifact, PrepareEnv, ResolvedSource, Stage, StageContext, StageEvent,
    StageId, StageRequest, digest_path,
};
use serde_json::{Value, json};

struct Silent;

impl EventSink for Silent {
    fn emit(&self, _event: StageEvent) {}
}

/// Documents as a dataset, and where stages run over it.
pub struct StageBench {
    directory: tempfile::TempDir,
    data: Option<InputArtifact>,
    runs: usize,
}

fn failed(message: impl std::fmt::Display) -> io::Error {
    io::Error::other(message.to_string())
}

impl StageBench {
    /// Ingests the documents.
    pub fn new(texts: &[String]) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut lines = String::new();
        texts.iter().for_each(|text| lines.push_str(&format!("{}\n", json!({"text": text}))));
        fs_err::write(directory.path().join("texts.jsonl"), lines)?;
        let mut bench = Self { directory, data: None, runs: 0 };
        let path = bench.run("ingest", &json!({"files": "texts.jsonl"}))?.join("out/dataset");
        let digest = digest_path(&path)?.0;
        bench.data = Some(InputArtifact { from: "raw".to_owned(), kind: ArtifactKind::Dataset, digest, path });
        Ok(bench)
    }

    /// Filters the dataset anew.
    pub fn filter(&mut self, steps: &[Value]) -> io::Result<()> {
        let with = json!({"steps": steps, "on_empty": "allow"});
        let scratch = self.run("filter", &with)?;
        fs_err::remove_dir_all(scratch)
    }

    fn run(&mut self, kind: &str, with: &Value) -> io::Result<Utf8PathBuf> {
        let registry = luthier_stages::registry();
        let stage = registry.get(kind).ok_or_else(|| failed(format!("no stage kind `{kind}`")))?;
        let root = Utf8Path::from_path(self.directory.path()).ok_or_else(|| failed("a path that is not UTF-8"))?;
        let env = PrepareEnv { directory: root, cache: None, build: false };
        let prepared = stage.prepare(with, env).map_err(|issues| failed(format!("{issues:?}")))?;
        let mut sources = BTreeMap::new();
        for source in &prepared.sources {
            let path = root.join(&source.path);
            sources.insert(source.label.clone(), ResolvedSource { digest: digest_path(&path)?.0, path });
        }
        self.runs += 1;
        let scratch = root.join(format!("run-{}", self.runs));
        for name in ["out", "tmp", "checkpoint"] {
            fs_err::create_dir_all(scratch.join(name))?;
        }
        let request = StageRequest {
            version: 1,
            stage: StageId::new(kind).map_err(failed)?,
            kind: kind.to_owned(),
            config: prepared.config,
            inputs: self.data.iter().map(|data| ("data".to_owned(), vec![data.clone()])).collect(),
            sources,
            outputs: prepared.outputs,
            scratch: scratch.clone(),
            cache: root.join("cache"),
            directory: root.to_owned(),
            threads: 1,
            device: "cpu".to_owned(),
            offline: true,
            fresh: true,
        };
        let mut context = StageContext::new(request, &Silent, CancelToken::new());
        Stage::run(stage.as_ref(), &mut context).map_err(failed)?;
        Ok(scratch)
    }
}
