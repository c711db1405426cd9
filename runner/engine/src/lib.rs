//! The runner: pipeline files, the stage graph, keys, the store, execution, locks and reports. Never names a stage kind.

mod error;
pub mod fingerprint;
pub mod format;
pub mod lock;
pub mod report;
pub mod run;
pub mod store;

pub use error::{EngineError, SourceProblem};
