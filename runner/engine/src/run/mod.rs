//! Planning and executing a pipeline.
//!
//! ```text
//! Pipeline ─▶ Planner ─▶ Standing per stage ──▶ RunPlan          plan, status, --dry-run
//!                 ▲            │
//!                 │ settle     ▼
//!                 └─────── Dispatch ◀── channel ── execute (threads, child processes, jobs) ─▶ Store
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
mod comparison;
mod death;
mod dispatch;
mod emitter;
mod event;
mod execute;
mod failure;
mod guard;
mod interrupt;
mod jobs;
pub mod journal;
mod machine;
mod options;
mod placement;
mod plan;
pub(crate) mod planner;
mod processes;
mod remote;
pub(crate) mod select;
mod share;
mod start;
mod steps;
mod summary;
mod tail;
#[cfg(test)]
mod tests;
mod tokens;
mod wire;

pub use again::{Comparison, CurveDifference, FileDifference, Reexecution, reexecute};
pub(crate) use clock::moment;
pub use clock::{rfc3339, run_id};
pub use comparison::{Better, Sweep, SweepCell, SweepColumn, SweepRow};
pub use emitter::Sink;
pub use event::{RunEvent, TimedEvent, event_schema};
pub use failure::StageFailure;
pub use interrupt::interrupt_on_ctrl_c;
pub use options::{LockMode, RunOptions};
pub use placement::{BatchFactory, Excess};
pub use plan::{Action, RunPlan};
pub use planner::plan;
pub use remote::{Remote, RemoteProblem, Shipment, Wanted};
pub use start::{compare, run};
pub use steps::{StepComparison, reexecute_steps};
pub use summary::{LockOutcome, RunStatus, RunSummary, StageResult};
pub use wire::exec_stage;
