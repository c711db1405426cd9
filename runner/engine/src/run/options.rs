//! What a run may be told. Nothing here enters a key.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::Utf8PathBuf;
use luthier_core::{ExecutorSpec, StageId};
use serde::{Deserialize, Serialize};

use super::{BatchFactory, Remote};

/// What happens to `NAME.lock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Written after the run if it differs; a run of some stages updates only those.
    Write,
    /// `--locked`: never written, and any difference fails the run.
    Locked,
    /// Neither read nor written, for experiments such as `-p rank=32`.
    Ignore,
}

/// Options of [`crate::run::run`], and of [`crate::run::plan`], which is the dry run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Threads for all stages together; at least 1.
    pub threads: usize,
    /// How many stages may run at once; `None` for as many as fit.
    pub jobs: Option<usize>,
    /// Resident bytes for all stages together; `None` for most of what the machine has.
    pub memory: Option<u64>,
    /// Accelerators for all stages together; `None` for those the machine has.
    pub gpus: Option<usize>,
    pub keep_going: bool,
    /// Only these; what they need must be up to date.
    pub only: Vec<StageId>,
    /// These and all that depend on them.
    pub from: Vec<StageId>,
    /// These and all that they need.
    pub until: Vec<StageId>,
    /// Run these even if they are up to date. A group name stands for all members of a matrix, here and above.
    pub force: Vec<StageId>,
    /// Further tries after a stage failed, where the stage itself does not say.
    pub retries: u32,
    pub lock: LockMode,
    pub offline: bool,
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// Where stages execute that do not say so themselves. `None` leaves it to the pipeline, and without a word there it
    /// is [`ExecutorSpec::Child`] if `program` is known, else [`ExecutorSpec::Local`].
    pub executor: Option<ExecutorSpec>,
    /// Where these stages execute, whatever they say themselves.
    pub executors: BTreeMap<StageId, ExecutorSpec>,
    /// The luthier program, for stages in other processes.
    pub program: Option<Utf8PathBuf>,
    /// Makes the executors that are not of this machine.
    pub batch: BatchFactory,
    /// Where results are shared.
    pub remote: Option<Arc<dyn Remote>>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            jobs: None,
            memory: None,
            gpus: None,
            keep_going: false,
            only: Vec::new(),
            from: Vec::new(),
            until: Vec::new(),
            force: Vec::new(),
            retries: 0,
            lock: LockMode::Write,
            offline: false,
            device: "cpu".to_owned(),
            executor: None,
            executors: BTreeMap::new(),
            program: None,
            batch: BatchFactory::default(),
            remote: None,
        }
    }
}
