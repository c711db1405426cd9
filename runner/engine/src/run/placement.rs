//! Where each stage of a run executes, and whether what it asks for exists there.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use camino::Utf8PathBuf;
use luthier_core::{BatchExecutor, ErrorClass, ExecutorSpec, Location, StageError, StageEvent, StageId, StageResult};
use serde::Serialize;

use super::jobs::Follower;
use super::{RunOptions, StageFailure, machine};
use crate::error::EngineError;
use crate::format::{bytes, plural};
use crate::pipeline::{Pipeline, PlannedStage};
use crate::store::StageRecord;

/// Makes the executors that a run needs; those on this machine are the runner's own.
#[derive(Clone)]
pub struct BatchFactory(Arc<dyn Fn(&ExecutorSpec) -> StageResult<Arc<dyn BatchExecutor>> + Send + Sync>);

impl BatchFactory {
    pub fn new(make: impl Fn(&ExecutorSpec) -> StageResult<Arc<dyn BatchExecutor>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }
}

impl Default for BatchFactory {
    fn default() -> Self {
        Self::new(|spec| {
            Err(StageError::input("executor::unknown", format!("this program has no executor `{spec}`"))
                .hint("use `--executor child`"))
        })
    }
}

impl fmt::Debug for BatchFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BatchFactory")
    }
}

/// A stage asks for more than there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Excess {
    pub stage: StageId,
    /// Where the file asks for it; `None` if the stage's kind does.
    pub location: Option<Location>,
    /// What it asks, and what there is.
    pub problem: String,
    pub hint: String,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        write!(f, "stage `{}` {}", self.stage, self.problem)
    }
}

/// The places of a run's stages.
pub(crate) struct Placement {
    specs: Vec<ExecutorSpec>,
    program: Option<Utf8PathBuf>,
    factory: BatchFactory,
    followers: Mutex<BTreeMap<ExecutorSpec, Arc<Follower>>>,
    pub memory: Option<u64>,
    pub gpus: Vec<String>,
}

/// What a stage's execution needs to know of its place.
#[derive(Clone)]
pub(crate) enum Place {
    Local,
    Child { program: Utf8PathBuf },
    Remote { program: Utf8PathBuf, follower: Arc<Follower> },
}

/// Where a stage executes: what the command line says of it, what it says itself, what the command line says of all, what
/// the pipeline says of all.
fn choose(planned: &PlannedStage, pipeline: &Pipeline, options: &RunOptions) -> ExecutorSpec {
    let default = if options.program.is_some() { ExecutorSpec::Child } else { ExecutorSpec::Local };
    let said = options.executors.get(&planned.id).or(planned.executor.as_ref()).or(options.executor.as_ref());
    said.or(pipeline.executor.as_ref()).cloned().unwrap_or(default)
}

impl Placement {
    pub fn new(pipeline: &Pipeline, options: &RunOptions) -> Self {
        let mut gpus = machine::gpus();
        if let Some(count) = options.gpus {
            let known = gpus.len();
            gpus.truncate(count);
            gpus.extend((known..count).map(|at| at.to_string()));
        }
        Self {
            specs: pipeline.stages.iter().map(|planned| choose(planned, pipeline, options)).collect(),
            program: options.program.clone(),
            factory: options.batch.clone(),
            followers: Mutex::default(),
            memory: options.memory.or_else(machine::memory_limit),
            gpus,
        }
    }

    pub fn is_here(&self, at: usize) -> bool {
        self.specs[at].is_here()
    }

    /// Checks, before anything runs, that the executors of these stages can be had and what they ask for exists.
    pub fn check(&self, pipeline: &Pipeline, options: &RunOptions, stages: &[usize]) -> Result<(), EngineError> {
        let mut excesses = Vec::new();
        for at in stages {
            let planned = &pipeline.stages[*at];
            if self.is_here(*at) {
                self.exceed(planned, options, &mut excesses);
            }
            if let Err(mut failure) = self.place(*at) {
                failure.message =
                    format!("stage `{}` cannot execute on `{}`: {}", planned.id, self.specs[*at], failure.message);
                return Err(EngineError::Executor(Box::new(failure)));
            }
        }
        if excesses.is_empty() { Ok(()) } else { Err(EngineError::Excess(excesses)) }
    }

    fn exceed(&self, planned: &PlannedStage, options: &RunOptions, excesses: &mut Vec<Excess>) {
        let wanted = planned.prepared.resources;
        let mut push = |resource: &str, problem: String, hint: String| {
            let location = planned.asked_at(resource);
            excesses.push(Excess { stage: planned.id.clone(), location, problem, hint });
        };
        if let Some(limit) = self.memory.filter(|limit| wanted.memory > *limit) {
            let of = match (options.memory, machine::memory_total()) {
                (None, Some(total)) => format!("of this machine's {} stages may have {}", bytes(total), bytes(limit)),
                _ => format!("stages may have {} together", bytes(limit)),
            };
            push(
                "memory",
                format!("asks for {} of memory, but {of}", bytes(wanted.memory)),
                format!(
                    "lower `memory` under `resources:`, allow more with `--memory {}`, or run it elsewhere, as with `--executor {}=slurm`",
                    bytes(wanted.memory).replace(' ', ""),
                    planned.group
                ),
            );
        }
        if wanted.gpu as usize > self.gpus.len() {
            push(
                "gpu",
                format!(
                    "asks for {}, but there {}",
                    plural(wanted.gpu as usize, "GPU", "GPUs"),
                    match self.gpus.len() {
                        0 => "is none".to_owned(),
                        1 => "is 1".to_owned(),
                        count => format!("are {count}"),
                    }
                ),
                format!(
                    "`luthier doctor` shows what the driver says; run it elsewhere, as with `--executor {}=slurm`, or say `--gpus {}` if they are there",
                    planned.group, wanted.gpu
                ),
            );
        }
    }

    /// Stages that ask by name for more threads than there are get what there is: that changes no result.
    pub fn thread_warning(&self, planned: &PlannedStage, at: usize, threads: usize) -> Option<String> {
        let wanted = planned.prepared.resources.threads;
        (self.is_here(at) && wanted > threads && planned.asked_at("threads").is_some())
            .then(|| format!("asks for {wanted} threads and gets the {threads} of this run; its result is the same"))
    }

    /// A stage that took more memory than it says makes the next run start too much beside it.
    pub fn memory_warning(&self, planned: &PlannedStage, at: usize, record: &StageRecord) -> Option<StageEvent> {
        let (said, took) = (planned.prepared.resources.memory, record.peak_memory);
        let place = planned.asked_at("memory").filter(|_| self.is_here(at) && said > 0 && took > said)?;
        // A little more than it took, so that the next run of it does not say the same.
        let enough = bytes(took / 20 * 21).replace(' ', "");
        Some(StageEvent::Warning {
            message: format!("took {} of memory, but says {} ({place})", bytes(took), bytes(said)),
            hint: Some(format!("write `memory: {enough}`, so that no more runs beside it than fits")),
        })
    }

    pub fn place(&self, at: usize) -> Result<Place, StageFailure> {
        let spec = &self.specs[at];
        if *spec == ExecutorSpec::Local {
            return Ok(Place::Local);
        }
        let program = self.program.clone().ok_or_else(|| {
            StageFailure::new(ErrorClass::Input, "executor::program", "no program is known that could run there")
                .hint("use the `luthier` program, or the executor `local`")
        })?;
        if *spec == ExecutorSpec::Child {
            return Ok(Place::Child { program });
        }
        Ok(Place::Remote { program, follower: self.follower(spec)? })
    }

    /// The one follower of an executor.
    pub fn follower(&self, spec: &ExecutorSpec) -> Result<Arc<Follower>, StageFailure> {
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = followers.get(spec) {
            return Ok(Arc::clone(known));
        }
        let executor = (self.factory.0)(spec).map_err(|error| StageFailure::from(&error))?;
        let follower = Follower::new(spec.clone(), executor);
        followers.insert(spec.clone(), Arc::clone(&follower));
        Ok(follower)
    }
}
