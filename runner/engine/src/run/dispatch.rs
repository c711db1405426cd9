//! The dispatcher: the single owner of a run's state. Executions run on blocking threads and report over one channel,
//! so events have one order and no state is shared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use luthier_core::{CancelToken, Digest, ErrorClass, EventSink, StageError, StageEvent, StageId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::emitter::Emitter;
use super::execute::{Executed, Job, execute};
use super::placement::Placement;
use super::planner::{Planner, Settled, Standing};
use super::share::Sharing;
use super::tokens::{Grant, Tokens};
use super::{RunEvent, RunOptions, RunStatus, StageFailure, StageResult, machine};
use crate::error::EngineError;
use crate::fingerprint::{DirtyReason, Fingerprint};
use crate::lock::{Lock, LockDifference};
use crate::store::{LiveRun, StageRecord};

/// How often a ready stage may be passed over by smaller ones behind it.
const PATIENCE: u32 = 16;

/// How long a stage may take to checkpoint after its time is up.
const GRACE: Duration = Duration::from_secs(30);

/// How often cancellation is looked at.
const TICK: Duration = Duration::from_millis(50);

struct Ready {
    fingerprint: Fingerprint,
    key: Digest,
    why: Vec<DirtyReason>,
    attempt: u32,
    passed_over: u32,
}

struct Running {
    ready: Box<Ready>,
    grant: Grant,
    stop: CancelToken,
    kill: CancelToken,
    /// When it has had its time, if that is limited here.
    until: Option<Instant>,
    overdue: bool,
}

enum State {
    Unneeded,
    /// Some stage it reads has yet to end.
    Pending,
    Ready(Box<Ready>),
    Running(Box<Running>),
    Ended,
}

enum Message {
    Waiting(usize),
    Event(usize, StageEvent),
    Ended(usize, Box<Result<Executed, StageFailure>>),
    Retry(usize),
}

/// Sends a stage's events to the dispatcher.
struct ChannelSink {
    at: usize,
    sender: UnboundedSender<Message>,
}

impl EventSink for ChannelSink {
    fn emit(&self, event: StageEvent) {
        // The dispatcher outlives all executions.
        let _ = self.sender.send(Message::Event(self.at, event));
    }
}

pub(crate) struct Dispatch<'a> {
    pub planner: Planner<'a>,
    pub options: &'a RunOptions,
    pub emitter: &'a mut Emitter,
    pub cancel: CancelToken,
    pub live: Arc<LiveRun>,
    /// With `--locked`: what results must equal.
    pub lock: Option<&'a Lock>,
    pub differences: Vec<LockDifference>,
    pub sharing: Option<Sharing>,
    pub results: BTreeMap<usize, Arc<StageRecord>>,
    pub report: BTreeMap<usize, StageResult>,
    placement: Arc<Placement>,
    states: Vec<State>,
    /// Places of the states that are `Ready`.
    ready: BTreeSet<usize>,
    /// Per stage, how many of the stages it reads have no result yet.
    missing: Vec<usize>,
    tokens: Tokens,
    running: usize,
    sleeping: usize,
    /// No further stage is started.
    stopping: bool,
    host: String,
    sender: UnboundedSender<Message>,
    receiver: UnboundedReceiver<Message>,
}

impl<'a> Dispatch<'a> {
    pub fn new(
        planner: Planner<'a>,
        options: &'a RunOptions,
        emitter: &'a mut Emitter,
        cancel: CancelToken,
        live: Arc<LiveRun>,
        lock: Option<&'a Lock>,
        placement: Arc<Placement>,
    ) -> Self {
        let (sender, receiver) = unbounded_channel();
        Self {
            tokens: Tokens::new(options.threads, placement.memory, placement.gpus.clone(), options.jobs),
            states: planner.pipeline.stages.iter().map(|_| State::Unneeded).collect(),
            ready: BTreeSet::new(),
            missing: planner.layout.reads.iter().map(Vec::len).collect(),
            planner,
            options,
            emitter,
            cancel,
            live,
            lock,
            differences: Vec::new(),
            sharing: None,
            results: BTreeMap::new(),
            report: BTreeMap::new(),
            placement,
            running: 0,
            sleeping: 0,
            stopping: false,
            host: machine::host(),
            sender,
            receiver,
        }
    }

    fn id(&self, at: usize) -> StageId {
        self.planner.pipeline.stages[at].id.clone()
    }

    /// Executes what the standings say until nothing is left that can.
    pub async fn drive(&mut self, standings: Vec<Standing>) -> Result<(), EngineError> {
        for (at, standing) in standings.into_iter().enumerate() {
            match standing {
                Standing::Unneeded | Standing::Stale => {}
                Standing::Reuse(record) => self.reuse(at, record),
                Standing::Ready { fingerprint, key, why } => self.make_ready(at, *fingerprint, key, why),
                Standing::Waiting { .. } => self.states[at] = State::Pending,
                Standing::Blocked { by } => self.block(at, by),
            }
        }
        let mut ticker = tokio::time::interval(TICK);
        loop {
            if self.cancel.is_cancelled() {
                self.stopping = true;
                self.stop_running();
            }
            self.watch_time();
            self.start_ready();
            if self.running == 0 && (self.sleeping == 0 || self.stopping) {
                break;
            }
            tokio::select! {
                Some(message) = self.receiver.recv() => self.hear(message)?,
                _ = ticker.tick() => self.emitter.flush(),
            }
        }
        self.stop_rest();
        Ok(())
    }

    /// Asks all running stages to checkpoint and stop.
    pub fn stop_running(&self) {
        for state in &self.states {
            if let State::Running(running) = state {
                running.stop.cancel();
            }
        }
    }

    /// Stops the stages whose time is up, and ends those that do not stop.
    fn watch_time(&mut self) {
        let now = Instant::now();
        for state in &mut self.states {
            let State::Running(running) = state else { continue };
            let Some(until) = running.until.filter(|until| now >= *until) else { continue };
            running.overdue = true;
            running.stop.cancel();
            if now >= until + GRACE {
                running.kill.cancel();
            }
        }
    }

    fn make_ready(&mut self, at: usize, fingerprint: Fingerprint, key: Digest, why: Vec<DirtyReason>) {
        self.states[at] = State::Ready(Box::new(Ready { fingerprint, key, why, attempt: 1, passed_over: 0 }));
        self.ready.insert(at);
    }

    fn keep_result(&mut self, at: usize, record: Arc<StageRecord>) {
        if self.results.insert(at, record).is_none() {
            for reader in &self.planner.layout.readers[at] {
                self.missing[*reader] -= 1;
            }
        }
    }

    fn hear(&mut self, message: Message) -> Result<(), EngineError> {
        match message {
            Message::Waiting(at) => {
                if let State::Running(running) = &self.states[at] {
                    let key = running.ready.key;
                    self.emitter.emit(RunEvent::StageWaiting { stage: self.id(at), key });
                }
            }
            Message::Event(at, event) => self.emitter.emit(RunEvent::StageEvent { stage: self.id(at), event }),
            Message::Retry(at) => {
                self.sleeping -= 1;
                if let State::Ready(ready) = &mut self.states[at] {
                    ready.passed_over = 0;
                }
            }
            Message::Ended(at, result) => {
                let State::Running(running) = std::mem::replace(&mut self.states[at], State::Ended) else {
                    return Ok(());
                };
                let Running { ready, grant, overdue, .. } = *running;
                self.running -= 1;
                self.tokens.give_back(grant);
                match *result {
                    Ok(Executed::Ran(record)) => {
                        if let Some(event) =
                            self.placement.memory_warning(&self.planner.pipeline.stages[at], at, &record)
                        {
                            self.emitter.emit(RunEvent::StageEvent { stage: self.id(at), event });
                        }
                        self.ran(at, *record)?;
                    }
                    Ok(Executed::Reused(record)) => {
                        self.reuse(at, Arc::from(record));
                        self.wake(at)?;
                    }
                    Err(failure) => {
                        // A stage that was told to stop for its time and not by the user.
                        let failure =
                            if overdue && !self.cancel.is_cancelled() { self.overdue(at, failure) } else { failure };
                        self.failed(at, ready, failure);
                    }
                }
            }
        }
        Ok(())
    }

    /// Starts ready stages in pipeline order as far as resources go. Smaller ones may overtake, but not for ever.
    fn start_ready(&mut self) {
        if self.stopping {
            return;
        }
        for at in self.ready.clone() {
            let State::Ready(ready) = &mut self.states[at] else { continue };
            // A stage that sleeps before its next try.
            if ready.passed_over == u32::MAX {
                continue;
            }
            match self.tokens.take(self.planner.pipeline.stages[at].prepared.resources, self.placement.is_here(at)) {
                Some(grant) => self.start(at, grant),
                None => {
                    ready.passed_over += 1;
                    if ready.passed_over > PATIENCE {
                        return;
                    }
                }
            }
        }
    }

    fn start(&mut self, at: usize, grant: Grant) {
        let State::Ready(ready) = std::mem::replace(&mut self.states[at], State::Ended) else { return };
        self.ready.remove(&at);
        let planned = &self.planner.pipeline.stages[at];
        let place = match self.placement.place(at) {
            Ok(place) => place,
            Err(failure) => {
                self.tokens.give_back(grant);
                return self.failed(at, ready, failure);
            }
        };
        let (stop, kill) = (CancelToken::new(), CancelToken::new());
        let job = Job {
            id: planned.id.clone(),
            stage: Arc::clone(&planned.stage),
            prepared: planned.prepared.clone(),
            store: self.planner.store.clone(),
            live: Arc::clone(&self.live),
            pipeline_file: self.planner.pipeline.file.clone(),
            directory: self.planner.pipeline.directory.clone(),
            fingerprint: ready.fingerprint.clone(),
            key: ready.key,
            why: ready.why.clone(),
            inputs: self.planner.inputs(at, &self.results),
            sources: self.planner.sources(at).clone(),
            threads: grant.threads,
            device: self.options.device.clone(),
            offline: self.options.offline,
            placement: Arc::clone(&self.placement),
            place,
            gpus: grant.gpus.clone(),
            host: self.host.clone(),
            stop: stop.clone(),
            kill: kill.clone(),
            alone: self.running == 0,
            remote: self
                .sharing
                .as_ref()
                .filter(|sharing| sharing.may_have(&ready.key, &ready.why))
                .map(Sharing::remote),
        };
        self.emitter.emit(RunEvent::StageStarted {
            stage: planned.id.clone(),
            key: ready.key,
            why: ready.why.clone(),
            estimate_seconds: self.planner.estimate(at),
            attempt: ready.attempt,
            threads: grant.threads,
        });
        if let Some(warning) = self.placement.thread_warning(planned, at, grant.threads).filter(|_| ready.attempt == 1)
        {
            let event = StageEvent::Warning { message: warning, hint: None };
            self.emitter.emit(RunEvent::StageEvent { stage: planned.id.clone(), event });
        }
        self.emitter.flush();
        let time = planned.prepared.resources.time;
        let until = (time > 0 && self.placement.is_here(at)).then(|| Instant::now() + Duration::from_secs(time));
        self.states[at] = State::Running(Box::new(Running { ready, grant, stop, kill, until, overdue: false }));
        self.running += 1;
        let sender = self.sender.clone();
        let work = tokio::task::spawn_blocking(move || {
            let sink = ChannelSink { at, sender: sender.clone() };
            execute(&job, &sink, &mut || {
                let _ = sender.send(Message::Waiting(at));
            })
        });
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let result = work.await.unwrap_or_else(|error| {
                Err(StageFailure::new(ErrorClass::Stage, "run::runner", format!("the runner failed: {error}"))
                    .hint("this is a defect of luthier; please report it"))
            });
            let _ = sender.send(Message::Ended(at, Box::new(result)));
        });
    }

    fn result(&self, at: usize, status: RunStatus) -> StageResult {
        let planned = &self.planner.pipeline.stages[at];
        StageResult {
            stage: planned.id.clone(),
            kind: planned.stage.kind().to_owned(),
            reads: self.planner.layout.reads[at].iter().map(|up| self.id(*up)).collect(),
            status,
            key: None,
            why: Vec::new(),
            seconds: 0.0,
            failure: None,
            blocked_by: None,
        }
    }

    fn reuse(&mut self, at: usize, record: Arc<StageRecord>) {
        self.states[at] = State::Ended;
        if self.planner.selection.selected[at] {
            self.emitter.emit(reused(self.id(at), &record));
            let result =
                StageResult { key: Some(record.key), seconds: record.seconds, ..self.result(at, RunStatus::Reused) };
            self.report.insert(at, result);
        }
        self.keep_result(at, record);
    }

    fn ran(&mut self, at: usize, record: StageRecord) -> Result<(), EngineError> {
        let result = StageResult {
            key: Some(record.key),
            why: record.why.clone(),
            seconds: record.seconds,
            ..self.result(at, RunStatus::Ran)
        };
        self.report.insert(at, result);
        self.emitter.emit(RunEvent::StageFinished { stage: self.id(at), record: Box::new(record.clone()) });
        self.emitter.flush();
        self.planner.healed(at);
        let differences = self.lock.map(|lock| lock.compare(&self.id(at), &record)).unwrap_or_default();
        self.keep_result(at, Arc::new(record));
        if differences.is_empty() {
            if let (Some(sharing), Some(record)) = (&mut self.sharing, self.results.get(&at)) {
                sharing.push(self.planner.store, record.stage.clone(), record.key, &self.cancel);
            }
            return self.wake(at);
        }
        // What reads this would differ as a mere consequence.
        self.differences.extend(differences);
        self.stopping |= !self.options.keep_going;
        self.block_readers(at);
        Ok(())
    }

    /// Decides about the readers of a stage that has a result now, and theirs.
    fn wake(&mut self, at: usize) -> Result<(), EngineError> {
        let mut pending = vec![at];
        while let Some(done) = pending.pop() {
            for reader in self.planner.layout.readers[done].clone() {
                let waits = matches!(self.states[reader], State::Pending) && self.missing[reader] == 0;
                if !waits {
                    continue;
                }
                let shared = self.planner.store.share()?;
                match self.planner.settle(reader, &self.results)? {
                    Settled::Reuse(record) => {
                        self.live.uses(&record.key).map_err(|source| EngineError::System {
                            what: "the run cannot note what it uses".to_owned(),
                            source,
                        })?;
                        self.planner.store.index_record(&self.planner.pipeline.file, &self.id(reader), &record)?;
                        self.reuse(reader, record);
                        pending.push(reader);
                    }
                    Settled::Run { fingerprint, key, why } => self.make_ready(reader, *fingerprint, key, why),
                }
                drop(shared);
            }
        }
        Ok(())
    }

    /// The failure of a stage whose time was up, whatever it says itself.
    fn overdue(&self, at: usize, failure: StageFailure) -> StageFailure {
        let planned = &self.planner.pipeline.stages[at];
        let limit = crate::format::duration(planned.prepared.resources.time as f64);
        let place = planned.asked_at("time").map_or_else(String::new, |place| format!(" ({place})"));
        StageFailure {
            log: failure.log,
            ..StageFailure::new(
                ErrorClass::Stage,
                "run::time_limit",
                format!("the stage ran longer than the {limit} that `resources.time` allows"),
            )
        }
        .hint(format!("raise `time`{place}; a rerun goes on from the checkpoint, if the stage made one"))
    }

    fn failed(&mut self, at: usize, mut ready: Box<Ready>, failure: StageFailure) {
        let interrupted = failure.class == ErrorClass::Interrupted;
        let retries = self.planner.pipeline.stages[at].retries.unwrap_or(self.options.retries);
        let will_retry = failure.class == ErrorClass::Stage
            && ready.attempt <= retries
            && !self.cancel.is_cancelled()
            && !self.stopping;
        self.emitter.emit(RunEvent::StageFailed {
            stage: self.id(at),
            key: Some(ready.key),
            failure: failure.clone(),
            attempt: ready.attempt,
            will_retry,
        });
        self.emitter.flush();
        if will_retry {
            let pause = Duration::from_millis(500).saturating_mul(1 << ready.attempt.min(6).saturating_sub(1));
            ready.attempt += 1;
            ready.passed_over = u32::MAX;
            self.states[at] = State::Ready(ready);
            self.ready.insert(at);
            self.sleeping += 1;
            let sender = self.sender.clone();
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                let _ = sender.send(Message::Retry(at));
            });
            return;
        }
        let status = if interrupted { RunStatus::Stopped } else { RunStatus::Failed };
        let result =
            StageResult { key: Some(ready.key), why: ready.why, failure: Some(failure), ..self.result(at, status) };
        self.report.insert(at, result);
        if interrupted {
            self.stopping = true;
        } else {
            self.stopping |= !self.options.keep_going;
            self.block_readers(at);
        }
    }

    fn block_readers(&mut self, by: usize) {
        let cone: BTreeSet<usize> = self.planner.layout.down(&[by]);
        for reader in cone {
            if matches!(self.states[reader], State::Pending) {
                self.block(reader, by);
            }
        }
    }

    fn block(&mut self, at: usize, by: usize) {
        self.states[at] = State::Ended;
        self.emitter.emit(RunEvent::StageBlocked { stage: self.id(at), by: self.id(by) });
        let result = StageResult { blocked_by: Some(self.id(by)), ..self.result(at, RunStatus::Blocked) };
        self.report.insert(at, result);
    }

    /// What was never started.
    fn stop_rest(&mut self) {
        for at in 0..self.states.len() {
            let why = match &mut self.states[at] {
                State::Ready(ready) => std::mem::take(&mut ready.why),
                State::Pending => Vec::new(),
                _ => continue,
            };
            let mut result = self.result(at, RunStatus::Stopped);
            result.why = why;
            if self.cancel.is_cancelled() {
                result.failure = Some((&StageError::interrupted()).into());
            }
            self.states[at] = State::Ended;
            self.report.insert(at, result);
        }
        self.ready.clear();
    }
}

/// The event of a reused result.
pub(crate) fn reused(stage: StageId, record: &StageRecord) -> RunEvent {
    RunEvent::StageReused { stage, key: record.key, outputs: record.outputs.clone(), seconds: record.seconds }
}
