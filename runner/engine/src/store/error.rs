//! What can go wrong with the store. Always exit class `Store`.

use std::io::{self, ErrorKind};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::Digest;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("no space left on the device of the store `{root}`")]
    Full { root: Utf8PathBuf, source: io::Error },
    #[error("the store `{root}` cannot be written")]
    ReadOnly { root: Utf8PathBuf, source: io::Error },
    #[error("the store `{root}` was deleted or moved while it was in use")]
    Gone { root: Utf8PathBuf, source: io::Error },
    #[error("the store `{root}` is in use by another process")]
    Busy { root: Utf8PathBuf },
    #[error("object {digest} of the store is damaged: its bytes now hash to {found}")]
    Damaged { digest: Digest, found: Digest, path: Utf8PathBuf },
    #[error("{what}")]
    Io { what: String, source: io::Error },
}

impl StoreError {
    /// Sorts an I/O error by what the user can do about it.
    #[must_use]
    pub fn sort(root: &Utf8Path, what: impl Into<String>, source: io::Error) -> Self {
        let root = root.to_owned();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full { root, source },
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { root, source },
            ErrorKind::NotFound if !root.exists() => Self::Gone { root, source },
            _ => Self::Io { what: what.into(), source },
        }
    }

    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full { .. } => "store::full",
            Self::ReadOnly { .. } => "store::read_only",
            Self::Gone { .. } => "store::gone",
            Self::Busy { .. } => "store::busy",
            Self::Damaged { .. } => "store::damaged",
            Self::Io { .. } => "store::io",
        }
    }

    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Full { .. } => {
                vec!["free some space, or run `luthier gc --dry-run` to see what the store can give back".to_owned()]
            }
            Self::ReadOnly { root, .. } => {
                vec![format!("check the owner and mode of `{root}`, or point `--store` at a writable directory")]
            }
            Self::Gone { .. } => vec!["run again: what the lock names is made anew".to_owned()],
            Self::Busy { .. } => vec!["try again when the other command has ended".to_owned()],
            Self::Damaged { .. } => {
                vec![
                    "`luthier verify` lists all damage; the next `luthier run` makes the damaged results anew"
                        .to_owned(),
                ]
            }
            Self::Io { .. } => Vec::new(),
        }
    }
}
