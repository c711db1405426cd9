//! Who executes what: a key is claimed under an OS lock, which the kernel releases however its holder ends.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{CancelToken, Digest};

use super::{Store, StoreError};

/// How often a waiting process looks again.
const PATIENCE: Duration = Duration::from_millis(25);

/// The right to execute one key; given up when dropped.
#[derive(Debug)]
pub struct Claim {
    path: Utf8PathBuf,
    /// Some other process held it first, so a result may be there now.
    pub waited: bool,
    _file: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Removed while locked, so whoever opens the path next makes a new file; see `opened_is_current`.
        let _ = fs_err::remove_file(&self.path);
    }
}

/// A shared hold on the store: nothing is collected while it lasts.
#[derive(Debug)]
pub struct Shared {
    _file: File,
}

/// What a running process uses, for a collection that another one starts meanwhile.
#[derive(Debug)]
pub struct LiveRun {
    path: Utf8PathBuf,
    file: File,
}

impl LiveRun {
    /// Adds a key whose outputs this run relies on. Called while a [`Shared`] hold lasts.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn uses(&self, key: &Digest) -> io::Result<()> {
        (&self.file).write_all(format!("{key}\n").as_bytes())
    }

    /// Adds an object that no record names yet. Called while a [`Shared`] hold lasts.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn uses_object(&self, digest: &Digest) -> io::Result<()> {
        (&self.file).write_all(format!("object {digest}\n").as_bytes())
    }
}

impl Drop for LiveRun {
    fn drop(&mut self) {
        let _ = fs_err::remove_file(&self.path);
    }
}

fn open(path: &Utf8Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent)?;
    }
    Ok(fs_err::OpenOptions::new().create(true).truncate(false).write(true).read(true).open(path)?.into_parts().0)
}

/// Whether the locked file is still the one that the path names: its last holder may have removed it.
fn opened_is_current(file: &File, path: &Utf8Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        match (file.metadata(), fs_err::metadata(path)) {
            (Ok(opened), Ok(named)) => opened.ino() == named.ino() && opened.dev() == named.dev(),
            _ => false,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

impl Store {
    fn claim_path(&self, key: &Digest) -> Utf8PathBuf {
        self.root().join("claims").join(key.hex())
    }

    /// Claims a key, waiting while another process holds it; `waiting` is called once if so. `None` if cancelled.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn claim(
        &self,
        key: &Digest,
        cancel: &CancelToken,
        waiting: &mut dyn FnMut(),
    ) -> Result<Option<Claim>, StoreError> {
        let path = self.claim_path(key);
        let fail = |error| self.error("a key cannot be claimed", error);
        let mut waited = false;
        loop {
            if let Some(file) = self.try_lock(&path).map_err(fail)? {
                return Ok(Some(Claim { path, waited, _file: file }));
            }
            if !waited {
                waited = true;
                waiting();
            }
            if cancel.is_cancelled() {
                return Ok(None);
            }
            std::thread::sleep(PATIENCE);
        }
    }

    /// Whether some process executes this key now.
    pub(super) fn is_claimed(&self, key_hex: &str) -> bool {
        let path = self.root().join("claims").join(key_hex);
        match fs_err::File::open(&path) {
            Ok(file) => matches!(file.file().try_lock(), Err(TryLockError::WouldBlock)),
            Err(_) => false,
        }
    }

    fn try_lock(&self, path: &Utf8Path) -> io::Result<Option<File>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) if opened_is_current(&file, path) => return Ok(Some(file)),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    fn collect_lock(&self) -> io::Result<File> {
        open(&self.root().join("collect.lock"))
    }

    /// Keeps collections away until dropped; waits while one is under way.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn share(&self) -> Result<Shared, StoreError> {
        let fail = |error| self.error("the store cannot be locked", error);
        let file = self.collect_lock().map_err(fail)?;
        file.lock_shared().map_err(fail)?;
        Ok(Shared { _file: file })
    }

    /// The store for a collection alone; waits up to `patience` for others to let go.
    pub(super) fn exclusive(&self, patience: Duration) -> Result<File, StoreError> {
        let fail = |error| self.error("the store cannot be locked", error);
        let file = self.collect_lock().map_err(fail)?;
        let start = std::time::Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if start.elapsed() < patience => std::thread::sleep(PATIENCE),
                Err(TryLockError::WouldBlock) => return Err(StoreError::Busy { root: self.root().to_owned() }),
                Err(TryLockError::Error(error)) => return Err(fail(error)),
            }
        }
    }

    /// Registers a run that is about to use results. The caller holds [`Store::share`].
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn live(&self, run: &str) -> Result<LiveRun, StoreError> {
        let fail = |error| self.error("a run cannot be registered", error);
        let path = self.root().join("live").join(run);
        let file = open(&path).map_err(fail)?;
        file.lock().map_err(fail)?;
        Ok(LiveRun { path, file })
    }

    /// Removes the claims that killed processes left. Called with the store locked.
    pub(super) fn sweep_claims(&self) -> Result<(), StoreError> {
        let fail = |error| self.error("the store cannot be cleaned", error);
        for name in self.files("claims")? {
            let path = self.root().join("claims").join(name);
            if let Some(_held) = self.try_lock(&path).map_err(fail)? {
                self.disk().remove_file(&path).map_err(fail)?;
            }
        }
        Ok(())
    }

    /// The keys and the objects that running processes use; what dead ones left is removed. Called with the store locked.
    pub(super) fn live_uses(&self) -> Result<(Vec<Digest>, Vec<Digest>), StoreError> {
        let fail = |error| self.error("the running processes cannot be listed", error);
        let directory = self.root().join("live");
        let (mut keys, mut objects) = (Vec::new(), Vec::new());
        if !directory.exists() {
            return Ok((keys, objects));
        }
        for name in luthier_core::fs::walk_files(&directory).map_err(fail)? {
            let path = directory.join(name);
            let Ok(file) = fs_err::File::open(&path) else { continue };
            if file.file().try_lock().is_ok() {
                self.disk().remove_file(&path).map_err(fail)?;
                continue;
            }
            let text = fs_err::read_to_string(&path).unwrap_or_default();
            for line in text.lines() {
                match line.strip_prefix("object ") {
                    Some(object) => objects.extend(object.parse::<Digest>()),
                    None => keys.extend(line.parse::<Digest>()),
                }
            }
        }
        Ok((keys, objects))
    }
}
