//! Bringing in what another store made: bytes are hashed here before they get their name, so nothing that is not what it
//! says enters.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Artifact, Digest, StageId, TreeEntry};

use super::{Health, Store, StoreError, TreeManifest};
use crate::lock::LockStage;

impl Store {
    /// Whether the bytes of one file are here and whole, as far as `stat` or a new hash says.
    ///
    /// # Errors
    /// An I/O error other than "not found".
    pub fn holds(&self, digest: &Digest, size: u64, executable: bool) -> Result<bool, StoreError> {
        Ok(self.check_object(&self.object_path(digest, executable), digest, size)? == Health::Good)
    }

    /// Where the bytes of one file are, or would be.
    #[must_use]
    pub fn object(&self, digest: &Digest, executable: bool) -> Utf8PathBuf {
        self.object_path(digest, executable)
    }

    /// Hashes a file and moves it in under its digest. A damaged object of that name is replaced.
    ///
    /// The caller holds [`Store::share`] and a [`super::LiveRun`] that uses the object.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the bytes are not those of `digest`; the file then stays where it is. Or the store
    /// cannot be written.
    pub fn adopt_file(&self, file: &Utf8Path, digest: &Digest, executable: bool) -> Result<(), StoreError> {
        let fail = |error| self.error("an object cannot be stored", error);
        let found = luthier_core::digest_file(file).map_err(fail)?;
        if found != *digest {
            return Err(StoreError::Damaged { digest: *digest, found, path: file.to_owned() });
        }
        let target = self.object_path(digest, executable);
        self.disk().place(file, &target, executable).map_err(fail)?;
        let meta = fs_err::metadata(&target).map_err(fail)?;
        self.memo().remember_owned(&target, &meta, found);
        Ok(())
    }

    /// An object that is here with the other executable bit gets its second name by a copy; false if it is not here.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn adopt_twin(&self, digest: &Digest, size: u64, executable: bool) -> Result<bool, StoreError> {
        if !self.holds(digest, size, !executable)? {
            return Ok(false);
        }
        let copy = self
            .disk()
            .copy(&self.object_path(digest, !executable))
            .map_err(|error| self.error("an object cannot be copied", error))?;
        self.adopt_file(&copy, digest, executable)?;
        Ok(true)
    }

    /// Makes a tree of objects that are here.
    ///
    /// # Errors
    /// An object is missing, or the store cannot be written.
    ///
    /// # Panics
    /// Never; entries that do not hash to the artifact's digest are refused as damaged.
    pub fn adopt_tree(&self, artifact: &Artifact, entries: Vec<TreeEntry>) -> Result<(), StoreError> {
        let found = luthier_core::digest_tree(&entries);
        if found != artifact.digest {
            let path = self.manifest_path(&artifact.digest);
            return Err(StoreError::Damaged { digest: artifact.digest, found, path });
        }
        self.make_tree(artifact, entries)
    }

    /// Files the record of a lock's result if all its bytes are here, whoever brought them; false if some are missing.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn import_locked(&self, stage: &StageId, locked: &LockStage) -> Result<bool, StoreError> {
        let _shared = self.share()?;
        for artifact in locked.outputs.values() {
            if self.examine(artifact)? != Health::Good {
                return Ok(false);
            }
        }
        if self.record(&locked.key)?.is_none_or(|record| record.outputs != locked.outputs) {
            self.file_record(&locked.to_record(stage))?;
        }
        Ok(true)
    }

    /// The manifest of a tree as it is kept.
    ///
    /// # Errors
    /// The entries cannot be written as JSON.
    pub fn render_manifest(entries: &[TreeEntry]) -> serde_json::Result<Vec<u8>> {
        let mut entries = entries.to_vec();
        entries.sort();
        serde_json::to_vec_pretty(&TreeManifest { version: 1, entries })
    }

    /// Reads a manifest; `None` if it is not that of the tree `digest`.
    #[must_use]
    pub fn parse_manifest(bytes: &[u8], digest: &Digest) -> Option<Vec<TreeEntry>> {
        let manifest: TreeManifest = serde_json::from_slice(bytes).ok()?;
        (luthier_core::digest_tree(&manifest.entries) == *digest).then_some(manifest.entries)
    }
}
