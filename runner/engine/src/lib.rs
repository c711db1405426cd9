//! The runner: pipeline files, the stage graph, keys, the store, execution, locks and reports. Never names a stage kind.

mod error;
pub mod explain;
pub mod fingerprint;
pub mod format;
pub mod lock;
pub mod pipeline;
pub mod report;
pub mod run;
pub mod spec;
pub mod store;
#[cfg(test)]
mod testkit;
pub mod workspace;

pub use error::{EngineError, SourceProblem};
