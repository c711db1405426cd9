//! Executing a stage again, apart from the store, to see whether it makes what the lock says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Artifact, ArtifactName, CancelToken, EventSink, Section, StageId, StageOutcome, digest_path};
use serde::Serialize;

use super::execute::{self, Job};
use super::placement::{Place, Placement};
use super::planner::Planner;
use super::{RunOptions, machine};
use crate::error::EngineError;
use crate::fingerprint::DirtyReason;
use crate::lock::{Lock, LockDifference, LockStage};
use crate::pipeline::Pipeline;
use crate::store::{Health, StageRecord, Store};

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Reexecution {
    pub stage: StageId,
    pub outputs: BTreeMap<ArtifactName, Comparison>,
    /// Deterministic metrics that differ.
    pub metrics: Vec<LockDifference>,
    /// The first point of each curve that differs from the curve of the stored result, such as a training's loss.
    pub curves: Vec<CurveDifference>,
    /// Where the new outputs are until this is dropped.
    #[serde(skip)]
    _scratch: Scratch,
}

/// One output, as locked and as made now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub locked: Artifact,
    pub found: Artifact,
    /// `None` if equal, or if the stored bytes are not there to compare with.
    pub first: Option<FileDifference>,
}

/// The first file of an output that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// Relative in a tree; empty for an output that is one file.
    pub path: String,
    /// `differs`, `is missing now`, `is new`.
    pub how: &'static str,
    /// The first byte that differs, counted from 0.
    pub byte: Option<u64>,
    #[serde(skip)]
    pub stored: Option<Utf8PathBuf>,
    #[serde(skip)]
    pub made: Option<Utf8PathBuf>,
}

/// Where two curves part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurveDifference {
    pub name: String,
    /// A step, usually.
    pub x: f64,
    pub stored: Option<f64>,
    pub found: Option<f64>,
}

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch(Utf8PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs_err::remove_dir_all(&self.0);
    }
}

impl Reexecution {
    #[must_use]
    pub fn equal(&self) -> bool {
        self.metrics.is_empty() && self.outputs.values().all(|output| output.locked.digest == output.found.digest)
    }
}

/// An execution that is ready to start, apart from the store.
pub(super) struct Again {
    pub job: Job,
    /// What the lock says of it.
    pub locked: LockStage,
    pub scratch: Scratch,
}

impl Again {
    /// `stage` with the inputs and parameters that the lock names.
    pub fn prepare(
        pipeline: &Pipeline,
        store: &Store,
        lock: &Lock,
        stage: &StageId,
        options: &RunOptions,
        stop: &CancelToken,
    ) -> Result<Self, EngineError> {
        let options = RunOptions { only: vec![stage.clone()], ..options.clone() };
        let planner = Planner::new(pipeline, store, &options)?;
        let at = planner.layout.place[stage];
        let Some(locked) = lock.stages.get(stage).cloned() else {
            return Err(EngineError::NotLocked { stage: stage.clone(), file: Lock::path_of(pipeline) });
        };
        let mut results: BTreeMap<usize, Arc<StageRecord>> = BTreeMap::new();
        for up in planner.layout.up(&[at]).into_iter().filter(|up| *up != at) {
            let id = &pipeline.stages[up].id;
            if let Some(locked) = lock.stages.get(id) {
                results.insert(up, Arc::new(locked.to_record(id)));
            }
        }
        let fingerprint = planner.print(at, &results);
        let differences = lock.compare_key(stage, &fingerprint, true);
        if !differences.is_empty() {
            return Err(EngineError::LockMismatch { file: Lock::path_of(pipeline), differences });
        }
        let inputs = planner.inputs(at, &results);
        for (name, artifact) in inputs.values().flatten() {
            if store.examine(artifact)? != Health::Good {
                return Err(EngineError::InputMissing { stage: stage.clone(), input: name.clone() });
            }
        }
        let shared = store.share()?;
        let live = Arc::new(store.live(&format!("verify-{}-{}", locked.key.short(), std::process::id()))?);
        for up in results.values() {
            live.uses(&up.key).map_err(|source| EngineError::System {
                what: "the run cannot note what it uses".to_owned(),
                source,
            })?;
        }
        drop(shared);
        let planned = &pipeline.stages[at];
        let scratch = Scratch(store.workspace().scratch_dir().join(format!(
            "verify-{}-{}",
            locked.key.short(),
            std::process::id()
        )));
        let job = Job {
            id: stage.clone(),
            stage: Arc::clone(&planned.stage),
            prepared: planned.prepared.clone(),
            store: store.clone(),
            live,
            pipeline_file: pipeline.file.clone(),
            directory: pipeline.directory.clone(),
            fingerprint,
            key: locked.key,
            // As a forced run: nothing that an earlier one kept may stand in for the work.
            why: vec![DirtyReason::Forced],
            inputs,
            sources: planner.sources(at).clone(),
            threads: options.threads.max(1),
            device: options.device.clone(),
            offline: options.offline,
            placement: Arc::new(Placement::new(pipeline, &options)),
            place: Place::Local,
            gpus: Vec::new(),
            host: machine::host(),
            stop: stop.clone(),
            kill: CancelToken::new(),
            alone: true,
            remote: None,
        };
        Ok(Self { job, locked, scratch })
    }

    pub fn execute(&self, sink: &dyn EventSink) -> Result<StageOutcome, EngineError> {
        execute::apart(&self.job, &self.scratch.0, sink)
            .map_err(|failure| EngineError::Failed { stage: self.job.id.clone(), failure: Box::new(failure) })
    }

    /// What `outcome` and the outputs that were written are beside the lock and the stored result.
    pub fn compare(self, store: &Store, lock: &Lock, outcome: StageOutcome) -> Result<Reexecution, EngineError> {
        let Self { job, locked, scratch } = self;
        let mut outputs = BTreeMap::new();
        for (name, artifact) in &locked.outputs {
            let made = scratch.0.join("out").join(name.as_str());
            outputs.insert(name.clone(), compare(store, artifact, &made)?);
        }
        let known = store.record(&locked.key)?;
        let record = StageRecord { outcome, ..locked.to_record(&job.id) };
        let metrics = lock.compare(&job.id, &record);
        let curves = known.map(|known| part(&known.outcome.sections, &record.outcome.sections)).unwrap_or_default();
        Ok(Reexecution { stage: job.id, outputs, metrics, curves, _scratch: scratch })
    }
}

/// Executes `stage` with the inputs and parameters that the lock names and compares outputs and metrics. Nothing of the
/// store changes.
///
/// # Errors
/// The lock has no such stage or names other parameters than the pipeline, an input is not in the store, or the stage
/// fails (as [`EngineError::Failed`]).
pub fn reexecute(
    pipeline: &Pipeline,
    store: &Store,
    lock: &Lock,
    stage: &StageId,
    options: &RunOptions,
    sink: &dyn EventSink,
    cancel: &CancelToken,
) -> Result<Reexecution, EngineError> {
    let again = Again::prepare(pipeline, store, lock, stage, options, cancel)?;
    let outcome = again.execute(sink)?;
    again.compare(store, lock, outcome)
}

fn compare(store: &Store, locked: &Artifact, made: &Utf8Path) -> Result<Comparison, EngineError> {
    let unread = |source| EngineError::System { what: format!("the new output `{made}` cannot be read"), source };
    let tree = made.is_dir();
    let (digest, entries, size) = digest_path(made).map_err(unread)?;
    let found = Artifact { kind: locked.kind, digest, size, tree };
    if found.digest == locked.digest || tree != locked.tree {
        return Ok(Comparison { locked: locked.clone(), found, first: None });
    }
    let root = store.artifact_path(locked);
    if !tree {
        let first = difference(String::new(), Some(root).filter(|path| path.is_file()), Some(made.to_owned()));
        return Ok(Comparison { locked: locked.clone(), found, first });
    }
    let Some(known) = store.tree_entries(&locked.digest)? else {
        return Ok(Comparison { locked: locked.clone(), found, first: None });
    };
    let digests = |entries: &[luthier_core::TreeEntry]| -> BTreeMap<String, (luthier_core::Digest, bool)> {
        entries.iter().map(|entry| (entry.path.clone(), (entry.digest, entry.executable))).collect()
    };
    let (old, new) = (digests(&known), digests(&entries));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let first = names.into_iter().find(|name| old.get(*name) != new.get(*name)).and_then(|name| {
        let stored = old.contains_key(name).then(|| root.join(name));
        let fresh = new.contains_key(name).then(|| made.join(name));
        difference(name.clone(), stored, fresh)
    });
    Ok(Comparison { locked: locked.clone(), found, first })
}

fn difference(path: String, stored: Option<Utf8PathBuf>, made: Option<Utf8PathBuf>) -> Option<FileDifference> {
    let (how, byte) = match (&stored, &made) {
        (Some(stored), Some(made)) => ("differs", first_byte(stored, made).ok().flatten()),
        (Some(_), None) => ("is missing now", None),
        (None, Some(_)) if path.is_empty() => return None,
        (None, Some(_)) => ("is new", None),
        (None, None) => return None,
    };
    Some(FileDifference { path, how, byte, stored, made })
}

/// Where two files part; at the end of the shorter one if it begins the other.
fn first_byte(one: &Utf8Path, other: &Utf8Path) -> std::io::Result<Option<u64>> {
    let mut one = std::io::BufReader::with_capacity(1 << 20, fs_err::File::open(one)?).bytes();
    let mut other = std::io::BufReader::with_capacity(1 << 20, fs_err::File::open(other)?).bytes();
    let mut at = 0;
    loop {
        match (one.next().transpose()?, other.next().transpose()?) {
            (None, None) => return Ok(None),
            (left, right) if left != right => return Ok(Some(at)),
            _ => at += 1,
        }
    }
}

/// The first point at which each curve of the stored result and its new self part.
fn part(stored: &[Section], found: &[Section]) -> Vec<CurveDifference> {
    let curves = |sections: &[Section]| -> BTreeMap<String, Vec<(f64, f64)>> {
        let plots = sections.iter().filter_map(|section| match section {
            Section::Plot { title, series, .. } => Some((title, series)),
            _ => None,
        });
        plots
            .flat_map(|(title, series)| {
                series.iter().map(move |line| (format!("{title}: {}", line.name), line.points.clone()))
            })
            .collect()
    };
    let (stored, found) = (curves(stored), curves(found));
    let mut parted = Vec::new();
    for (name, old) in &stored {
        let Some(new) = found.get(name) else { continue };
        let at = (0..old.len().max(new.len())).find(|at| {
            let bits = |point: Option<&(f64, f64)>| point.map(|(x, y)| (x.to_bits(), y.to_bits()));
            bits(old.get(*at)) != bits(new.get(*at))
        });
        if let Some(at) = at {
            let x = old.get(at).or(new.get(at)).map_or(0.0, |(x, _)| *x);
            let value = |curve: &[(f64, f64)]| curve.get(at).map(|(_, y)| *y);
            parted.push(CurveDifference { name: name.clone(), x, stored: value(old), found: value(new) });
        }
    }
    parted
}

#[cfg(test)]
mod tests {
    use luthier_core::Series;

    use super::*;

    fn plot(title: &str, name: &str, points: &[(f64, f64)]) -> Section {
        let series = vec![Series { name: name.to_owned(), points: points.to_vec() }];
        Section::Plot { title: title.to_owned(), x_label: "step".to_owned(), y_label: String::new(), series }
    }

    #[test]
    fn curves_are_compared_to_the_last_bit() {
        let stored =
            [plot("Training", "loss", &[(1.0, 2.5), (2.0, 2.25), (3.0, 0.1 + 0.2)]), plot("Other", "x", &[(1.0, 1.0)])];
        assert_eq!(part(&stored, &stored), []);
        let drifted = [plot("Training", "loss", &[(1.0, 2.5), (2.0, 2.25), (3.0, 0.3)])];
        let parted =
            CurveDifference { name: "Training: loss".to_owned(), x: 3.0, stored: Some(0.1 + 0.2), found: Some(0.3) };
        assert_eq!(part(&stored, &drifted), [parted]);
        let shorter = [plot("Training", "loss", &[(1.0, 2.5)])];
        assert_eq!(part(&stored, &shorter)[0].x, 2.0, "a curve that ends early parts where it ends");
        assert_eq!(part(&stored, &shorter)[0].found, None);
    }

    #[test]
    fn files_part_at_their_first_byte() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| Utf8Path::from_path(directory.path()).unwrap().join(name);
        for (name, bytes) in [("a", "same start"), ("b", "same stArt"), ("c", "same"), ("d", "same start")] {
            fs_err::write(path(name), bytes).unwrap();
        }
        assert_eq!(first_byte(&path("a"), &path("b")).unwrap(), Some(7));
        assert_eq!(first_byte(&path("a"), &path("c")).unwrap(), Some(4));
        assert_eq!(first_byte(&path("a"), &path("d")).unwrap(), None);
    }
}
