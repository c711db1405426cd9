//! The stage kinds. One module per kind; each reads its inputs and writes its outputs through the `StageContext` and
//! knows nothing of the runner.

mod command;
pub mod converse;
pub mod device;
mod eval;
mod export;
mod fetch;
mod filter;
mod ingest;
pub mod inspect;
pub mod measure;
mod merge;
mod one_or_many;
pub mod plan;
mod split;
#[cfg(test)]
mod testing;
mod tokenize;
mod train;

use luthier_core::Registry;

/// Every stage kind of this build.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    // One line per kind, in alphabetical order.
    registry.add(command::CommandStage);
    registry.add(eval::EvalStage);
    registry.add(export::ExportStage);
    registry.add(fetch::FetchStage);
    registry.add(ingest::IngestStage);
    registry.add(filter::FilterStage);
    registry.add(merge::MergeStage);
    registry.add(plan::PlanStage);
    registry.add(split::SplitStage);
    registry.add(tokenize::TokenizeStage);
    registry.add(train::TrainStage);
    registry
}
