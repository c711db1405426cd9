//! The top of a run: plan, execute, lock, journal.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use luthier_core::CancelToken;

use super::dispatch::{Dispatch, reused};
use super::emitter::{Emitter, Sink};
use super::journal::Journal;
use super::placement::Placement;
use super::planner::{Planner, Standing};
use super::share::Sharing;
use super::{LockMode, LockOutcome, RunEvent, RunOptions, RunStatus, RunSummary, StageResult, Sweep, clock, machine};
use crate::error::EngineError;
use crate::lock::{Lock, LockDifference, LockError, LockStage};
use crate::pipeline::Pipeline;
use crate::store::{StageRecord, Store, StoreError};

/// Runs a pipeline: executes what changed and nothing else, then brings the lock up to date.
///
/// Failed stages are part of the summary ([`RunSummary::error_class`] decides the exit code), not errors.
///
/// # Errors
/// What keeps the run from starting (unknown stages, missing sources, a lock that does not parse), differences from the
/// lock under [`LockMode::Locked`], and a store that fails the runner itself.
pub fn run(
    pipeline: &Pipeline,
    store: &Store,
    options: &RunOptions,
    sink: Sink,
    cancel: CancelToken,
) -> Result<RunSummary, EngineError> {
    let (started, clock) = (SystemTime::now(), Instant::now());
    let lock_file = Lock::path_of(pipeline);
    let lock = match options.lock {
        LockMode::Ignore => None,
        // Read before anything runs: a lock that does not parse is better known now than after an hour.
        LockMode::Write | LockMode::Locked => Lock::read(&lock_file)?,
    };
    let locked = match (options.lock, &lock) {
        (LockMode::Locked, None) => return Err(LockError::Missing { file: lock_file }.into()),
        (LockMode::Locked, Some(lock)) => Some(lock),
        _ => None,
    };
    let planner = Planner::new(pipeline, store, options)?;
    let mut standings = planner.standings()?;
    if let Some(lock) = locked {
        let differences = foreseen(&planner, &standings, lock);
        if !differences.is_empty() {
            return Err(EngineError::LockMismatch { file: lock_file, differences });
        }
    }
    let mut work = has_work(&standings);
    let placement = Arc::new(Placement::new(pipeline, options));
    // What a remote has need not run here.
    if options.remote.is_none() {
        placement.check(pipeline, options, &may_run(&standings))?;
    }
    let mut id = clock::run_id(started);
    // Made and registered in one go, or a collection would take the run's directory for that of an old run.
    let starting = if work { Some(store.share()?) } else { None };
    let mut live = None;
    let journal = match store.workspace().create().and_then(|()| Journal::create(store.workspace(), &id)) {
        Ok(journal) => {
            journal.id().clone_into(&mut id);
            live = starting.is_some().then(|| store.live(&id)).transpose()?.map(Arc::new);
            Some(journal)
        }
        // Nothing needs to be written, so a workspace that cannot be is no obstacle.
        Err(error) if !work => {
            tracing::debug!("this run has no journal: {error}");
            None
        }
        Err(error) => {
            let root = store.workspace().root();
            return Err(StoreError::sort(root, "the journal of the run cannot be written", error).into());
        }
    };
    drop(starting);
    let mut emitter = Emitter::new(sink, journal);
    emitter.emit(RunEvent::RunStarted {
        run: id.clone(),
        pipeline: pipeline.name.clone(),
        stages: selected(&planner).map(|at| pipeline.stages[at].id.clone()).collect(),
        threads: options.threads.max(1),
        started: clock::rfc3339(started),
    });

    let mut sharing = options.remote.as_ref().map(|remote| Sharing::new(Arc::clone(remote)));
    if let (true, Some(sharing)) = (work || lacking(&standings), &mut sharing) {
        sharing.pull(&planner, lock.as_ref(), &mut emitter, &cancel)?;
        standings = planner.standings()?;
        work = has_work(&standings);
        placement.check(pipeline, options, &may_run(&standings))?;
        let differences = locked.map(|lock| foreseen(&planner, &standings, lock)).unwrap_or_default();
        if !differences.is_empty() {
            return Err(EngineError::LockMismatch { file: lock_file, differences });
        }
    }
    note_reused(&planner, &standings, work)?;
    let (stages, records, differences);
    let all = planner.selection.all;
    if work {
        let live = match live {
            Some(live) => live,
            None => {
                let _shared = store.share()?;
                Arc::new(store.live(&id)?)
            }
        };
        {
            // What the plan relies on is looked at again while nothing can be collected, and noted as used.
            let _shared = store.share()?;
            standings = planner.standings()?;
            for standing in &standings {
                if let Standing::Reuse(record) = standing {
                    live.uses(&record.key).map_err(|source| EngineError::System {
                        what: "the run cannot note what it uses".to_owned(),
                        source,
                    })?;
                }
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            // Stages run on blocking threads; parsers of foreign formats may recurse.
            .thread_stack_size(16 << 20)
            .enable_time()
            .build()
            .map_err(|source| EngineError::System { what: "threads cannot be started".to_owned(), source })?;
        let mut dispatch = Dispatch::new(planner, options, &mut emitter, cancel, live, locked, placement);
        dispatch.sharing = sharing.take();
        // Stages still at work when the runner itself fails are told to stop; dropping the runtime waits for them.
        let driven = runtime.block_on(dispatch.drive(standings));
        driven.inspect_err(|_| dispatch.stop_running())?;
        differences = std::mem::take(&mut dispatch.differences);
        stages = std::mem::take(&mut dispatch.report).into_values().collect::<Vec<_>>();
        records = std::mem::take(&mut dispatch.results);
        sharing = dispatch.sharing.take();
    } else {
        differences = Vec::new();
        let (done, kept) = nothing_to_do(&planner, standings, &mut emitter);
        stages = done;
        records = kept;
    }
    store.memo().save();
    if let Some(sharing) = sharing {
        sharing.finish(&mut emitter);
    }

    let mut summary = RunSummary {
        version: RunSummary::FORMAT,
        run: id,
        pipeline: pipeline.name.clone(),
        started: clock::rfc3339(started),
        seconds: 0.0,
        host: machine::host(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        threads: options.threads.max(1),
        stages,
        lock: LockOutcome::Untouched,
        comparisons: Vec::new(),
    };
    if summary.count(RunStatus::Ran) > 0 {
        summary.comparisons = super::comparison::compare(pipeline, &mut |id| {
            let place = pipeline.graph.position(id);
            place.and_then(|at| records.get(&at)).map_or(Ok(None), |record| whole(store, record))
        })?;
    }
    if summary.succeeded() && differences.is_empty() {
        summary.lock = match options.lock {
            LockMode::Ignore => LockOutcome::Untouched,
            LockMode::Locked => LockOutcome::Verified,
            LockMode::Write => write_lock(pipeline, store, lock, &records, all)?,
        };
        if work {
            let ids: Vec<_> = pipeline.stages.iter().map(|stage| &stage.id).collect();
            store.compact_index(&pipeline.file, &ids)?;
        }
    }
    summary.seconds = clock.elapsed().as_secs_f64();
    if let Err(error) = emitter.finish(&summary) {
        tracing::warn!("the journal of the run is not complete: {error}");
    }
    if differences.is_empty() { Ok(summary) } else { Err(EngineError::LockMismatch { file: lock_file, differences }) }
}

fn has_work(standings: &[Standing]) -> bool {
    standings.iter().any(|standing| matches!(standing, Standing::Ready { .. } | Standing::Waiting { .. }))
}

/// Whether what is not selected is wanted all the same, and not here.
fn lacking(standings: &[Standing]) -> bool {
    standings.iter().any(|standing| matches!(standing, Standing::Stale))
}

fn selected<'b>(planner: &'b Planner<'_>) -> impl Iterator<Item = usize> + 'b {
    planner.selection.selected.iter().enumerate().filter(|(_, chosen)| **chosen).map(|(at, _)| at)
}

/// The sweeps of a pipeline side by side, from the last results of their members.
///
/// # Errors
/// The store cannot be read.
pub fn compare(pipeline: &Pipeline, store: &Store) -> Result<Vec<Sweep>, EngineError> {
    let latest = store.latest(pipeline)?;
    let compared =
        super::comparison::compare(pipeline, &mut |id| latest.get(id).map_or(Ok(None), |record| whole(store, record)))?;
    Ok(compared)
}

/// A record with its outcome, which the index leaves out.
fn whole(store: &Store, record: &StageRecord) -> Result<Option<StageRecord>, StoreError> {
    if record.outcome.metrics.is_empty() { store.record(&record.key) } else { Ok(Some(record.clone())) }
}

/// The stages that execute, or will if their inputs turn out to be new.
fn may_run(standings: &[Standing]) -> Vec<usize> {
    let runs = |standing: &Standing| matches!(standing, Standing::Ready { .. } | Standing::Waiting { .. });
    standings.iter().enumerate().filter(|(_, standing)| runs(standing)).map(|(at, _)| at).collect()
}

type Results = std::collections::BTreeMap<usize, Arc<StageRecord>>;

/// The fast path: every selected stage is reused or blocked, so no thread, lock or file of the store is needed.
fn nothing_to_do(
    planner: &Planner<'_>,
    standings: Vec<Standing>,
    emitter: &mut Emitter,
) -> (Vec<StageResult>, Results) {
    let mut stages = Vec::with_capacity(standings.len());
    let mut results = Results::new();
    for (at, standing) in standings.into_iter().enumerate() {
        let planned = &planner.pipeline.stages[at];
        let id = |at: usize| planner.pipeline.stages[at].id.clone();
        let mut result = StageResult {
            stage: planned.id.clone(),
            kind: planned.stage.kind().to_owned(),
            reads: planner.layout.reads[at].iter().map(|up| id(*up)).collect(),
            status: RunStatus::Reused,
            key: None,
            why: Vec::new(),
            seconds: 0.0,
            failure: None,
            blocked_by: None,
        };
        match standing {
            Standing::Reuse(record) => {
                if planner.selection.selected[at] {
                    emitter.emit(reused(planned.id.clone(), &record));
                    result.key = Some(record.key);
                    result.seconds = record.seconds;
                    stages.push(result);
                }
                results.insert(at, record);
            }
            Standing::Blocked { by } => {
                emitter.emit(RunEvent::StageBlocked { stage: planned.id.clone(), by: id(by) });
                result.status = RunStatus::Blocked;
                result.blocked_by = Some(id(by));
                stages.push(result);
            }
            _ => {}
        }
    }
    (stages, results)
}

/// Makes results of earlier runs, which a changed-back parameter or a new name found again, the newest of their stages.
fn note_reused(planner: &Planner<'_>, standings: &[Standing], work: bool) -> Result<(), EngineError> {
    for (planned, standing) in planner.pipeline.stages.iter().zip(standings) {
        let Standing::Reuse(record) = standing else { continue };
        if planner.latest(&planned.id).is_some_and(|latest| latest.key == record.key) {
            continue;
        }
        match planner.store.index_record(&planner.pipeline.file, &planned.id, record) {
            // A store that cannot be written serves a run without work all the same.
            Err(error) if !work => tracing::debug!("the index is not up to date: {error}"),
            other => other?,
        }
    }
    Ok(())
}

/// Differences from the lock that are known before anything runs.
fn foreseen(planner: &Planner<'_>, standings: &[Standing], lock: &Lock) -> Vec<LockDifference> {
    let mut differences = Vec::new();
    for (at, standing) in standings.iter().enumerate().filter(|(at, _)| planner.selection.selected[*at]) {
        let id = &planner.pipeline.stages[at].id;
        differences.extend(match standing {
            // The index holds no metrics.
            Standing::Reuse(record) => match planner.store.record(&record.key) {
                Ok(Some(whole)) => lock.compare(id, &whole),
                _ => lock.compare_key(id, &record.fingerprint, true),
            },
            Standing::Ready { fingerprint, .. } => lock.compare_key(id, fingerprint, true),
            Standing::Waiting { .. } => lock.compare_key(id, &planner.fixed_print(at), false),
            _ => Vec::new(),
        });
    }
    if planner.selection.all {
        let known = |id: &luthier_core::StageId| planner.layout.place.contains_key(id);
        differences.extend(lock.stages.keys().filter(|id| !known(id)).map(LockDifference::not_in_pipeline));
    }
    differences
}

fn write_lock(
    pipeline: &Pipeline,
    store: &Store,
    old: Option<Lock>,
    records: &Results,
    all: bool,
) -> Result<LockOutcome, EngineError> {
    let mut lock = if all { Lock::default() } else { old.clone().unwrap_or_default() };
    lock.stages.retain(|id, _| pipeline.stages.iter().any(|stage| stage.id == *id));
    for (at, record) in records {
        let id = &pipeline.stages[*at].id;
        let known = || old.as_ref().and_then(|old| old.stages.get(id)).filter(|known| known.describes(record));
        let stage = if !record.outcome.metrics.is_empty() {
            LockStage::from_record(record)
        } else if let Some(known) = known() {
            // The index holds no outcomes; what the lock says about the same key and outputs holds still.
            known.clone()
        } else {
            LockStage::from_record(store.record(&record.key)?.as_ref().unwrap_or(record))
        };
        lock.stages.insert(id.clone(), stage);
    }
    if old.as_ref() == Some(&lock) {
        return Ok(LockOutcome::Unchanged);
    }
    lock.write(&Lock::path_of(pipeline))?;
    Ok(LockOutcome::Written)
}
