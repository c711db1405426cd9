//! A model for evaluation: logits, log-probabilities, generation. What a sequence gets does not depend on what
//! else is in its batch.

mod generate;
mod language_model;

pub use generate::{Generated, Sampler, Stop};
pub use language_model::{LanguageModel, LanguageModelOptions};
