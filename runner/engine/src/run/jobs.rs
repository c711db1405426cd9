//! Stages that execute elsewhere: submitted as jobs, followed together, found again after the runner was killed.
//!
//! ```text
//! SCRATCH/request.json    what to execute
//!         job.json        the job's id, from its submission until it is over       JobNote
//!         events.jsonl    the job's standard output: events and the result         wire::Message
//!         job.log         its standard error
//! ```
//!
//! A job that lost its runner goes on. The next run that wants the same key follows it, or takes the result that it
//! left; a run that wants the stage with another key, or on another executor, ends it first. A job is also found by its
//! name, which says store and key, if the runner died between submitting it and noting its id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{
    BatchExecutor, CancelMode, CancelToken, Digest, ErrorClass, EventSink, ExecutorSpec, JobEnd, JobOrder, JobState,
    NullSink, Progress, Resources, StageError, StageEvent, StageId, StageOutcome, StageRequest,
};
use serde::{Deserialize, Serialize};

use super::child::system;
use super::tail::{Tail, last_lines};
use super::{StageFailure, clock, processes};

/// The code of a failure that leaves the job's fate unknown, so that nothing of it may be removed.
pub(crate) const LOST: &str = "executor::lost";

/// How long the result of a job that is over may take to appear on this side of a network file system.
const SETTLE: Duration = Duration::from_secs(5);

/// How long a job may take to end once it was told to.
const FAREWELL: Duration = Duration::from_secs(60);

/// Lines of a job's standard error that are kept for its failure.
const LOG_LINES: usize = 40;

/// `job.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JobNote {
    pub executor: ExecutorSpec,
    pub id: String,
    pub stage: StageId,
    /// The pipeline file.
    pub pipeline: Utf8PathBuf,
    /// RFC 3339, UTC.
    pub submitted: String,
}

impl JobNote {
    fn path(scratch: &Utf8Path) -> Utf8PathBuf {
        scratch.join("job.json")
    }

    /// The note of a scratch directory; one that does not parse names no job that could be followed.
    pub fn read(scratch: &Utf8Path) -> Option<Self> {
        serde_json::from_slice(&fs_err::read(Self::path(scratch)).ok()?).ok()
    }

    fn write(&self, scratch: &Utf8Path) -> Result<(), StageFailure> {
        let bytes = serde_json::to_vec(self).map_err(|error| system("the job cannot be noted", &error.into()))?;
        luthier_core::fs::write_atomic(&Self::path(scratch), &bytes)
            .map_err(|error| system("the job cannot be noted", &error))
    }

    pub fn remove(scratch: &Utf8Path) {
        let _ = fs_err::remove_file(Self::path(scratch));
    }
}

/// What the follower tells the threads that wait for jobs.
enum Heard {
    State(JobState),
    /// The executor did not answer, and will be asked again.
    Trouble(String),
    Lost(StageFailure),
}

/// One executor of a run: asks about all its jobs at once.
pub(crate) struct Follower {
    spec: ExecutorSpec,
    executor: Arc<dyn BatchExecutor>,
    desk: Mutex<Desk>,
    /// Jobs that were there before, by name.
    earlier: OnceLock<BTreeMap<String, String>>,
}

#[derive(Default)]
struct Desk {
    jobs: BTreeMap<String, mpsc::Sender<Heard>>,
    polling: bool,
}

impl processes::Endable for Follower {
    fn end(&self) {
        let jobs: Vec<String> = self.desk().jobs.keys().cloned().collect();
        if !jobs.is_empty()
            && let Err(error) = self.executor.cancel(&jobs, CancelMode::Kill)
        {
            tracing::warn!("jobs were not cancelled: {error}");
        }
    }
}

impl Follower {
    pub fn new(spec: ExecutorSpec, executor: Arc<dyn BatchExecutor>) -> Arc<Self> {
        let follower = Arc::new(Self { spec, executor, desk: Mutex::default(), earlier: OnceLock::new() });
        processes::register_other(&follower);
        follower
    }

    fn desk(&self) -> std::sync::MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// News of a job from now on. Whoever stops listening stops the questions about it.
    fn follow(self: &Arc<Self>, id: &str) -> mpsc::Receiver<Heard> {
        let (send, heard) = mpsc::channel();
        let mut desk = self.desk();
        desk.jobs.insert(id.to_owned(), send);
        if !std::mem::replace(&mut desk.polling, true) {
            let follower = Arc::clone(self);
            std::thread::spawn(move || follower.poll());
        }
        heard
    }

    fn forget(&self, id: &str) {
        self.desk().jobs.remove(id);
    }

    fn poll(&self) {
        let mut failures = 0;
        // Of a row of failures the first says what happened; a program started anew knows nothing of it.
        let mut first: Option<StageFailure> = None;
        loop {
            std::thread::sleep(self.executor.interval());
            let jobs: Vec<String> = {
                let mut desk = self.desk();
                if desk.jobs.is_empty() {
                    desk.polling = false;
                    return;
                }
                desk.jobs.keys().cloned().collect()
            };
            let answer = self.executor.poll(&jobs);
            let mut desk = self.desk();
            match answer {
                Ok(mut states) => {
                    failures = 0;
                    first = None;
                    for id in jobs {
                        let state = states.remove(&id).unwrap_or(JobState::Unknown);
                        // What has ended stays so; what is unknown may only have been overlooked.
                        let ended = matches!(state, JobState::Ended { .. });
                        if let Some(listener) = desk.jobs.get(&id) {
                            let _ = listener.send(Heard::State(state));
                        }
                        if ended {
                            desk.jobs.remove(&id);
                        }
                    }
                }
                Err(error) => {
                    failures += 1;
                    let failure = first.get_or_insert_with(|| StageFailure::from(&error)).clone();
                    let lost = failures >= self.executor.patience();
                    for listener in desk.jobs.values() {
                        let word =
                            if lost { Heard::Lost(failure.clone()) } else { Heard::Trouble(failure.to_string()) };
                        let _ = listener.send(word);
                    }
                    if lost {
                        desk.jobs.clear();
                    }
                }
            }
        }
    }

    fn earlier(&self, name: &str) -> Option<String> {
        // Without an answer nothing is found; submitting will meet the same trouble and say so.
        self.earlier.get_or_init(|| self.executor.find("luthier-").unwrap_or_default()).get(name).cloned()
    }

    /// Ends a job and waits until it is over.
    fn end_job(&self, id: &str, stage: &StageId) -> Result<(), StageFailure> {
        let jobs = [id.to_owned()];
        let state = || -> Result<JobState, StageError> {
            Ok(self.executor.poll(&jobs)?.remove(id).unwrap_or(JobState::Unknown))
        };
        let ended = || -> Result<bool, StageError> {
            if state()?.is_over() {
                return Ok(true);
            }
            self.executor.cancel(&jobs, CancelMode::Kill)?;
            let since = Instant::now();
            while since.elapsed() < FAREWELL {
                std::thread::sleep(self.executor.interval().min(Duration::from_secs(1)));
                if state()?.is_over() {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match ended() {
            Ok(true) => Ok(()),
            Ok(false) => Err(still_running(id, stage, &self.spec)),
            Err(error) => Err(StageFailure { causes: vec![error.to_string()], ..still_running(id, stage, &self.spec) }),
        }
    }
}

fn still_running(id: &str, stage: &StageId, spec: &ExecutorSpec) -> StageFailure {
    StageFailure::new(
        ErrorClass::Stage,
        LOST,
        format!("job {id} of an earlier run still executes stage `{stage}` on `{spec}` and cannot be ended"),
    )
    .hint(match spec {
        ExecutorSpec::Slurm { .. } => format!("end it with `scancel {id}` and run again"),
        _ => format!("run again with `--executor '{spec}'` to follow it, or end job {id} there"),
    })
}

/// Everything about one execution elsewhere.
pub(crate) struct Errand<'a> {
    pub program: &'a Utf8Path,
    pub request: &'a StageRequest,
    pub resources: Resources,
    pub pipeline: &'a Utf8Path,
    pub key: &'a Digest,
    /// Of the store, for the job's name.
    pub root: &'a Utf8Path,
    pub sink: &'a dyn EventSink,
    /// Empties the scratch directory but for its checkpoint.
    pub prepare: &'a dyn Fn() -> Result<(), StageFailure>,
    pub stop: &'a CancelToken,
    pub kill: &'a CancelToken,
}

impl Errand<'_> {
    fn scratch(&self) -> &Utf8Path {
        &self.request.scratch
    }

    fn stdout(&self) -> Utf8PathBuf {
        self.scratch().join("events.jsonl")
    }

    fn stderr(&self) -> Utf8PathBuf {
        self.scratch().join("job.log")
    }

    fn say(&self, line: String) {
        self.sink.emit(StageEvent::Log(line));
    }

    fn note(&self, id: String, executor: &ExecutorSpec) -> JobNote {
        JobNote {
            executor: executor.clone(),
            id,
            stage: self.request.stage.clone(),
            pipeline: self.pipeline.to_owned(),
            submitted: clock::rfc3339(SystemTime::now()),
        }
    }
}

/// The name of the job that executes a key for a store.
pub(crate) fn job_name(root: &Utf8Path, key: &Digest) -> String {
    let store = Digest::of(root.as_str().as_bytes()).hex();
    format!("luthier-{}-{}", &key.hex()[..16], &store[..8])
}

/// Finds the job of an earlier run that executes this key, if it is still there or has left a result. What another
/// executor runs is ended. Called before the scratch directory is made ready.
pub(crate) fn recover(
    scratch: &Utf8Path,
    root: &Utf8Path,
    key: &Digest,
    stage: &StageId,
    follower: Option<&Arc<Follower>>,
    others: &dyn Fn(&ExecutorSpec) -> Result<Arc<Follower>, StageFailure>,
) -> Result<Option<String>, StageFailure> {
    if let Some(note) = JobNote::read(scratch) {
        match follower {
            Some(follower) if same_system(&follower.spec, &note.executor) => return Ok(Some(note.id)),
            _ => {
                others(&note.executor)
                    .map_err(|error| StageFailure {
                        causes: vec![error.to_string()],
                        ..still_running(&note.id, stage, &note.executor)
                    })?
                    .end_job(&note.id, stage)?;
                JobNote::remove(scratch);
            }
        }
    }
    Ok(follower.and_then(|follower| follower.earlier(&job_name(root, key))))
}

/// Ends the job of an earlier run that executes the same stage under a key that is no longer wanted.
pub(crate) fn supersede(
    note: &JobNote,
    scratch: &Utf8Path,
    others: &dyn Fn(&ExecutorSpec) -> Result<Arc<Follower>, StageFailure>,
) -> Result<(), StageFailure> {
    others(&note.executor)?.end_job(&note.id, &note.stage)?;
    JobNote::remove(scratch);
    Ok(())
}

fn same_system(a: &ExecutorSpec, b: &ExecutorSpec) -> bool {
    match (a, b) {
        (ExecutorSpec::Slurm { .. }, ExecutorSpec::Slurm { .. }) => true,
        _ => a == b,
    }
}

/// Executes the request as a job, or follows the job `found` that already does; the outcome and its peak resident bytes.
pub(crate) fn run(
    follower: &Arc<Follower>,
    errand: &Errand<'_>,
    found: Option<String>,
) -> Result<(StageOutcome, u64), StageFailure> {
    if let Some(id) = found {
        // A failure that is there already is of an earlier run, and the stage is wanted again.
        let failed = matches!(Tail::new(errand.stdout()).read(&NullSink), Some(Err(_)));
        if !failed {
            errand.say(format!("following job {id}, which an earlier run submitted"));
            errand.note(id.clone(), &follower.spec).write(errand.scratch())?;
            match follow(follower, errand, &id)? {
                End::Result(result) => return finish(errand, result.map_err(|failure| stopped(errand, &id, failure))),
                End::Stopped => return finish(errand, Err((&StageError::interrupted()).into())),
                // What is left of it is a checkpoint at best, so it is done again.
                End::Gone(_) => {}
            }
        }
        JobNote::remove(errand.scratch());
        (errand.prepare)()?;
    }
    let id = submit(follower, errand)?;
    errand.say(format!("submitted as job {id} of {}", follower.spec));
    match follow(follower, errand, &id)? {
        End::Result(result) => finish(errand, result.map_err(|failure| stopped(errand, &id, failure))),
        End::Stopped => finish(errand, Err((&StageError::interrupted()).into())),
        End::Gone(state) => {
            let failure = gone(follower, errand, &id, &state);
            finish(errand, Err(failure))
        }
    }
}

/// An interruption that this run did not ask for is somebody else's.
fn stopped(errand: &Errand<'_>, id: &str, failure: StageFailure) -> StageFailure {
    if failure.class != ErrorClass::Interrupted || errand.stop.is_cancelled() {
        return failure;
    }
    StageFailure::new(ErrorClass::Stage, "run::job_cancelled", format!("job {id} was told to stop by someone else"))
        .hint("run again; the stage goes on from its checkpoint, if it has one")
}

fn finish<T>(errand: &Errand<'_>, result: Result<T, StageFailure>) -> Result<T, StageFailure> {
    JobNote::remove(errand.scratch());
    for path in [errand.stdout(), errand.scratch().join("request.json")] {
        let _ = fs_err::remove_file(path);
    }
    result.map_err(|mut failure| {
        if failure.log.is_empty() && failure.class != ErrorClass::Interrupted {
            failure.log = last_lines(&errand.stderr(), LOG_LINES);
        }
        failure
    })
}

fn submit(follower: &Follower, errand: &Errand<'_>) -> Result<String, StageFailure> {
    let file = errand.scratch().join("request.json");
    let bytes =
        serde_json::to_vec(errand.request).map_err(|error| system("the request cannot be written", &error.into()))?;
    fs_err::write(&file, bytes).map_err(|error| system("the request cannot be written", &error))?;
    for path in [errand.stdout(), errand.stderr()] {
        fs_err::write(&path, "").map_err(|error| system("the job's output cannot be prepared", &error))?;
    }
    let here = std::env::current_dir().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
    let order = JobOrder {
        name: job_name(errand.root, errand.key),
        stage: errand.request.stage.to_string(),
        argv: vec![errand.program.to_string(), "exec-stage".to_owned(), file.to_string()],
        directory: here.unwrap_or_else(|| errand.request.directory.clone()),
        stdout: errand.stdout(),
        stderr: errand.stderr(),
        resources: Resources { threads: errand.request.threads, ..errand.resources },
    };
    let id = follower.executor.submit(&order).map_err(|error| StageFailure::from(&error))?;
    errand.note(id.clone(), &follower.spec).write(errand.scratch()).inspect_err(|_| {
        let _ = follower.executor.cancel(std::slice::from_ref(&id), CancelMode::Kill);
    })?;
    Ok(id)
}

enum End {
    Result(Result<(StageOutcome, u64), StageFailure>),
    /// As it was told to, without a word of its own.
    Stopped,
    /// Over without a result.
    Gone(JobState),
}

fn follow(follower: &Arc<Follower>, errand: &Errand<'_>, id: &str) -> Result<End, StageFailure> {
    let news = follower.follow(id);
    let end = attend(follower, errand, id, &news);
    follower.forget(id);
    end
}

fn attend(
    follower: &Follower,
    errand: &Errand<'_>,
    id: &str,
    news: &mpsc::Receiver<Heard>,
) -> Result<End, StageFailure> {
    let jobs = [id.to_owned()];
    let mut output = Tail::new(errand.stdout());
    let (mut told, mut killed) = (false, false);
    let mut last: Option<JobState> = None;
    let mut over: Option<Instant> = None;
    loop {
        if let Some(result) = output.read(errand.sink) {
            return Ok(End::Result(result));
        }
        if let (Some(since), Some(state)) = (over, &last)
            && since.elapsed() > SETTLE.min(follower.executor.interval() * 2)
        {
            let stopped = errand.stop.is_cancelled() || errand.kill.is_cancelled();
            return Ok(if stopped { End::Stopped } else { End::Gone(state.clone()) });
        }
        for (token, done, mode) in
            [(errand.stop, &mut told, CancelMode::Stop), (errand.kill, &mut killed, CancelMode::Kill)]
        {
            if token.is_cancelled()
                && !std::mem::replace(done, true)
                && let Err(error) = follower.executor.cancel(&jobs, mode)
            {
                errand.sink.emit(StageEvent::Warning {
                    message: format!("job {id} was not told to stop: {error}"),
                    hint: error.hints.first().cloned(),
                });
            }
        }
        match news.recv_timeout(Duration::from_millis(50)) {
            Ok(Heard::State(state)) => {
                if last.as_ref() != Some(&state) {
                    let note = format!("job {id}: {}", describe(&state));
                    // Beside the stage's name while it has nothing of its own to show.
                    if !state.is_over() {
                        let progress = Progress { note: note.clone(), ..Progress::default() };
                        errand.sink.emit(StageEvent::Progress(progress));
                    }
                    errand.say(note);
                }
                over = if state.is_over() { over.or(Some(Instant::now())) } else { None };
                last = Some(state);
            }
            Ok(Heard::Trouble(text)) => errand.say(format!("job {id}: {text}; asking again")),
            Ok(Heard::Lost(failure)) => return Err(lost(id, failure)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            // The follower forgot the job after its last word, which was heard above.
            Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn lost(id: &str, cause: StageFailure) -> StageFailure {
    let mut failure =
        StageFailure::new(ErrorClass::Stage, LOST, format!("the executor no longer answers for job {id}"));
    failure.causes.push(cause.to_string());
    failure.causes.extend(cause.causes);
    failure.hints = cause.hints;
    failure.hint("the job may still run: run again to follow it to its end")
}

fn describe(state: &JobState) -> String {
    match state {
        JobState::Waiting { reason } if reason.is_empty() => "waiting".to_owned(),
        JobState::Waiting { reason } => format!("waiting ({reason})"),
        JobState::Running => "running".to_owned(),
        JobState::Ended { detail, .. } if detail.is_empty() => "ended".to_owned(),
        JobState::Ended { detail, .. } => format!("ended ({detail})"),
        JobState::Unknown => "no longer known to the executor".to_owned(),
    }
}

/// The failure of a job that ended without a result.
fn gone(follower: &Follower, errand: &Errand<'_>, id: &str, state: &JobState) -> StageFailure {
    let (how, detail) = match state {
        JobState::Ended { how, detail } => (Some(*how), detail.as_str()),
        _ => (None, ""),
    };
    let said = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    let stage = &errand.request.stage;
    let (code, message, hint) = match how {
        Some(JobEnd::OutOfMemory) => (
            "run::out_of_memory",
            format!("job {id} was killed for memory{said}"),
            Some(format!(
                "give stage `{stage}` more: `resources: {{memory: {}}}`",
                more_memory(errand.resources.memory)
            )),
        ),
        Some(JobEnd::OutOfTime) => (
            "run::time_limit",
            format!("job {id} ran into its time limit{said}"),
            Some(format!(
                "give stage `{stage}` more time, as in `resources: {{time: 4h}}`; a rerun goes on from its checkpoint, if it has one"
            )),
        ),
        Some(JobEnd::Cancelled) => (
            "run::job_cancelled",
            format!("job {id} was cancelled by someone else{said}"),
            Some("run again; the stage goes on from its checkpoint, if it has one".to_owned()),
        ),
        Some(JobEnd::NodeFailed) => (
            "run::node_failed",
            format!("the machine of job {id} failed{said}"),
            Some("run again, or give the stage `retries: 2`".to_owned()),
        ),
        Some(JobEnd::Exited) => (
            "run::stage_died",
            format!("job {id} ended without a result{said}"),
            Some(format!("see that `{}` and the store are on a file system that the job sees too", errand.program)),
        ),
        None => (
            "run::stage_died",
            format!("job {id} is gone without a result, and `{}` no longer knows why", follower.spec),
            Some("run again; the stage goes on from its checkpoint, if it has one".to_owned()),
        ),
    };
    let mut failure = StageFailure::new(ErrorClass::Stage, code, message);
    failure.hints.extend(hint);
    failure.log = last_lines(&errand.stderr(), LOG_LINES);
    if let Ok(lines) = follower.executor.logs(id) {
        failure.log.extend(lines);
    }
    failure
}

fn more_memory(declared: u64) -> String {
    if declared == 0 { "8GB".to_owned() } else { crate::format::bytes(declared.saturating_mul(2)).replace(' ', "") }
}
