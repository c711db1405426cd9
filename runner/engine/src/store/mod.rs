//! The content-addressed store of artifacts and the records of what made them.
//!
//! ```text
//! store/
//!   objects/ab/cdef…      the bytes of one file, named by their BLAKE3 digest, read-only; `.x` marks an executable one
//!   trees/ab/cdef….json   the manifest of a tree: relative path, digest, size and executable bit of each file
//!   trees/ab/cdef…/       the same tree as a directory of hard links to objects, ready to be read
//!   records/ab/KEY.json   one StageRecord: fingerprint, outputs, outcome, timings
//!   index/NAME-….jsonl    the newest record of each stage of a pipeline, without outcomes, appended as stages finish
//!   memo                  digests remembered by stat
//!   claims/KEY            held under an OS lock while some process executes KEY
//!   live/RUN              held under an OS lock by a run or a pull; lists the keys and objects it uses
//!   collect.lock          shared while a run looks up or adds results, exclusive while garbage is collected
//!   tmp/                  unfinished files; anything in it may be removed when nobody holds the lock above
//! ```
//!
//! Invariants: a file under its final name is complete; an object never changes; a record is written after all it
//! names; the index and the memo can be lost without harm. A reader that finds an object with another size or time than
//! it was stored with hashes it again and calls it damaged if it differs.

mod adopt;
mod claim;
mod collect;
mod disk;
mod error;
mod health;
mod import;
mod index;
mod memo;
mod record;
mod repair;
mod shards;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Artifact, Digest, TreeEntry};
use serde::{Deserialize, Serialize};

use crate::workspace::Workspace;
use disk::Disk;

pub use claim::{Claim, LiveRun, Shared};
pub use collect::{DiskUsage, GcOptions, GcReport, Removed, StageShare};
pub use disk::{Fault, FaultHook, Step};
pub use error::StoreError;
pub use health::Health;
pub use memo::StatMemo;
pub use record::StageRecord;
pub use verify::{Damage, VerifyReport};

/// The manifest of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TreeManifest {
    version: u32,
    entries: Vec<TreeEntry>,
}

#[derive(Debug)]
struct Inner {
    workspace: Workspace,
    root: Utf8PathBuf,
    disk: Disk,
    memo: StatMemo,
}

/// A handle to the store; cheap to clone, safe to share between threads and processes.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

/// How much of the file system a process has touched through the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Files opened for reading.
    pub opened: u64,
    /// Write steps: files, renames, links, synchronisations.
    pub written: u64,
}

impl Store {
    /// Names the store of a workspace; nothing is read or created yet.
    ///
    /// # Errors
    /// The path exists and is not a directory.
    pub fn open(workspace: &Workspace) -> Result<Self, StoreError> {
        Self::with_hook(workspace, None)
    }

    /// As [`Store::open`], with faults injected into its writes; for tests.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn with_faults(workspace: &Workspace, hook: FaultHook) -> Result<Self, StoreError> {
        Self::with_hook(workspace, Some(hook))
    }

    fn with_hook(workspace: &Workspace, hook: Option<FaultHook>) -> Result<Self, StoreError> {
        let root = workspace.store_dir();
        if root.exists() && !root.is_dir() {
            let source = std::io::Error::new(std::io::ErrorKind::NotADirectory, format!("`{root}` is not a directory"));
            return Err(StoreError::Io { what: "the store cannot be opened".to_owned(), source });
        }
        let disk = Disk::new(root.join("tmp"), hook);
        let memo = StatMemo::new(root.join("memo"));
        Ok(Self(Arc::new(Inner { workspace: workspace.clone(), root, disk, memo })))
    }

    #[must_use]
    pub fn workspace(&self) -> &Workspace {
        &self.0.workspace
    }

    /// Digests remembered by stat, also of sources.
    #[must_use]
    pub fn memo(&self) -> &StatMemo {
        &self.0.memo
    }

    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let (opened, written) = self.disk().counts();
        Traffic { opened, written }
    }

    /// Where the bytes of an artifact are: a read-only file, or a directory of read-only files.
    #[must_use]
    pub fn artifact_path(&self, artifact: &Artifact) -> Utf8PathBuf {
        if artifact.tree { self.tree_path(&artifact.digest) } else { self.object_path(&artifact.digest, false) }
    }

    fn root(&self) -> &Utf8Path {
        &self.0.root
    }

    fn disk(&self) -> &Disk {
        &self.0.disk
    }

    fn object_path(&self, digest: &Digest, executable: bool) -> Utf8PathBuf {
        let hex = digest.hex();
        let suffix = if executable { ".x" } else { "" };
        self.root().join("objects").join(&hex[..2]).join(format!("{}{suffix}", &hex[2..]))
    }

    fn tree_path(&self, digest: &Digest) -> Utf8PathBuf {
        let hex = digest.hex();
        self.root().join("trees").join(&hex[..2]).join(&hex[2..])
    }

    fn manifest_path(&self, digest: &Digest) -> Utf8PathBuf {
        let hex = digest.hex();
        self.root().join("trees").join(&hex[..2]).join(format!("{}.json", &hex[2..]))
    }

    fn record_path(&self, key: &Digest) -> Utf8PathBuf {
        let hex = key.hex();
        self.root().join("records").join(&hex[..2]).join(format!("{hex}.json"))
    }

    /// The files of a stored tree, or `None` if there is no such tree.
    ///
    /// # Errors
    /// The manifest cannot be read or is damaged.
    pub fn tree_entries(&self, digest: &Digest) -> Result<Option<Vec<TreeEntry>>, StoreError> {
        let path = self.manifest_path(digest);
        let bytes = self.disk().read(&path).map_err(|error| self.error("a tree cannot be read", error))?;
        let Some(bytes) = bytes else { return Ok(None) };
        Ok(Self::parse_manifest(&bytes, digest))
    }

    fn error(&self, what: &str, source: std::io::Error) -> StoreError {
        StoreError::sort(self.root(), what, source)
    }
}
