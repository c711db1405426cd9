//! The decision per stage: reuse, run (and why), or blocked. Shared by `plan`, `explain` and the dispatcher.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::Utf8PathBuf;
use luthier_core::{Artifact, ArtifactName, Digest, Prepared, ResolvedSource, ShardCache, SourceKind, StageId};

use super::select::{Layout, Selection};
use super::{Action, RunOptions, RunPlan};
use crate::error::{EngineError, SourceProblem};
use crate::fingerprint::{self, DirtyReason, Fingerprint, InputPrint, Locate, Origin, digest_source};
use crate::pipeline::Pipeline;
use crate::store::{Health, StageRecord, Store};

/// What is known about a stage whose inputs are known.
pub(crate) enum Settled {
    Reuse(Arc<StageRecord>),
    Run { fingerprint: Box<Fingerprint>, key: Digest, why: Vec<DirtyReason> },
}

/// What is known about a stage before anything runs.
pub(crate) enum Standing {
    /// Neither selected nor read by a selected stage.
    Unneeded,
    Reuse(Arc<StageRecord>),
    /// Its inputs are known.
    Ready {
        fingerprint: Box<Fingerprint>,
        key: Digest,
        why: Vec<DirtyReason>,
    },
    /// A stage it reads will run first.
    Waiting {
        why: Vec<DirtyReason>,
    },
    /// Not selected, yet read by a selected stage and not up to date.
    Stale,
    Blocked {
        by: usize,
    },
}

/// Source files of one stage, hashed.
pub(crate) type Sources = BTreeMap<String, ResolvedSource>;

/// Outputs found missing or damaged, by stage.
type Ailments = BTreeMap<usize, BTreeMap<ArtifactName, Health>>;

pub(crate) struct Planner<'a> {
    pub pipeline: &'a Pipeline,
    pub store: &'a Store,
    pub layout: Layout,
    pub selection: Selection,
    latest: BTreeMap<StageId, Arc<StageRecord>>,
    sources: Vec<Sources>,
    ailing: RefCell<Ailments>,
}

impl<'a> Planner<'a> {
    /// Reads the index and hashes the sources of every stage that matters.
    pub fn new(pipeline: &'a Pipeline, store: &'a Store, options: &RunOptions) -> Result<Self, EngineError> {
        let layout = Layout::new(pipeline);
        let selection = Selection::new(pipeline, &layout, options)?;
        let chosen: Vec<usize> = (0..pipeline.stages.len()).filter(|at| selection.selected[*at]).collect();
        let needed = layout.up(&chosen);
        let sources = hash_sources(pipeline, store, &needed)?;
        let latest = store.latest(pipeline)?.into_iter().map(|(id, record)| (id, Arc::new(record))).collect();
        Ok(Self { pipeline, store, layout, selection, latest, sources, ailing: RefCell::default() })
    }

    /// The selected stages and all that they need, in topological order.
    pub fn needed(&self) -> BTreeSet<usize> {
        let chosen: Vec<usize> = (0..self.pipeline.stages.len()).filter(|at| self.selection.selected[*at]).collect();
        self.layout.up(&chosen)
    }

    pub fn sources(&self, at: usize) -> &Sources {
        &self.sources[at]
    }

    pub fn latest(&self, stage: &StageId) -> Option<&Arc<StageRecord>> {
        self.latest.get(stage)
    }

    pub fn estimate(&self, at: usize) -> Option<f64> {
        self.latest(&self.pipeline.stages[at].id).map(|record| record.seconds)
    }

    /// Everything but the inputs.
    pub fn fixed_print(&self, at: usize) -> Fingerprint {
        let planned = &self.pipeline.stages[at];
        Fingerprint {
            version: fingerprint::FORMAT,
            kind: planned.stage.kind().to_owned(),
            recipe: planned.stage.recipe_version(),
            config: planned.prepared.key.clone(),
            inputs: BTreeMap::new(),
            sources: self.sources[at].iter().map(|(label, source)| (label.clone(), source.digest)).collect(),
            env: planned.env.iter().map(|(name, value)| (name.clone(), Digest::of(value.as_bytes()))).collect(),
            numeric_class: planned.prepared.numeric_class.clone(),
        }
    }

    fn origin<'b>(&self, at: usize, locate: Locate<'b>) -> Origin<'b> {
        let planned = &self.pipeline.stages[at];
        Origin {
            location: Some(locate),
            source_paths: planned
                .prepared
                .sources
                .iter()
                .map(|source| (source.label.clone(), source.path.clone()))
                .collect(),
            input_names: planned
                .inputs
                .iter()
                .map(|(port, from)| (port.clone(), from.iter().map(|one| one.to_string()).collect()))
                .collect(),
        }
    }

    /// The artifact of every input, once all upstream results are known.
    pub fn inputs(
        &self,
        at: usize,
        results: &BTreeMap<usize, Arc<StageRecord>>,
    ) -> BTreeMap<String, Vec<(String, Artifact)>> {
        let planned = &self.pipeline.stages[at];
        let artifact = |from: &crate::pipeline::OutputRef| {
            let place = self.layout.place.get(&from.stage)?;
            let artifact = results.get(place)?.outputs.get(&from.output)?;
            Some((from.to_string(), artifact.clone()))
        };
        planned.inputs.iter().map(|(port, from)| (port.clone(), from.iter().filter_map(artifact).collect())).collect()
    }

    /// What decides about the output of a stage whose upstream results are all known.
    pub fn print(&self, at: usize, results: &BTreeMap<usize, Arc<StageRecord>>) -> Fingerprint {
        let planned = &self.pipeline.stages[at];
        let mut fingerprint = self.fixed_print(at);
        for (port, artifacts) in self.inputs(at, results) {
            // Stages label what they gather, so there a name can reach the output.
            let named =
                artifacts.len() > 1 || planned.stage.inputs().iter().any(|known| known.name == port && known.many);
            let prints = artifacts
                .into_iter()
                .map(|(name, artifact)| InputPrint {
                    kind: artifact.kind,
                    digest: artifact.digest,
                    name: named.then_some(name),
                })
                .collect();
            fingerprint.inputs.insert(port, prints);
        }
        fingerprint
    }

    /// Decides about a stage whose upstream results are all known.
    pub fn settle(&self, at: usize, results: &BTreeMap<usize, Arc<StageRecord>>) -> Result<Settled, EngineError> {
        let planned = &self.pipeline.stages[at];
        let fingerprint = self.print(at, results);
        let key = fingerprint.digest();
        let latest = self.latest(&planned.id);
        let known = match latest {
            Some(record) if record.key == key => Some(Arc::clone(record)),
            Some(record)
                if record.fingerprint.version != fingerprint.version && record.fingerprint.same(&fingerprint) =>
            {
                Some(Arc::clone(record))
            }
            _ => self.store.record(&key)?.map(Arc::new),
        };
        let mut why = Vec::new();
        if self.selection.forced[at] {
            why.push(DirtyReason::Forced);
        }
        if let Some(record) = known {
            why.extend(self.ailments(at, &record)?);
            if why.is_empty() {
                return Ok(Settled::Reuse(record));
            }
        } else if let Some(record) = latest {
            let locate = |path: &str| Some(planned.location_of(path));
            why.extend(record.fingerprint.diff(&fingerprint, &self.origin(at, &locate)));
        }
        if why.is_empty() {
            why.push(DirtyReason::FirstRun);
        }
        Ok(Settled::Run { fingerprint: Box::new(fingerprint), key, why })
    }

    fn ailments(&self, at: usize, record: &StageRecord) -> Result<Vec<DirtyReason>, EngineError> {
        let mut reasons = Vec::new();
        let ailing = self.ailing.borrow();
        for declared in &self.pipeline.stages[at].prepared.outputs {
            let output = declared.name.clone();
            let health = match (record.outputs.get(&output), ailing.get(&at).and_then(|known| known.get(&output))) {
                (None, _) => Health::Missing,
                (_, Some(health)) => *health,
                (Some(artifact), None) => self.store.glance(artifact)?,
            };
            match health {
                Health::Good => {}
                Health::Missing => reasons.push(DirtyReason::OutputMissing { output }),
                Health::Damaged => reasons.push(DirtyReason::Corrupt { output }),
            }
        }
        Ok(reasons)
    }

    /// Looks at every file of a result that a running stage is about to read; true if all is well.
    pub fn examine(&self, at: usize, record: &StageRecord) -> Result<bool, EngineError> {
        let mut well = true;
        for (name, artifact) in &record.outputs {
            let health = self.store.examine(artifact)?;
            if health != Health::Good {
                well = false;
                self.ailing.borrow_mut().entry(at).or_default().insert(name.clone(), health);
            }
        }
        Ok(well)
    }

    /// The result of `at` was made anew.
    pub fn healed(&self, at: usize) {
        self.ailing.borrow_mut().remove(&at);
    }

    /// Decides about every stage as far as that is possible before anything runs.
    pub fn standings(&self) -> Result<Vec<Standing>, EngineError> {
        let count = self.pipeline.stages.len();
        let chosen: Vec<usize> = (0..count).filter(|at| self.selection.selected[*at]).collect();
        let needed = self.layout.up(&chosen);
        let mut examined: BTreeSet<usize> = BTreeSet::new();
        loop {
            let standings = self.pass(&needed)?;
            let mut sick = false;
            for at in &needed {
                let Standing::Reuse(record) = &standings[*at] else { continue };
                let read = self.layout.readers[*at]
                    .iter()
                    .any(|reader| matches!(standings[*reader], Standing::Ready { .. } | Standing::Waiting { .. }));
                if read && examined.insert(*at) && !self.examine(*at, record)? {
                    sick = true;
                }
            }
            if !sick {
                return Ok(standings);
            }
        }
    }

    fn pass(&self, needed: &BTreeSet<usize>) -> Result<Vec<Standing>, EngineError> {
        let mut standings: Vec<Standing> = Vec::with_capacity(self.pipeline.stages.len());
        let mut results: BTreeMap<usize, Arc<StageRecord>> = BTreeMap::new();
        for at in 0..self.pipeline.stages.len() {
            let selected = self.selection.selected[at];
            let standing = if !needed.contains(&at) {
                Standing::Unneeded
            } else if let Some(up) = self.layout.reads[at]
                .iter()
                .find(|up| matches!(standings[**up], Standing::Blocked { .. } | Standing::Stale))
            {
                if selected { Standing::Blocked { by: *up } } else { Standing::Stale }
            } else {
                let running: Vec<usize> = self.layout.reads[at]
                    .iter()
                    .copied()
                    .filter(|up| matches!(standings[*up], Standing::Ready { .. } | Standing::Waiting { .. }))
                    .collect();
                if !running.is_empty() {
                    if selected { Standing::Waiting { why: self.foresee(at, &running) } } else { Standing::Stale }
                } else {
                    match self.settle(at, &results)? {
                        Settled::Reuse(record) => {
                            results.insert(at, Arc::clone(&record));
                            Standing::Reuse(record)
                        }
                        Settled::Run { .. } if !selected => Standing::Stale,
                        Settled::Run { fingerprint, key, why } => Standing::Ready { fingerprint, key, why },
                    }
                }
            };
            standings.push(standing);
        }
        Ok(standings)
    }

    /// Reasons that are known although the inputs are not.
    fn foresee(&self, at: usize, running: &[usize]) -> Vec<DirtyReason> {
        let planned = &self.pipeline.stages[at];
        let mut why = Vec::new();
        if self.selection.forced[at] {
            why.push(DirtyReason::Forced);
        }
        let Some(record) = self.latest(&planned.id) else {
            why.push(DirtyReason::FirstRun);
            return why;
        };
        let locate = |path: &str| Some(planned.location_of(path));
        why.extend(record.fingerprint.diff_without_inputs(&self.fixed_print(at), &self.origin(at, &locate)));
        why.extend(running.iter().map(|up| DirtyReason::UpstreamRuns { stage: self.pipeline.stages[*up].id.clone() }));
        why
    }

    /// What a stage that runs for these reasons will do, where results of parts of it spare it some of the work.
    fn how(&self, at: usize, why: &[DirtyReason]) -> Option<String> {
        let planned = &self.pipeline.stages[at];
        let record = self.latest(&planned.id)?;
        let parameters = why.iter().all(|reason| matches!(reason, DirtyReason::ConfigChanged { .. }));
        let kept = || ShardCache::directory(&self.store.workspace().cache_dir()).exists();
        if !parameters || !kept() {
            return None;
        }
        planned.stage.rerun(&record.fingerprint.config, &planned.prepared.key)
    }

    /// The plan as people and programs read it.
    pub fn plan(&self, standings: &[Standing]) -> RunPlan {
        let id = |at: usize| self.pipeline.stages[at].id.clone();
        let stages = standings
            .iter()
            .enumerate()
            .filter(|(at, _)| self.selection.selected[*at])
            .filter_map(|(at, standing)| {
                let estimate_seconds = self.estimate(at);
                let action = match standing {
                    Standing::Unneeded | Standing::Stale => return None,
                    Standing::Reuse(record) => Action::Reuse { key: record.key },
                    Standing::Ready { key, why, .. } => {
                        Action::Run { why: why.clone(), how: self.how(at, why), estimate_seconds, key: Some(*key) }
                    }
                    Standing::Waiting { why } => {
                        Action::Run { why: why.clone(), how: None, estimate_seconds, key: None }
                    }
                    Standing::Blocked { by } => Action::Blocked { by: id(*by) },
                };
                Some((id(at), action))
            })
            .collect();
        RunPlan { stages }
    }
}

/// Hashes every source once, however many stages name it; all problems at once.
fn hash_sources(pipeline: &Pipeline, store: &Store, needed: &BTreeSet<usize>) -> Result<Vec<Sources>, EngineError> {
    let mut seen: BTreeMap<(Utf8PathBuf, bool), Result<Digest, String>> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut all = Vec::with_capacity(pipeline.stages.len());
    for (at, planned) in pipeline.stages.iter().enumerate() {
        let mut sources = Sources::new();
        for source in planned.prepared.sources.iter().filter(|_| needed.contains(&at)) {
            let path = absolute(&pipeline.directory.join(&source.path));
            let digest = seen
                .entry((path.clone(), source.kind == SourceKind::Tree))
                .or_insert_with(|| digest_source(&path, source.kind, store.memo()).map_err(|error| describe(&error)));
            match digest {
                Ok(digest) => {
                    sources.insert(source.label.clone(), ResolvedSource { path, digest: *digest });
                }
                Err(problem) => problems.push(SourceProblem {
                    stage: planned.id.clone(),
                    label: source.label.clone(),
                    path: source.path.clone(),
                    location: Some(planned.location_of(&source.config_path)),
                    problem: problem.clone(),
                }),
            }
        }
        all.push(sources);
    }
    if problems.is_empty() { Ok(all) } else { Err(EngineError::Sources(problems)) }
}

fn describe(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a directory, and a file is expected".to_owned(),
        std::io::ErrorKind::NotADirectory => "is not a directory, and one is expected".to_owned(),
        std::io::ErrorKind::PermissionDenied => "may not be read".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

fn absolute(path: &camino::Utf8Path) -> Utf8PathBuf {
    std::path::absolute(path)
        .ok()
        .and_then(|path| Utf8PathBuf::from_path_buf(path).ok())
        .unwrap_or_else(|| path.to_owned())
}

/// Whether the sources of a stage still are what the key says, after it has read them.
pub(crate) fn changed_source(prepared: &Prepared, sources: &Sources, store: &Store) -> Option<Utf8PathBuf> {
    prepared.sources.iter().find_map(|source| {
        let resolved = sources.get(&source.label)?;
        let now = digest_source(&resolved.path, source.kind, store.memo()).ok();
        (now != Some(resolved.digest)).then(|| source.path.clone())
    })
}

/// Says what a run would do, and why.
///
/// # Errors
/// An unknown stage name, a source that cannot be read, or a store that cannot be.
pub fn plan(pipeline: &Pipeline, store: &Store, options: &RunOptions) -> Result<RunPlan, EngineError> {
    let planner = Planner::new(pipeline, store, options)?;
    let standings = planner.standings()?;
    store.memo().save();
    Ok(planner.plan(&standings))
}
