//! Every write of the store goes through here, one step at a time, so that tests can fail or tear each of them.
//!
//! The order that makes the store crash-safe: content is written under a temporary name, synchronised, renamed, and the
//! directory synchronised; only then is anything written that names it.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use camino::{Utf8Path, Utf8PathBuf};

/// A step that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    MakeDirectory,
    Write,
    Synchronise,
    Permissions,
    Rename,
    Link,
    SynchroniseDirectory,
    Append,
    Remove,
}

/// How an injected fault shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The step does nothing and fails.
    Fail(io::ErrorKind),
    /// Half of the bytes reach the disk, then the step fails.
    Tear,
    /// The step takes long, so that others overtake it.
    Delay(std::time::Duration),
}

/// Asked before each step; for tests.
pub type FaultHook = Arc<dyn Fn(Step, &Utf8Path) -> Option<Fault> + Send + Sync>;

/// The store's hands.
#[derive(Clone)]
pub(super) struct Disk {
    /// Where temporary files go: on the file system of the objects.
    temporary: Utf8PathBuf,
    hook: Option<FaultHook>,
    opened: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("temporary", &self.temporary).finish_non_exhaustive()
    }
}

impl Disk {
    pub fn new(temporary: Utf8PathBuf, hook: Option<FaultHook>) -> Self {
        Self { temporary, hook, opened: Arc::default(), written: Arc::default() }
    }

    /// Files opened for reading, and write steps taken, so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.opened.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed))
    }

    fn step(&self, step: Step, path: &Utf8Path) -> io::Result<Option<Fault>> {
        self.written.fetch_add(1, Ordering::Relaxed);
        match self.hook.as_ref().and_then(|hook| hook(step, path)) {
            Some(Fault::Delay(time)) => {
                std::thread::sleep(time);
                Ok(None)
            }
            Some(Fault::Fail(kind)) => Err(io::Error::new(kind, format!("injected fault: {step:?} `{path}`"))),
            other => Ok(other),
        }
    }

    /// The whole file, or `None` if there is none.
    pub fn read(&self, path: &Utf8Path) -> io::Result<Option<Vec<u8>>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        match fs_err::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn make_directory(&self, path: &Utf8Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.step(Step::MakeDirectory, path)?;
        fs_err::create_dir_all(path)
    }

    /// A new temporary directory, removed by the caller or by the next collection.
    pub fn temporary_directory(&self) -> io::Result<tempfile::TempDir> {
        self.make_directory(&self.temporary)?;
        tempfile::Builder::new().prefix("tree-").tempdir_in(&self.temporary)
    }

    /// Writes a file so that a reader, or the next start after a crash, sees the old content or the new.
    pub fn write_atomic(&self, path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
        unswept(|| self.write_once(path, bytes))
    }

    fn write_once(&self, path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
        let parent = path.parent().unwrap_or(&self.temporary);
        self.make_directory(parent)?;
        self.make_directory(&self.temporary)?;
        let mut temporary = luthier_core::fs::temporary_file(&self.temporary, "file-")?;
        if self.step(Step::Write, path)? == Some(Fault::Tear) {
            temporary.write_all(&bytes[..bytes.len() / 2])?;
            // A process that dies here leaves the torn file behind.
            let _ = temporary.keep();
            return Err(io::Error::other(format!("injected fault: torn write of `{path}`")));
        }
        temporary.write_all(bytes)?;
        self.step(Step::Synchronise, path)?;
        temporary.as_file().sync_all()?;
        self.step(Step::Rename, path)?;
        temporary.persist(path).map_err(|error| error.error)?;
        self.synchronise_directory(parent)
    }

    /// Adds one line to a file with a single write, so that lines of several processes do not mix.
    pub fn append_line(&self, path: &Utf8Path, line: &str) -> io::Result<()> {
        unswept(|| self.append_once(path, line))
    }

    fn append_once(&self, path: &Utf8Path, line: &str) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.make_directory(parent)?;
        }
        let mut file = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
        // A line that a crash tore must not swallow this one; empty lines are skipped by the reader.
        let text = format!("\n{line}\n");
        if self.step(Step::Append, path)? == Some(Fault::Tear) {
            file.write_all(&text.as_bytes()[..text.len() / 2])?;
            return Err(io::Error::other(format!("injected fault: torn append to `{path}`")));
        }
        file.write_all(text.as_bytes())
    }

    /// Makes a finished file durable and read-only, then gives it its final name. Falls back to a copy where the two
    /// names are on different file systems.
    pub fn place(&self, from: &Utf8Path, to: &Utf8Path, executable: bool) -> io::Result<()> {
        let parent = to.parent().unwrap_or(&self.temporary);
        self.make_directory(parent)?;
        self.seal(from, executable)?;
        self.step(Step::Rename, to)?;
        match fs_err::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let copy = self.copy(from)?;
                self.seal(&copy, executable)?;
                fs_err::rename(&copy, to)?;
                fs_err::remove_file(from)?;
            }
            other => other?,
        }
        self.synchronise_directory(parent)
    }

    fn seal(&self, path: &Utf8Path, executable: bool) -> io::Result<()> {
        self.step(Step::Synchronise, path)?;
        fs_err::File::open(path)?.sync_all()?;
        self.step(Step::Permissions, path)?;
        set_read_only(path, executable)
    }

    /// An own copy of a file, by reflink where the file system can.
    pub fn copy(&self, from: &Utf8Path) -> io::Result<Utf8PathBuf> {
        self.make_directory(&self.temporary)?;
        let holder = tempfile::Builder::new().prefix("copy-").tempfile_in(&self.temporary)?;
        let (_, path) = holder.keep().map_err(|error| error.error)?;
        let path = Utf8PathBuf::from_path_buf(path)
            .map_err(|path| io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is not UTF-8", path.display())))?;
        fs_err::remove_file(&path)?;
        self.step(Step::Write, &path)?;
        reflink_copy::reflink_or_copy(from, &path)
            .map_err(|error| io::Error::new(error.kind(), format!("failed to copy `{from}`: {error}")))?;
        Ok(path)
    }

    /// A second name for a stored file; a copy where links are refused.
    pub fn link(&self, from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
        self.step(Step::Link, to)?;
        if fs_err::hard_link(from, to).is_ok() {
            return Ok(());
        }
        reflink_copy::reflink_or_copy(from, to)
            .map_err(|error| io::Error::new(error.kind(), format!("failed to copy `{from}`: {error}")))?;
        Ok(())
    }

    /// Gives a finished directory its final name; one that is there already stays.
    pub fn place_directory(&self, from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
        let parent = to.parent().unwrap_or(&self.temporary);
        self.make_directory(parent)?;
        self.step(Step::Rename, to)?;
        match fs_err::rename(from, to) {
            Err(_) if to.is_dir() => return Ok(()),
            other => other?,
        }
        self.synchronise_directory(parent)
    }

    pub fn synchronise_directory(&self, path: &Utf8Path) -> io::Result<()> {
        self.step(Step::SynchroniseDirectory, path)?;
        #[cfg(unix)]
        fs_err::File::open(path)?.sync_all()?;
        Ok(())
    }

    pub fn remove_file(&self, path: &Utf8Path) -> io::Result<()> {
        self.step(Step::Remove, path)?;
        ignore_missing(fs_err::remove_file(path))
    }

    pub fn remove_tree(&self, path: &Utf8Path) -> io::Result<()> {
        self.step(Step::Remove, path)?;
        ignore_missing(fs_err::remove_dir_all(path))
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn set_read_only(path: &Utf8Path, executable: bool) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs_err::set_permissions(path, std::fs::Permissions::from_mode(if executable { 0o555 } else { 0o444 }))
    }
    #[cfg(not(unix))]
    {
        let _ = executable;
        let mut permissions = fs_err::metadata(path)?.permissions();
        permissions.set_readonly(true);
        fs_err::set_permissions(path, permissions)
    }
}

/// A collection of another process may take a temporary file, or a directory that is still empty, from under a write of a
/// few bytes; nothing of it is visible then, so it is made again.
fn unswept(write: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let mut result = write();
    for _ in 0..8 {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => result = write(),
            _ => break,
        }
    }
    result
}
