//! Filter plugins: WebAssembly components for the world in `plugins/wit`, found, built, compiled, run under limits, and
//! believed in nothing that was not checked.

pub mod author;
mod batch;
mod bindings;
mod build;
mod builtin;
mod chain;
mod compiled_cache;
mod component;
mod core_module;
mod deadline;
mod engine;
mod fault;
mod guest;
mod host_state;
mod judge;
mod language;
mod limits;
mod manifest;
mod plugin;
mod session;
mod source;
mod verdict;
mod world;

pub use batch::{TextBatch, TextColumn};
pub use build::{BuildOptions, build_plugin};
pub use builtin::Builtin;
pub use chain::{Chain, ChainInput};
pub use compiled_cache::CompiledCache;
pub use component::PluginComponent;
pub use engine::FilterEngine;
pub use fault::Fault;
pub use judge::{JudgeError, OnTrap, RowFault, Worker};
pub use language::Language;
pub use limits::Limits;
/// While one is held, native filters that judge the same texts cut them into words once.
pub use luthier_builtins::SharedWords;
pub use manifest::{Manifest, ScoreColumn, ScoreKind};
pub use plugin::Plugin;
pub use source::{PluginSource, SourceProblem, path_dependencies};
pub use verdict::Verdicts;
pub use world::World;
