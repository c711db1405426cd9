//! Errors that a person reads: what happened, where, what was expected, and a hint that works.

use std::error::Error;
use std::fmt;

use camino::Utf8PathBuf;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Decides the exit code of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The stage failed (exit 1).
    Stage,
    /// The user's input is wrong (exit 2).
    Input,
    /// An expectation failed: an eval gate, `--locked`, `verify` (exit 3).
    Expectation,
    /// The store or cache is at fault (exit 4).
    Store,
    /// Interrupted (exit 130).
    Interrupted,
}

/// A place in a file that the user can open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Location {
    #[schemars(with = "String")]
    pub file: Utf8PathBuf,
    /// 1-based; 0 when the whole file is meant.
    pub line: u64,
    pub column: u64,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (0, _) => write!(f, "{}", self.file),
            (line, 0) => write!(f, "{}:{line}", self.file),
            (line, column) => write!(f, "{}:{line}:{column}", self.file),
        }
    }
}

/// An error of a stage. The runner adds the stage's name when it renders it.
///
/// `message` is a lowercase fragment with names in backticks that says what was found and what was expected; the cause
/// is in [`Error::source`], never pasted into the text.
#[derive(Debug)]
pub struct StageError {
    /// Stable, `area::what`, such as `fetch::digest_mismatch`.
    pub code: &'static str,
    pub message: String,
    pub location: Option<Location>,
    /// Each a sentence with a command or an edit that works.
    pub hints: Vec<String>,
    pub class: ErrorClass,
    source: Option<Box<dyn Error + Send + Sync>>,
}

pub type StageResult<T> = Result<T, StageError>;

impl StageError {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            location: None,
            hints: Vec::new(),
            class: ErrorClass::Stage,
            source: None,
        }
    }

    /// The user's input is wrong rather than the run.
    pub fn input(code: &'static str, message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Input, ..Self::new(code, message) }
    }

    /// The stage stopped because it was asked to.
    #[must_use]
    pub fn interrupted() -> Self {
        Self { class: ErrorClass::Interrupted, ..Self::new("run::interrupted", "interrupted") }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    #[must_use]
    pub fn at(mut self, file: impl Into<Utf8PathBuf>, line: u64, column: u64) -> Self {
        self.location = Some(Location { file: file.into(), line, column });
        self
    }

    #[must_use]
    pub fn class(mut self, class: ErrorClass) -> Self {
        self.class = class;
        self
    }

    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl Error for StageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// I/O errors are turned into stage errors with the remedy for the two kinds a user can mend.
impl From<std::io::Error> for StageError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let base = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Self::new("io::disk_full", "no space left on the device")
                    .hint("free some space, or run `luthier gc --dry-run` to see what the store can give back")
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::new("io::permission", "permission denied")
                    .hint("check the owner and mode of the path, or point `--store` at a writable directory")
            }
            _ => Self::new("io::error", "input or output failed"),
        };
        base.caused_by(error)
    }
}
