//! Bringing what a stage wrote into the store.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::fs::{is_executable, walk_files};
use luthier_core::{Artifact, ArtifactKind, Digest, TreeEntry, digest_tree};

use super::{Health, Store, StoreError};

impl Store {
    /// Moves a finished output into the store: hashed, synchronised, read-only, under its digest. Equal content that is
    /// there already stays, unless it is damaged.
    ///
    /// The caller holds [`Store::share`], so that nothing is collected before a record names it.
    ///
    /// # Errors
    /// The path holds something that is neither file nor directory, or the store cannot be written.
    pub fn import(&self, path: &Utf8Path, kind: ArtifactKind) -> Result<Artifact, StoreError> {
        let fail = |error| self.error("an output cannot be stored", error);
        let meta = fs_err::metadata(path).map_err(fail)?;
        if meta.is_file() {
            let (digest, size) = self.import_file(path, false)?;
            return Ok(Artifact { kind, digest, size, tree: false });
        }
        if !meta.is_dir() {
            return Err(fail(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("`{path}` is neither a file nor a directory"),
            )));
        }
        let mut entries = Vec::new();
        for relative in walk_files(path).map_err(fail)? {
            let file = path.join(&relative);
            let executable = is_executable(&fs_err::metadata(&file).map_err(fail)?);
            let (digest, size) = self.import_file(&file, executable)?;
            entries.push(TreeEntry { path: relative, digest, size, executable });
        }
        let digest = digest_tree(&entries);
        let size = entries.iter().map(|entry| entry.size).sum();
        let artifact = Artifact { kind, digest, size, tree: true };
        self.make_tree(&artifact, entries)?;
        Ok(artifact)
    }

    fn import_file(&self, path: &Utf8Path, executable: bool) -> Result<(Digest, u64), StoreError> {
        let fail = |error| self.error("an output cannot be stored", error);
        let link = fs_err::symlink_metadata(path).map_err(fail)?;
        // A name of a file that lives elsewhere too must not be moved: its other owner may go on writing it.
        let own: Utf8PathBuf =
            if link.is_file() && !is_shared(&link) { path.to_owned() } else { self.disk().copy(path).map_err(fail)? };
        let digest = luthier_core::digest_file(&own).map_err(fail)?;
        let size = fs_err::metadata(&own).map_err(fail)?.len();
        let target = self.object_path(&digest, executable);
        if self.check_object(&target, &digest, size)? == Health::Good {
            self.disk().remove_file(&own).map_err(fail)?;
        } else {
            self.disk().place(&own, &target, executable).map_err(fail)?;
            let meta = fs_err::metadata(&target).map_err(fail)?;
            self.memo().remember_owned(&target, &meta, digest);
        }
        Ok((digest, size))
    }

    /// Builds the directory of a tree from objects, then its manifest.
    pub(super) fn make_tree(&self, artifact: &Artifact, entries: Vec<TreeEntry>) -> Result<(), StoreError> {
        let fail = |error| self.error("a tree cannot be stored", error);
        let target = self.tree_path(&artifact.digest);
        match self.examine(artifact)? {
            Health::Good => return Ok(()),
            Health::Missing if !target.exists() => {}
            Health::Missing | Health::Damaged => self.disk().remove_tree(&target).map_err(fail)?,
        }
        let temporary = self.disk().temporary_directory().map_err(fail)?;
        let staging = Utf8Path::from_path(temporary.path())
            .ok_or_else(|| fail(std::io::Error::other("the store's path is not UTF-8")))?
            .join("tree");
        self.disk().make_directory(&staging).map_err(fail)?;
        let mut made: Option<&str> = None;
        for entry in &entries {
            let parent = entry.path.rsplit_once('/').map_or("", |(parent, _)| parent);
            if made != Some(parent) {
                fs_err::create_dir_all(staging.join(parent)).map_err(fail)?;
                made = Some(parent);
            }
            let object = self.object_path(&entry.digest, entry.executable);
            self.disk().link(&object, &staging.join(&entry.path)).map_err(fail)?;
        }
        self.disk().synchronise_directory(&staging).map_err(fail)?;
        self.disk().place_directory(&staging, &target).map_err(fail)?;
        for entry in &entries {
            let path = target.join(&entry.path);
            let meta = fs_err::metadata(&path).map_err(fail)?;
            self.memo().remember_owned(&path, &meta, entry.digest);
        }
        let meta = fs_err::metadata(&target).map_err(fail)?;
        self.memo().remember_owned(&target, &meta, artifact.digest);
        let bytes = Self::render_manifest(&entries).map_err(|error| fail(error.into()))?;
        self.disk().write_atomic(&self.manifest_path(&artifact.digest), &bytes).map_err(fail)
    }

    /// Puts an artifact at `target` for the user: by reflink, else as a read-only hard link, else as a copy.
    ///
    /// # Errors
    /// The artifact is not in the store, `target` exists, or it cannot be written.
    pub fn materialise(&self, artifact: &Artifact, target: &Utf8Path) -> Result<(), StoreError> {
        let fail = |error| self.error("an artifact cannot be copied out", error);
        let files: Vec<(Utf8PathBuf, Utf8PathBuf)> = if artifact.tree {
            let root = self.tree_path(&artifact.digest);
            let entries = self.tree_entries(&artifact.digest)?.unwrap_or_default();
            fs_err::create_dir_all(target).map_err(fail)?;
            entries.iter().map(|entry| (root.join(&entry.path), target.join(&entry.path))).collect()
        } else {
            vec![(self.artifact_path(artifact), target.to_owned())]
        };
        for (from, to) in files {
            if let Some(parent) = to.parent().filter(|parent| !parent.as_str().is_empty()) {
                fs_err::create_dir_all(parent).map_err(fail)?;
            }
            if reflink_copy::reflink(&from, &to).is_err() && fs_err::hard_link(&from, &to).is_err() {
                fs_err::copy(&from, &to).map_err(fail)?;
            }
        }
        Ok(())
    }
}

#[cfg(unix)]
fn is_shared(meta: &std::fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(meta) > 1
}

#[cfg(not(unix))]
fn is_shared(_meta: &std::fs::Metadata) -> bool {
    false
}
