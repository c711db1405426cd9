//! Model families that can be read, and what sets them apart on disk.

use std::fmt;

use luthier_core::{StageError, nearest, quoted};
use serde::{Deserialize, Serialize};

/// A model family. All are decoder-only with RMS norm, rotary positions and a gated SiLU feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    Llama,
    Mistral,
    /// Bias on q, k and v.
    Qwen2,
    /// RMS norm on each head of q and k.
    Qwen3,
}

/// (family, `model_type`, class in `architectures`, GGUF architecture)
const TABLE: &[(Architecture, &str, &str, &str)] = &[
    (Architecture::Llama, "llama", "LlamaForCausalLM", "llama"),
    (Architecture::Mistral, "mistral", "MistralForCausalLM", "llama"),
    (Architecture::Qwen2, "qwen2", "Qwen2ForCausalLM", "qwen2"),
    (Architecture::Qwen3, "qwen3", "Qwen3ForCausalLM", "qwen3"),
];

impl Architecture {
    fn row(self) -> &'static (Self, &'static str, &'static str, &'static str) {
        TABLE.iter().find(|row| row.0 == self).unwrap_or(&TABLE[0])
    }

    /// `model_type` in config.json.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        self.row().1
    }

    /// The class named under `architectures` in config.json.
    #[must_use]
    pub fn class_name(self) -> &'static str {
        self.row().2
    }

    /// `general.architecture` in a GGUF file.
    #[must_use]
    pub fn gguf_name(self) -> &'static str {
        self.row().3
    }

    /// Whether GGUF files of this family store the rows of q and k interleaved (rotation of neighbours rather than of
    /// halves).
    #[must_use]
    pub fn permutes_query_key(self) -> bool {
        matches!(self, Self::Llama | Self::Mistral)
    }

    /// # Errors
    /// Not a known `model_type`; lists the known ones.
    pub fn from_model_type(name: &str) -> Result<Self, StageError> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0).ok_or_else(|| unknown("model_type", name, |row| row.1))
    }

    /// # Errors
    /// Not a known GGUF architecture; lists the known ones.
    pub fn from_gguf_name(name: &str) -> Result<Self, StageError> {
        TABLE
            .iter()
            .find(|row| row.3 == name)
            .map(|row| row.0)
            .ok_or_else(|| unknown("general.architecture", name, |row| row.3))
    }
}

fn unknown(
    key: &str,
    name: &str,
    column: fn(&'static (Architecture, &'static str, &'static str, &'static str)) -> &'static str,
) -> StageError {
    let mut known: Vec<&str> = TABLE.iter().map(column).collect();
    known.dedup();
    let list = quoted(&known);
    let error =
        StageError::input("model::unknown_architecture", format!("`{key}` is `{name}`, expected one of {list}"));
    match nearest(name, known) {
        Some(near) => error.hint(format!("`{near}` is the nearest known family; use a model of it")),
        None => error.hint("use a base model of a known family, such as SmolLM2, Llama 3, Mistral 7B or Qwen2.5"),
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}
