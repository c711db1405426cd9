//! A stage's error as data: events, summaries and child processes carry it.

use luthier_core::{ErrorClass, Location, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What remains of a [`StageError`] outside the process that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageFailure {
    /// `area::what`.
    pub code: String,
    pub message: String,
    pub location: Option<Location>,
    pub hints: Vec<String>,
    pub class: ErrorClass,
    /// The chain of sources, outermost first.
    pub causes: Vec<String>,
    /// The last lines a child process wrote before it died.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl StageFailure {
    pub fn new(class: ErrorClass, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            location: None,
            hints: Vec::new(),
            class,
            causes: Vec::new(),
            log: Vec::new(),
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<&StageError> for StageFailure {
    fn from(error: &StageError) -> Self {
        Self {
            code: error.code.to_owned(),
            message: error.message.clone(),
            location: error.location.clone(),
            hints: error.hints.clone(),
            class: error.class,
            causes: causes(error),
            log: Vec::new(),
        }
    }
}

/// The texts of an error's sources, outermost first; a source that says the same as the one before is left out.
pub(crate) fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        source = cause.source();
    }
    texts
}

impl std::fmt::Display for StageFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        f.write_str(&self.message)
    }
}
