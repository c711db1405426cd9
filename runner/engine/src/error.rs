//! Errors of the runner itself; a failing stage is not one of them, it is part of the run's summary.

use camino::Utf8PathBuf;
use luthier_core::{ErrorClass, Location, StageId, quoted};
use serde::Serialize;

use crate::lock::{LockDifference, LockError};
use crate::run::{Excess, StageFailure};
use crate::store::StoreError;

/// A source that a stage declares and that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceProblem {
    pub stage: StageId,
    pub label: String,
    pub path: Utf8PathBuf,
    /// Where the pipeline file names it.
    pub location: Option<Location>,
    /// Lowercase fragment, such as `does not exist`.
    pub problem: String,
}

impl std::fmt::Display for SourceProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        write!(f, "stage `{}`: source `{}` ({}) {}", self.stage, self.path, self.label, self.problem)
    }
}

/// Why planning or running stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `--locked`: at least one difference, in stage order.
    #[error("the results differ from `{file}` in {count}, but `--locked` was given", count = crate::format::plural(differences.len(), "place", "places"))]
    LockMismatch { file: Utf8PathBuf, differences: Vec<LockDifference> },
    #[error("{}", lines(.0))]
    Sources(Vec<SourceProblem>),
    /// Stages ask for more than there is, in stage order.
    #[error("{}", lines(.0))]
    Excess(Vec<Excess>),
    /// An executor cannot be had.
    #[error("{0}")]
    Executor(Box<StageFailure>),
    #[error("the pipeline has no stage `{name}`")]
    UnknownStage { name: String, nearest: Option<String>, known: Vec<String> },
    #[error("there is no run `{name}`")]
    UnknownRun { name: String },
    #[error("no result of stage `{stage}` is in the store")]
    NoRecord { stage: StageId },
    /// A stage that was to be executed again is not in the lock.
    #[error("the lock `{file}` has no stage `{stage}`")]
    NotLocked { stage: StageId, file: Utf8PathBuf },
    #[error("stage `{stage}` cannot be executed again: its input `{input}`, as the lock names it, is not in the store")]
    InputMissing { stage: StageId, input: String },
    /// A stage of which only the first steps were to be executed again.
    #[error("stage `{stage}` has no steps to compare: its stored result has no curve over the steps of a `{kind}`")]
    NoSteps { stage: StageId, kind: String },
    /// A stage that was executed again, apart from a run.
    #[error("stage `{stage}`: {failure}")]
    Failed { stage: StageId, failure: Box<StageFailure> },
    /// The runner's own machinery: threads, signals, processes.
    #[error("{what}")]
    System { what: String, source: std::io::Error },
    /// `git show` could not produce a lock.
    #[error("cannot read `{path}` at git revision `{revision}`: {detail}")]
    Git { path: Utf8PathBuf, revision: String, detail: String },
}

fn lines(problems: &[impl std::fmt::Display]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl EngineError {
    /// Decides the exit code.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Store(_) => ErrorClass::Store,
            Self::Lock(error) => error.class(),
            Self::LockMismatch { .. } => ErrorClass::Expectation,
            Self::NotLocked { .. } | Self::NoSteps { .. } => ErrorClass::Input,
            Self::InputMissing { .. } => ErrorClass::Store,
            Self::Failed { failure, .. } => failure.class,
            Self::Sources(_) | Self::UnknownStage { .. } | Self::UnknownRun { .. } | Self::NoRecord { .. } => {
                ErrorClass::Input
            }
            Self::Git { .. } | Self::Excess(_) => ErrorClass::Input,
            Self::Executor(failure) => failure.class,
            Self::System { .. } => ErrorClass::Stage,
        }
    }

    /// `area::what`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Lock(error) => error.code(),
            Self::LockMismatch { .. } => "lock::mismatch",
            Self::NotLocked { .. } => "lock::no_stage",
            Self::InputMissing { .. } => "store::input_missing",
            Self::NoSteps { .. } => "verify::no_steps",
            Self::Failed { .. } => "run::failed",
            Self::Sources(_) => "plan::missing_source",
            Self::Excess(_) => "plan::resources",
            Self::Executor(_) => "plan::executor",
            Self::UnknownStage { .. } => "plan::unknown_stage",
            Self::UnknownRun { .. } => "run::unknown_run",
            Self::NoRecord { .. } => "store::no_record",
            Self::System { .. } => "run::system",
            Self::Git { .. } => "lock::git",
        }
    }

    /// Each a sentence with a command or an edit that works.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Store(error) => error.hints(),
            Self::Lock(error) => error.hints(),
            Self::LockMismatch { .. } => vec![
                "run without `--locked` to bring the lock up to date, and look at `luthier diff` before committing it"
                    .to_owned(),
            ],
            Self::Sources(_) => {
                vec![
                    "sources are looked up from the directory of the pipeline file; correct the path or create it"
                        .to_owned(),
                ]
            }
            Self::Excess(excesses) => {
                let mut hints: Vec<String> = excesses.iter().map(|excess| excess.hint.clone()).collect();
                hints.dedup();
                hints
            }
            Self::Executor(failure) => failure.hints.clone(),
            Self::UnknownStage { nearest: Some(near), .. } => vec![format!("did you mean `{near}`?")],
            Self::UnknownStage { known, .. } => vec![format!("its stages are {}", quoted(known))],
            Self::UnknownRun { .. } => vec!["`luthier log` lists the runs".to_owned()],
            Self::NoRecord { stage } => vec![format!("`luthier run --until {stage}` makes it")],
            Self::NotLocked { stage, .. } => {
                vec![format!("`luthier run --until {stage}` makes it and writes the lock")]
            }
            Self::InputMissing { input, .. } => {
                let stage = input.rsplit_once('.').map_or(input.as_str(), |(stage, _)| stage);
                vec![format!(
                    "`luthier pull {stage}` brings it from the remote, `luthier run --until {stage}` makes it"
                )]
            }
            Self::NoSteps { stage, .. } => {
                vec![format!("`luthier verify {stage}` executes the whole stage again and compares its outputs")]
            }
            Self::Failed { failure, .. } => failure.hints.clone(),
            Self::System { .. } => Vec::new(),
            Self::Git { .. } => {
                vec!["`git log -- FILE` lists the revisions that have the file".to_owned()]
            }
        }
    }
}
