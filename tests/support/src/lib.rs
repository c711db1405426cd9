//! What tests of several crates share.

mod project;
mod tiny_model;
mod tiny_tokenizer;

pub use project::{Output, TestProject, exists};
pub use tiny_model::{TinyAdapter, TinyModel, write_safetensors};
