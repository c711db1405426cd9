//! Planning and executing a pipeline.

mod event;
mod failure;
mod options;
mod plan;
mod summary;

pub use event::RunEvent;
pub use failure::StageFailure;
pub use options::{Executor, LockMode, RunOptions};
pub use plan::{Action, RunPlan};
pub use summary::{LockOutcome, RunStatus, RunSummary, StageResult};
