//! What tests of several crates share.

mod tiny_model;
mod tiny_tokenizer;

pub use tiny_model::{TinyAdapter, TinyModel, write_safetensors};
