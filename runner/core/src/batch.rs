//! What the runner asks of a system that executes stages elsewhere: a batch system, a cluster, a program of the user's.
//!
//! The store is the meeting point: a job is a program with arguments whose standard output and standard error go to two
//! files of the stage's scratch directory, on a file system that both sides see. What the job did is read from there; the
//! system is asked only whether it still runs.

use std::collections::BTreeMap;
use std::time::Duration;

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::error::StageResult;
use crate::stage::Resources;

/// One stage to execute elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobOrder {
    /// Unique per store and key, `luthier-…`: whoever lost a job's id finds the job by it.
    pub name: String,
    /// The stage, for people.
    pub stage: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Where it starts.
    pub directory: Utf8PathBuf,
    /// Where its standard output goes.
    pub stdout: Utf8PathBuf,
    /// Where its standard error goes.
    pub stderr: Utf8PathBuf,
    pub resources: Resources,
}

/// How a job fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// It has yet to start.
    Waiting {
        /// Why, in the system's words.
        #[serde(default)]
        reason: String,
    },
    Running,
    /// It ended, however it did; `detail` is the system's word for it, such as `OUT_OF_MEMORY` or `exit code 1`.
    Ended {
        #[serde(default)]
        detail: String,
        #[serde(default)]
        how: JobEnd,
    },
    /// The system has no such job, or no longer.
    Unknown,
}

impl JobState {
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::Unknown)
    }
}

/// How a job ended, where the system knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEnd {
    #[default]
    Exited,
    OutOfMemory,
    OutOfTime,
    /// By a person or by the system.
    Cancelled,
    NodeFailed,
}

/// How strongly a job is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelMode {
    /// It gets SIGTERM and may checkpoint.
    Stop,
    /// At once.
    Kill,
}

/// A system that executes stages. One object serves all stages of a run, from several threads.
pub trait BatchExecutor: Send + Sync {
    /// How long to wait between two questions.
    fn interval(&self) -> Duration;

    /// How many questions in a row may fail before the stages do.
    fn patience(&self) -> u32;

    /// Starts a job and returns its id, which any later process may ask about.
    ///
    /// # Errors
    /// The system refuses the job.
    fn submit(&self, order: &JobOrder) -> StageResult<String>;

    /// The states of all `jobs` in one question; what is missing from the answer is unknown.
    ///
    /// # Errors
    /// The system does not answer.
    fn poll(&self, jobs: &[String]) -> StageResult<BTreeMap<String, JobState>>;

    /// Ids of unfinished jobs by name, of all whose name begins with `prefix`, those of other runs too.
    ///
    /// # Errors
    /// The system does not answer.
    fn find(&self, prefix: &str) -> StageResult<BTreeMap<String, String>>;

    /// # Errors
    /// The system does not answer. A job that is over is no error.
    fn cancel(&self, jobs: &[String], mode: CancelMode) -> StageResult<()>;

    /// What the system itself has to say about a job that left no word, such as why a node was lost.
    ///
    /// # Errors
    /// The system does not answer.
    fn logs(&self, job: &str) -> StageResult<Vec<String>>;
}
