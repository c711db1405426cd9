//! A run's dealings with its remote: what others made comes before anything runs, what it makes goes while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use luthier_core::{CancelToken, Digest, ErrorClass, StageId, StageOutcome};

use super::emitter::Emitter;
use super::planner::{Planner, Settled};
use super::{Remote, RunEvent, Shipment, Wanted};
use crate::error::EngineError;
use crate::fingerprint::DirtyReason;
use crate::lock::{Lock, LockStage};
use crate::store::{StageRecord, Store};

/// The remote of one run.
pub(crate) struct Sharing {
    remote: Arc<dyn Remote>,
    /// Keys that the remote was asked for already.
    asked: BTreeSet<Digest>,
    made: Option<Sender<(StageId, Digest)>>,
    pusher: Option<JoinHandle<Shipment>>,
}

impl Sharing {
    pub fn new(remote: Arc<dyn Remote>) -> Self {
        Self { remote, asked: BTreeSet::new(), made: None, pusher: None }
    }

    pub fn remote(&self) -> Arc<dyn Remote> {
        Arc::clone(&self.remote)
    }

    /// Whether it is worth asking for a key that became known only now.
    pub fn may_have(&self, key: &Digest, why: &[DirtyReason]) -> bool {
        !self.asked.contains(key) && !why.contains(&DirtyReason::Forced)
    }

    /// Brings what the store lacks. What the lock names is asked for at once, since its keys are known without any
    /// result; the rest level by level.
    pub fn pull(
        &mut self,
        planner: &Planner<'_>,
        lock: Option<&Lock>,
        emitter: &mut Emitter,
        cancel: &CancelToken,
    ) -> Result<(), EngineError> {
        let mut total = Shipment::default();
        loop {
            let wanted = self.wanted(planner, lock)?;
            if wanted.is_empty() || cancel.is_cancelled() {
                break;
            }
            self.asked.extend(wanted.iter().map(|one| one.key));
            let stages = wanted.iter().map(|one| one.stage.clone()).collect();
            emitter.emit(RunEvent::RemoteAsked { remote: self.remote.address(), stages });
            emitter.flush();
            let shipment = self.remote.pull(planner.store, &wanted, cancel);
            let brought = !shipment.stages.is_empty();
            for stage in &shipment.stages {
                planner.healed(planner.layout.place[stage]);
            }
            total.add(shipment);
            if !brought {
                break;
            }
        }
        if !self.asked.is_empty() {
            emitter.emit(RunEvent::RemotePulled { remote: self.remote.address(), shipment: total });
        }
        Ok(())
    }

    fn wanted(&self, planner: &Planner<'_>, lock: Option<&Lock>) -> Result<Vec<Wanted>, EngineError> {
        let mut wanted = Vec::new();
        let mut results: BTreeMap<usize, Arc<StageRecord>> = BTreeMap::new();
        for at in planner.needed() {
            if planner.selection.forced[at] || planner.layout.reads[at].iter().any(|up| !results.contains_key(up)) {
                continue;
            }
            let stage = planner.pipeline.stages[at].id.clone();
            match planner.settle(at, &results)? {
                Settled::Reuse(record) => drop(results.insert(at, record)),
                Settled::Run { key, .. } => {
                    let locked = lock.and_then(|lock| lock.stages.get(&stage)).filter(|locked| locked.key == key);
                    if let Some(locked) = locked {
                        results.insert(at, Arc::new(locked.to_record(&stage)));
                    }
                    if !self.asked.contains(&key) {
                        wanted.push(Wanted { stage, key, locked: locked.cloned() });
                    }
                }
            }
        }
        Ok(wanted)
    }

    /// Sends a result, in the background.
    pub fn push(&mut self, store: &Store, stage: StageId, key: Digest, cancel: &CancelToken) {
        let made = self.made.get_or_insert_with(|| {
            let (sender, receiver) = channel();
            let (remote, store, cancel) = (Arc::clone(&self.remote), store.clone(), cancel.clone());
            self.pusher = Some(std::thread::spawn(move || push_all(remote.as_ref(), &store, &receiver, &cancel)));
            sender
        });
        // The other end lives until this one is dropped.
        let _ = made.send((stage, key));
    }

    /// Waits until everything is sent.
    pub fn finish(mut self, emitter: &mut Emitter) {
        drop(self.made.take());
        let Some(pusher) = self.pusher.take() else { return };
        if let Ok(shipment) = pusher.join()
            && (!shipment.stages.is_empty() || !shipment.problems.is_empty())
        {
            emitter.emit(RunEvent::RemotePushed { remote: self.remote.address(), shipment });
        }
    }
}

fn push_all(remote: &dyn Remote, store: &Store, made: &Receiver<(StageId, Digest)>, cancel: &CancelToken) -> Shipment {
    let mut total = Shipment::default();
    while let Ok(first) = made.recv() {
        let batch: Vec<(StageId, Digest)> = std::iter::once(first).chain(made.try_iter()).collect();
        total.add(remote.push(store, &batch, cancel));
    }
    total.problems.retain(|problem| problem.failure.class != ErrorClass::Interrupted);
    total
}

impl Shipment {
    /// Adds another one up.
    pub fn add(&mut self, other: Self) {
        self.stages.extend(other.stages);
        self.skipped.extend(other.skipped);
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.resumed += other.resumed;
        self.problems.extend(other.problems);
    }
}

impl LockStage {
    /// What a lock alone says about a result: measured values, warnings and sections are not in it.
    #[must_use]
    pub fn to_record(&self, stage: &StageId) -> StageRecord {
        let mut outcome = StageOutcome::new();
        for (name, value) in &self.metrics {
            if let Ok(value) = value.parse() {
                outcome.metric(name, value, "");
            }
        }
        StageRecord {
            version: StageRecord::FORMAT,
            stage: stage.clone(),
            key: self.key,
            fingerprint: self.fingerprint.clone(),
            outputs: self.outputs.clone(),
            outcome,
            why: Vec::new(),
            seconds: 0.0,
            started: super::rfc3339(std::time::SystemTime::UNIX_EPOCH),
            peak_memory: 0,
            host: "the lock".to_owned(),
        }
    }
}
