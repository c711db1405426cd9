//! Where everything that is not the user's lives: one directory, `.luthier` in the current directory unless told
//! otherwise. Its place never enters a key, so it may be moved, shared or removed.
//!
//! ```text
//! .luthier/
//!   .gitignore  CACHEDIR.TAG
//!   store/      artifacts and records        luthier_engine::store
//!   scratch/    KEY/{out,tmp,checkpoint}     of stages that run, failed or were killed
//!   cache/      what can be made again: compiled plugins, downloads in flight
//!   runs/       ID/{events.jsonl,summary.json}, last
//! ```

use camino::{Utf8Path, Utf8PathBuf};

/// The directory given with `--store`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    root: Utf8PathBuf,
}

impl Workspace {
    /// Names the directory; nothing is created before the first write.
    pub fn new(root: impl Into<Utf8PathBuf>) -> Self {
        let root = root.into();
        // A stage may run with another working directory.
        let root =
            std::path::absolute(&root).ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok()).unwrap_or(root);
        Self { root }
    }

    #[must_use]
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    #[must_use]
    pub fn store_dir(&self) -> Utf8PathBuf {
        self.root.join("store")
    }

    #[must_use]
    pub fn scratch_dir(&self) -> Utf8PathBuf {
        self.root.join("scratch")
    }

    #[must_use]
    pub fn cache_dir(&self) -> Utf8PathBuf {
        self.root.join("cache")
    }

    #[must_use]
    pub fn runs_dir(&self) -> Utf8PathBuf {
        self.root.join("runs")
    }

    /// Makes the directory and marks it as a cache for git and for backup programs.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(&self) -> std::io::Result<()> {
        let marker = self.root.join("CACHEDIR.TAG");
        if marker.exists() {
            return Ok(());
        }
        fs_err::create_dir_all(&self.root)?;
        fs_err::write(self.root.join(".gitignore"), "*\n")?;
        // The signature is fixed by the Cache Directory Tagging specification.
        fs_err::write(marker, "Signature: 8a477f597d28d172789f06886806bc55\n# Made by luthier; safe to remove.\n")
    }
}
