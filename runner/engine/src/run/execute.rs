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

use super::planner::{Sources, changed_source};
use super::{Executor, Remote, StageFailure, Wanted, child, clock, guard, machine};
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
    pub executor: Executor,
    pub host: String,
    pub cancel: CancelToken,
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
    let Some(claim) = job.store.claim(&job.key, &job.cancel, waiting)? else {
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
    prepare(job, &scratch)?;
    let (started, clock) = (SystemTime::now(), Instant::now());
    let result = attempt(job, &scratch, sink);
    let seconds = clock.elapsed().as_secs_f64();
    let (outcome, peak_memory) = match result {
        Ok(done) => done,
        Err(failure) => {
            let failure = blame_the_disk(failure, job);
            tidy(&scratch, true);
            return Err(failure);
        }
    };
    match keep(job, &scratch, outcome, (seconds, clock::rfc3339(started), peak_memory)) {
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
    attempt(job, scratch, sink).map(|(outcome, _)| outcome)
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
    let shipment = remote.pull(&job.store, &[wanted], &job.cancel);
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

fn attempt(job: &Job, scratch: &Utf8Path, sink: &dyn EventSink) -> Result<(StageOutcome, u64), StageFailure> {
    let request = request(job, scratch);
    let done = match &job.executor {
        Executor::Local => {
            if job.alone {
                machine::reset_peak();
            }
            let outcome = guard::run(job.stage.as_ref(), request, sink, job.cancel.clone())?;
            (outcome, machine::peak_memory())
        }
        Executor::Child { program } => child::run(program, &request, sink, &job.cancel)?,
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
