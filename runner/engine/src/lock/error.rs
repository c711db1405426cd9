//! Why a lock file could not be read.

use camino::Utf8PathBuf;
use luthier_core::ErrorClass;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    #[error("there is no `{file}`, but `--locked` was given")]
    Missing { file: Utf8PathBuf },
    #[error("{file}:{line}: git left conflict markers in the lock")]
    Conflict { file: Utf8PathBuf, line: usize },
    #[error("{file}:{line}: {message}")]
    Syntax { file: Utf8PathBuf, line: usize, message: String },
    #[error("`{file}` has lock version {found}, but this luthier knows versions up to {known}")]
    Version { file: Utf8PathBuf, found: u64, known: u64 },
    #[error("the lock cannot be read or written")]
    Io {
        #[from]
        source: std::io::Error,
    },
}

impl LockError {
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } => ErrorClass::Expectation,
            Self::Io { .. } => ErrorClass::Store,
            _ => ErrorClass::Input,
        }
    }

    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "lock::missing",
            Self::Conflict { .. } => "lock::conflict",
            Self::Syntax { .. } => "lock::syntax",
            Self::Version { .. } => "lock::version",
            Self::Io { .. } => "lock::io",
        }
    }

    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Missing { .. } => vec!["`luthier run` without `--locked` writes it; commit it".to_owned()],
            Self::Conflict { file, .. } => vec![format!(
                "take either side (`git checkout --theirs {file}`), then `luthier run` brings it up to date; what is in the store is not run again"
            )],
            Self::Syntax { file, .. } => vec![format!(
                "the lock is written by luthier; restore it with `git checkout -- {file}` or remove it and run again"
            )],
            Self::Version { .. } => vec!["use the luthier that wrote it, or a newer one".to_owned()],
            Self::Io { .. } => Vec::new(),
        }
    }
}
