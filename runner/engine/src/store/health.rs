//! Is an artifact still there, and still itself? By `stat` where that says enough, by hashing where it does not.

use camino::Utf8Path;
use luthier_core::{Artifact, Digest};

use super::{Store, StoreError};

/// What was found where an artifact should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Good,
    Missing,
    Damaged,
}

impl Store {
    /// Looks at the file, or at the directory of a tree but not into it: enough to plan with.
    ///
    /// # Errors
    /// An I/O error other than "not found".
    pub fn glance(&self, artifact: &Artifact) -> Result<Health, StoreError> {
        if !artifact.tree {
            return self.check_object(&self.object_path(&artifact.digest, false), &artifact.digest, artifact.size);
        }
        let path = self.tree_path(&artifact.digest);
        match fs_err::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Health::Missing),
            Err(error) => Err(self.error("an artifact cannot be examined", error)),
            Ok(meta) if !meta.is_dir() => Ok(Health::Damaged),
            // A file added to or removed from the top of the tree moves the directory's time.
            Ok(meta) => match self.memo().recall(&path, &meta) {
                Some(digest) if digest == artifact.digest => Ok(Health::Good),
                Some(_) => Ok(Health::Damaged),
                None => self.examine(artifact),
            },
        }
    }

    /// Looks at every file of the artifact: what is done before a stage reads it.
    ///
    /// # Errors
    /// An I/O error other than "not found".
    pub fn examine(&self, artifact: &Artifact) -> Result<Health, StoreError> {
        if !artifact.tree {
            return self.glance(artifact);
        }
        let root = self.tree_path(&artifact.digest);
        let Some(entries) = self.tree_entries(&artifact.digest)? else { return Ok(Health::Missing) };
        for entry in &entries {
            let health = self.check_object(&root.join(&entry.path), &entry.digest, entry.size)?;
            if health != Health::Good {
                return Ok(health);
            }
        }
        let found = match luthier_core::fs::walk_files(&root) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Health::Missing),
            Err(error) => return Err(self.error("an artifact cannot be examined", error)),
        };
        if found.len() != entries.len() {
            return Ok(Health::Damaged);
        }
        if let Ok(meta) = fs_err::metadata(&root) {
            self.memo().remember_owned(&root, &meta, artifact.digest);
        }
        Ok(Health::Good)
    }

    pub(super) fn check_object(&self, path: &Utf8Path, digest: &Digest, size: u64) -> Result<Health, StoreError> {
        let meta = match fs_err::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Health::Missing),
            Err(error) => return Err(self.error("an artifact cannot be examined", error)),
        };
        if !meta.is_file() || meta.len() != size {
            return Ok(Health::Damaged);
        }
        let found = match self.memo().recall(path, &meta) {
            Some(found) => found,
            None => {
                let found =
                    luthier_core::digest_file(path).map_err(|error| self.error("an artifact cannot be read", error))?;
                self.memo().remember_owned(path, &meta, found);
                found
            }
        };
        Ok(if found == *digest { Health::Good } else { Health::Damaged })
    }
}
