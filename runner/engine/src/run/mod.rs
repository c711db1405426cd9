//! Planning and executing a pipeline.
//!
//! ```text
//! Pipeline ─▶ Planner ─▶ Standing per stage ──▶ RunPlan          plan, status, --dry-run
//!                 ▲            │
//!                 │ settle     ▼
//!                 └─────── Dispatch ◀── channel ── execute (blocking threads or child processes) ─▶ Store
//!                              │
//!                              ▼
//!                          Emitter ─▶ journal, terminal, JSON          RunSummary, lock
//! ```
//!
//! A stage whose inputs are not known yet is settled when they are: if its key turns out to be known, it is reused, so
//! an upstream that reran with equal output stops there.

mod again;
mod child;
mod clock;
mod dispatch;
mod emitter;
mod event;
mod execute;
mod failure;
mod guard;
mod interrupt;
pub mod journal;
mod machine;
mod options;
mod plan;
pub(crate) mod planner;
mod remote;
pub(crate) mod select;
mod share;
mod start;
mod summary;
#[cfg(test)]
mod tests;
mod tokens;

pub use again::{Comparison, CurveDifference, FileDifference, Reexecution, reexecute};
pub use child::exec_stage;
pub use clock::{rfc3339, run_id};
pub use emitter::Sink;
pub use event::RunEvent;
pub use failure::StageFailure;
pub use interrupt::interrupt_on_ctrl_c;
pub use options::{Executor, LockMode, RunOptions};
pub use plan::{Action, RunPlan};
pub use planner::plan;
pub use remote::{Remote, RemoteProblem, Shipment, Wanted};
pub use start::run;
pub use summary::{LockOutcome, RunStatus, RunSummary, StageResult};
