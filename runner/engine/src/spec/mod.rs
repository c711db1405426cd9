//! The pipeline file: YAML with the bytes of every key and value, and what may stand in it.
//!
//! [`yaml`] makes a tree of [`Node`]s, [`read`] takes a [`PipelineSpec`] from it by hand, and every later step reports
//! [`Diagnostic`]s that point into the [`SourceText`]. Turning a specification into a graph of stages is
//! [`crate::pipeline`]'s work.

mod describe;
mod diagnostic;
mod document;
mod examples;
mod interpolate;
mod node;
mod render;
mod scalar;
mod schema;
mod source;
mod template;
mod yaml;

pub use describe::describe_kind;
pub(crate) use describe::kinds;
pub use diagnostic::{Diagnostic, Diagnostics, Label};
pub(crate) use document::{Block, StageSpec, bad_name, is_name, unknown_key};
pub use document::{FORMAT_VERSION, PipelineSpec, read};
pub(crate) use interpolate::{Interpolation, ParamValue, ReadEnv, Scope};
pub use node::{Entry, Node, NodeValue};
pub use schema::{SCHEMA_FILE, schema};
pub use source::{SourceText, Span};
pub use template::{Template, templates};
pub use yaml::{MAX_ALIASED_NODES, MAX_DEPTH, parse, parse_value};
