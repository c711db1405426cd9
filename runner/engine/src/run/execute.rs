//! One execution of one stage: claim the key, prepare the scratch directory, execute, store.
//!
//! Runs on a blocking thread. Everything it reports goes through a channel to the dispatcher.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{
    Artifact, ArtifactName, CancelToken, Digest, ErrorClass, EventSink, InputArtifact, Prepared, Stage, StageError,
    StageEvent, StageId, StageOutcome, StageRequest, quoted,
};

use super::jobs::{self, JobNote};
use super::placement::{Place, Placement};
use super::planner::{Sources, changed_source};
use super::{Remote, StageFailure, Wanted, child, clock, guard, machine};
use crate::fingerprint::{DirtyReason, Fingerprint};
use crate::store::{LiveRun, StageRecord, Store, StoreError};

/// Everything an execution needs, owned, so that it can move to a thread.
pub(crate) struct Job {
    pub id: StageId,
    pub stage: Arc<dyn Stage>,
    pub prepared: Prepared,
    pub store: Store,
    pub live: Arc<LiveRun>,
    pub pipeline_file: Utf8PathBuf,
    pub directory: Utf8PathBuf,
    pub fingerprint: Fingerprint,
    pub key: Digest,
    pub why: Vec<DirtyReason>,
    pub inputs: BTreeMap<String, Vec<(String, Artifact)>>,
    pub sources: Sources,
    pub threads: usize,
    pub device: String,
    pub offline: bool,
    pub placement: Arc<Placement>,
    pub place: Place,
    /// Accelerators that the stage has to itself.
    pub gpus: Vec<String>,
    pub host: String,
    /// Checkpoint and stop.
    pub stop: CancelToken,
    /// End at once.
    pub kill: CancelToken,
    /// No other stage of this process runs, so memory can be measured for this one alone.
    pub alone: bool,
    /// Who may have made the same already.
    pub remote: Option<Arc<dyn Remote>>,
}

/// What came of it.
pub(crate) enum Executed {
    Ran(Box<StageRecord>),
    /// Another process made the result while this one waited, or another machine before.
    Reused(Box<StageRecord>),
}

/// A device with fewer free bytes is full.
const FULL: u64 = 64 << 10;

/// The version of [`StageRequest`].
pub(crate) const REQUEST_FORMAT: u32 = 1;

impl From<StoreError> for StageFailure {
    fn from(error: StoreError) -> Self {
        Self {
            causes: super::failure::causes(&error),
            hints: error.hints(),
            ..Self::new(ErrorClass::Store, error.code(), error.to_string())
        }
    }
}

/// Executes the job and stores its result.
pub(crate) fn execute(job: &Job, sink: &dyn EventSink, waiting: &mut dyn FnMut()) -> Result<Executed, StageFailure> {
    let Some(claim) = job.store.claim(&job.key, &job.stop, waiting)? else {
        return Err((&StageError::interrupted()).into());
    };
    if (claim.waited || !needs_anew(&job.why))
        && let Some(record) = made_meanwhile(job)?
    {
        return Ok(Executed::Reused(Box::new(record)));
    }
    if let Some(record) = made_elsewhere(job, sink)? {
        return Ok(Executed::Reused(Box::new(record)));
    }
    let scratch = job.store.workspace().scratch_dir().join(job.key.hex());
    let found = recover(job, &scratch)?;
    if found.is_none() {
        if !super::wire::wait_until_free(&scratch, &job.stop) {
            return Err((&StageError::interrupted()).into());
        }
        prepare(job, &scratch)?;
    }
    let (started, clock) = (SystemTime::now(), Instant::now());
    let result = attempt(job, &scratch, sink, found);
    let seconds = clock.elapsed().as_secs_f64();
    let (outcome, peak_memory) = match result {
        Ok(done) => done,
        Err(failure) => {
            let failure = blame_the_disk(failure, job);
            if failure.code != jobs::LOST {
                tidy(&scratch, true);
            }
            return Err(failure);
        }
    };
    match keep(job, &scratch, outcome, (seconds, clock::rfc3339_millis(started), peak_memory)) {
        Ok(record) => {
            tidy(&scratch, false);
            drop(claim);
            Ok(Executed::Ran(Box::new(record)))
        }
        Err(failure) => {
            tidy(&scratch, true);
            Err(failure)
        }
    }
}

/// Whether a result that is there does not count.
fn needs_anew(why: &[DirtyReason]) -> bool {
    why.iter().any(|reason| {
        matches!(reason, DirtyReason::Forced | DirtyReason::OutputMissing { .. } | DirtyReason::Corrupt { .. })
    })
}

/// Executes the job in a directory of its own and leaves its outputs there; the store stays as it is.
pub(crate) fn apart(job: &Job, scratch: &Utf8Path, sink: &dyn EventSink) -> Result<StageOutcome, StageFailure> {
    prepare(job, scratch)?;
    attempt(job, scratch, sink, None).map(|(outcome, _)| outcome)
}

fn made_meanwhile(job: &Job) -> Result<Option<StageRecord>, StageFailure> {
    let _shared = job.store.share()?;
    let Some(record) = job.store.record(&job.key)? else { return Ok(None) };
    for declared in &job.prepared.outputs {
        let Some(artifact) = record.outputs.get(&declared.name) else { return Ok(None) };
        if job.store.glance(artifact)? != crate::store::Health::Good {
            return Ok(None);
        }
    }
    job.live.uses(&job.key).map_err(|error| StageFailure::from(&StageError::from(error)))?;
    job.store.index_record(&job.pipeline_file, &job.id, &record)?;
    Ok(Some(record))
}

/// Brings the result from the remote, if it is there.
fn made_elsewhere(job: &Job, sink: &dyn EventSink) -> Result<Option<StageRecord>, StageFailure> {
    let Some(remote) = &job.remote else { return Ok(None) };
    let wanted = Wanted { stage: job.id.clone(), key: job.key, locked: None };
    let shipment = remote.pull(&job.store, &[wanted], &job.stop);
    for problem in shipment.problems {
        let causes: Vec<String> = std::iter::once(problem.failure.message).chain(problem.failure.causes).collect();
        let hint = problem.failure.hints.into_iter().next();
        sink.emit(StageEvent::Warning { message: causes.join(": "), hint });
    }
    if shipment.stages.is_empty() { Ok(None) } else { made_meanwhile(job) }
}

/// Makes `out` and `tmp` empty; `checkpoint` keeps what an earlier try left.
fn prepare(job: &Job, scratch: &Utf8Path) -> Result<(), StageFailure> {
    let make = || -> std::io::Result<()> {
        job.store.workspace().create()?;
        for name in ["out", "tmp"] {
            let path = scratch.join(name);
            if path.exists() {
                fs_err::remove_dir_all(&path)?;
            }
            fs_err::create_dir_all(&path)?;
        }
        fs_err::create_dir_all(scratch.join("checkpoint"))?;
        fs_err::create_dir_all(job.store.workspace().cache_dir())
    };
    make().map_err(|error| {
        StoreError::sort(job.store.workspace().root(), "the scratch directory cannot be made", error).into()
    })
}

/// A program that found the disk full rarely says so in a way that helps.
fn blame_the_disk(failure: StageFailure, job: &Job) -> StageFailure {
    let root = job.store.workspace().root();
    if failure.class != ErrorClass::Stage || machine::free_bytes(root).is_none_or(|free| free > FULL) {
        return failure;
    }
    let full = StoreError::sort(root, "", std::io::ErrorKind::StorageFull.into());
    let mut hints = full.hints();
    hints.extend(failure.hints);
    let causes = std::iter::once(failure.message).chain(failure.causes).collect();
    StageFailure {
        causes,
        hints,
        log: failure.log,
        ..StageFailure::new(ErrorClass::Store, full.code(), full.to_string())
    }
}

/// Removes scratch; after a failure the checkpoint stays, if there is one.
fn tidy(scratch: &Utf8Path, failed: bool) {
    let checkpoint = scratch.join("checkpoint");
    let kept = failed && fs_err::read_dir(&checkpoint).is_ok_and(|mut entries| entries.next().is_some());
    let removed = if kept {
        fs_err::remove_dir_all(scratch.join("out")).and_then(|()| fs_err::remove_dir_all(scratch.join("tmp")))
    } else {
        fs_err::remove_dir_all(scratch)
    };
    if let Err(error) = removed {
        tracing::debug!("scratch was not removed: {error}");
    }
}

/// The job of an earlier run that executes this key; jobs that execute the same stage under another key are ended.
fn recover(job: &Job, scratch: &Utf8Path) -> Result<Option<String>, StageFailure> {
    let others = |spec: &luthier_core::ExecutorSpec| job.placement.follower(spec);
    let root = job.store.workspace().root();
    let follower = match &job.place {
        Place::Remote { follower, .. } => Some(follower),
        _ => None,
    };
    let found = jobs::recover(scratch, root, &job.key, &job.id, follower, &others)?;
    let Ok(entries) = fs_err::read_dir(job.store.workspace().scratch_dir()) else { return Ok(found) };
    for entry in entries.flatten() {
        let Ok(path) = Utf8PathBuf::from_path_buf(entry.path()) else { continue };
        let Some(key) = path.file_name().and_then(|name| name.parse::<Digest>().ok()) else { continue };
        let Some(note) = JobNote::read(&path).filter(|_| key != job.key) else { continue };
        if note.stage != job.id || note.pipeline != job.pipeline_file {
            continue;
        }
        // A runner that follows it holds its key; a cancelled token makes this a single try.
        let once = CancelToken::new();
        once.cancel();
        if let Some(_claim) = job.store.claim(&key, &once, &mut || {})? {
            jobs::supersede(&note, &path, &others)?;
        }
    }
    Ok(found)
}

fn attempt(
    job: &Job,
    scratch: &Utf8Path,
    sink: &dyn EventSink,
    found: Option<String>,
) -> Result<(StageOutcome, u64), StageFailure> {
    let request = request(job, scratch);
    let done = match &job.place {
        Place::Local => {
            if job.alone {
                machine::reset_peak();
            }
            let outcome = guard::run(job.stage.as_ref(), request, sink, job.stop.clone())?;
            (outcome, machine::peak_memory())
        }
        Place::Child { program } => {
            let memory = job.prepared.resources.memory;
            let leash = child::Leash { sink, stop: &job.stop, kill: &job.kill, memory, gpus: &job.gpus };
            child::run(program, &request, &leash)?
        }
        Place::Remote { program, follower } => {
            let errand = jobs::Errand {
                program,
                request: &request,
                resources: job.prepared.resources,
                pipeline: &job.pipeline_file,
                key: &job.key,
                root: job.store.workspace().root(),
                sink,
                prepare: &|| prepare(job, scratch),
                stop: &job.stop,
                kill: &job.kill,
            };
            jobs::run(follower, &errand, found)?
        }
    };
    if let Some(path) = changed_source(&job.prepared, &job.sources, &job.store) {
        return Err(StageFailure::new(
            ErrorClass::Stage,
            "run::source_changed",
            format!("source `{path}` changed while the stage ran, so its result belongs to neither state"),
        )
        .hint("run again"));
    }
    Ok(done)
}

fn request(job: &Job, scratch: &Utf8Path) -> StageRequest {
    let inputs = job
        .inputs
        .iter()
        .map(|(port, artifacts)| {
            let artifacts = artifacts
                .iter()
                .map(|(from, artifact)| InputArtifact {
                    from: from.clone(),
                    kind: artifact.kind,
                    digest: artifact.digest,
                    path: job.store.artifact_path(artifact),
                })
                .collect();
            (port.clone(), artifacts)
        })
        .collect();
    StageRequest {
        version: REQUEST_FORMAT,
        stage: job.id.clone(),
        kind: job.stage.kind().to_owned(),
        config: job.prepared.config.clone(),
        inputs,
        sources: job.sources.clone(),
        outputs: job.prepared.outputs.clone(),
        scratch: scratch.to_owned(),
        cache: job.store.workspace().cache_dir(),
        directory: job.directory.clone(),
        threads: job.threads,
        device: job.device.clone(),
        offline: job.offline,
        fresh: job.why.iter().any(|why| matches!(why, DirtyReason::Forced)),
    }
}

/// Checks that what was declared was written and nothing else, and stores it; the record last.
fn keep(
    job: &Job,
    scratch: &Utf8Path,
    outcome: StageOutcome,
    (seconds, started, peak_memory): (f64, String, u64),
) -> Result<StageRecord, StageFailure> {
    let out = scratch.join("out");
    let list = || -> std::io::Result<BTreeSet<String>> {
        fs_err::read_dir(&out)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let written = list().map_err(|error| {
        StageFailure::from(StoreError::sort(job.store.workspace().root(), "the outputs cannot be listed", error))
    })?;
    let declared: BTreeSet<String> = job.prepared.outputs.iter().map(|output| output.name.to_string()).collect();
    let kind = job.stage.kind();
    if !declared.is_subset(&written) {
        let missing = quoted(declared.difference(&written));
        return Err(StageFailure::new(
            ErrorClass::Stage,
            "run::output_missing",
            format!("the stage ended without writing its declared output {missing}"),
        )
        .hint(missing_hint(kind)));
    }
    if !written.is_subset(&declared) {
        let extra = quoted(written.difference(&declared));
        return Err(StageFailure::new(
            ErrorClass::Stage,
            "run::output_undeclared",
            format!("the stage wrote {extra}, which it does not declare as an output"),
        )
        .hint("declare it under `outputs:`, or write it to the temporary directory"));
    }
    let _shared = job.store.share()?;
    let mut outputs: BTreeMap<ArtifactName, Artifact> = BTreeMap::new();
    for output in &job.prepared.outputs {
        outputs.insert(output.name.clone(), job.store.import(&out.join(output.name.as_str()), output.kind)?);
    }
    let record = StageRecord {
        version: StageRecord::FORMAT,
        stage: job.id.clone(),
        key: job.key,
        fingerprint: job.fingerprint.clone(),
        outputs,
        outcome,
        why: job.why.clone(),
        seconds,
        started,
        peak_memory,
        host: job.host.clone(),
    };
    job.store.file_record(&record)?;
    job.live.uses(&job.key).map_err(|error| StageFailure::from(&StageError::from(error)))?;
    job.store.index_record(&job.pipeline_file, &job.id, &record)?;
    Ok(record)
}

fn missing_hint(kind: &str) -> String {
    if kind == "command" {
        "write it to `${out.NAME}`, or take it out of `outputs:`".to_owned()
    } else {
        format!("this is a defect of the stage kind `{kind}`; please report it with the pipeline file")
    }
}
