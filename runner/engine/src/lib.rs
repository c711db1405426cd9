//! The runner: pipeline files, the stage graph, keys, the store, execution, locks and reports. Never names a stage kind.

pub mod format;
pub mod report;
