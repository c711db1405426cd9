//! A checked pipeline: every stage with its parameters, its inputs and its place in the graph.
//!
//! ```text
//! file ─ yaml ─▶ Node ─ read ─▶ PipelineSpec ─ params, matrix, ${…} ─▶ Draft per stage
//!      ─ Stage::prepare ─▶ outputs ─ in: ─▶ links ─ order ─▶ Pipeline + StageGraph
//! ```
//!
//! Each step reports what it finds and hands on what it can, so that all errors of a file come at once; a reference to
//! something that already has an error is not reported again. Loading reads the pipeline file and asks whether sources
//! exist; it reads nothing else, and costs the same per stage for ten stages and for ten thousand.

mod connect;
mod draft;
mod graph;
mod graph_text;
mod load;
mod matrix;
mod order;
mod planned;
mod select;
mod settings;
mod sources;
#[cfg(test)]
mod tests;

pub use graph::{GraphEdge, GraphNode, StageGraph};
pub use load::{load, load_source};
pub use planned::{OutputRef, Pipeline, PlannedStage};
pub use select::UnknownStage;
