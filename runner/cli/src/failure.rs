//! What ends the program early, rendered once: the message, its causes, then hints that work.

use std::error::Error;

use luthier_core::{ErrorClass, StageError};
use owo_colors::OwoColorize;
use serde_json::json;

use crate::printer::Printer;

/// An error on its way to the user.
#[derive(Debug)]
pub struct Failure {
    class: ErrorClass,
    code: String,
    /// Already laid out (diagnostics with source snippets), printed as it is.
    rendered: Option<String>,
    json: Option<serde_json::Value>,
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
}

impl Failure {
    pub fn new(class: ErrorClass, code: &str, message: impl Into<String>) -> Self {
        Self {
            class,
            code: code.to_owned(),
            rendered: None,
            json: None,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
        }
    }

    pub fn input(code: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Input, code, message)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    #[must_use]
    pub fn causes(mut self, causes: Vec<String>) -> Self {
        self.causes = causes;
        self
    }

    /// Diagnostics that were rendered with their source.
    #[must_use]
    pub fn rendered(class: ErrorClass, text: String, json: serde_json::Value) -> Self {
        Self { rendered: Some(text), json: Some(json), ..Self::new(class, "spec::invalid", "") }
    }

    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        self.class
    }

    pub fn print(&self, printer: Printer) {
        if printer.json {
            printer.json(&self.json.clone().unwrap_or_else(|| {
                json!({"error": {"code": self.code, "message": self.message, "causes": self.causes, "hints": self.hints}})
            }));
        }
        match &self.rendered {
            Some(text) => printer.message(text),
            None => printer.message(&render(&self.message, &self.causes, &self.hints)),
        }
    }
}

/// `error: …`, the chain of causes, a blank line, `hint: …`.
#[must_use]
pub fn render(message: &str, causes: &[String], hints: &[String]) -> String {
    let mut text = format!("{} {message}", "error:".red().bold());
    for cause in causes {
        text.push_str(&format!("\n  {} {cause}", "caused by:".dimmed()));
    }
    if !hints.is_empty() {
        text.push('\n');
    }
    for hint in hints {
        text.push_str(&format!("\n{} {hint}", "hint:".cyan().bold()));
    }
    text
}

/// The chain of sources, without repeating a text that the previous one already contains.
#[must_use]
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut before = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !before.contains(&text) {
            found.push(text.clone());
        }
        before = text;
        next = cause.source();
    }
    found
}

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        Self {
            causes: causes(&error),
            hints: error.hints.clone(),
            ..Self::new(error.class, error.code, error.to_string())
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        StageError::from(error).into()
    }
}
