//! Digests remembered by what `stat` says, so that unchanged files are not read again.
//!
//! One file per store, loaded when first asked, written once at the end if something new was learnt. An entry is keyed
//! by path and holds size, modification time in nanoseconds and inode. A file modified less than [`RACY`] before it was
//! hashed could change again without its timestamp moving, so it is not remembered and is hashed again next time;
//! objects of the store are exempt, because nobody else may write them. The memo is a cache of facts that can be found
//! again: a damaged or lost file costs time, never correctness.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::Metadata;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::Digest;

/// The coarsest timestamps of file systems in use (FAT) count two seconds.
const RACY: Duration = Duration::from_secs(2);

const HEADER: &str = "luthier stat memo 1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    size: u64,
    modified: i128,
    inode: u64,
    digest: Digest,
}

#[derive(Debug, Default)]
struct State {
    /// What the file held; `None` until loaded.
    loaded: Option<BTreeMap<String, Entry>>,
    fresh: BTreeMap<String, Entry>,
    forgotten: BTreeSet<String>,
}

/// The memo of one store.
#[derive(Debug)]
pub struct StatMemo {
    file: Utf8PathBuf,
    state: Mutex<State>,
}

/// Nanoseconds since the epoch, also before it.
fn modified(meta: &Metadata) -> Option<i128> {
    let time = meta.modified().ok()?;
    Some(match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    })
}

#[cfg(unix)]
fn inode(meta: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(not(unix))]
fn inode(_meta: &Metadata) -> u64 {
    0
}

impl StatMemo {
    pub(super) fn new(file: Utf8PathBuf) -> Self {
        Self { file, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every update is a single insertion, so a panic elsewhere cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self) -> BTreeMap<String, Entry> {
        fs_err::read_to_string(&self.file).ok().and_then(|text| parse(&text)).unwrap_or_default()
    }

    /// The digest of the file, if `meta` (of the path just now) is what it was when it was hashed.
    #[must_use]
    pub fn recall(&self, path: &Utf8Path, meta: &Metadata) -> Option<Digest> {
        let mut state = self.state();
        if state.loaded.is_none() {
            state.loaded = Some(self.load());
        }
        let entry = match state.fresh.get(path.as_str()) {
            Some(entry) => entry,
            None if state.forgotten.contains(path.as_str()) => return None,
            None => state.loaded.as_ref()?.get(path.as_str())?,
        };
        let same = entry.size == meta.len() && Some(entry.modified) == modified(meta) && entry.inode == inode(meta);
        same.then_some(entry.digest)
    }

    /// Remembers the digest of a file of the working tree, hashed while `meta` held; `hashed_from` is when hashing
    /// began.
    fn remember(&self, path: &Utf8Path, meta: &Metadata, digest: Digest, hashed_from: SystemTime) {
        let settled =
            meta.modified().ok().and_then(|time| hashed_from.duration_since(time).ok()).is_some_and(|age| age > RACY);
        if settled {
            self.remember_owned(path, meta, digest);
        }
    }

    /// Remembers the digest of a file that nobody else writes.
    pub fn remember_owned(&self, path: &Utf8Path, meta: &Metadata, digest: Digest) {
        let Some(modified) = modified(meta) else { return };
        if path.as_str().contains('\n') {
            return;
        }
        let entry = Entry { size: meta.len(), modified, inode: inode(meta), digest };
        self.state().fresh.insert(path.as_str().to_owned(), entry);
    }

    /// Drops what is known of a path.
    pub fn forget(&self, path: &Utf8Path) {
        let mut state = self.state();
        state.fresh.remove(path.as_str());
        state.forgotten.insert(path.as_str().to_owned());
    }

    /// The digest of a file of the working tree: remembered, or hashed now.
    ///
    /// # Errors
    /// The file cannot be read, or changes each time it is.
    pub fn digest(&self, path: &Utf8Path) -> io::Result<(Digest, u64)> {
        let mut before = fs_err::metadata(path)?;
        if let Some(digest) = self.recall(path, &before) {
            return Ok((digest, before.len()));
        }
        for _ in 0..3 {
            let hashed_from = SystemTime::now();
            let digest = luthier_core::digest_file(path)?;
            let after = fs_err::metadata(path)?;
            if after.len() == before.len() && modified(&after) == modified(&before) && inode(&after) == inode(&before) {
                self.remember(path, &after, digest, hashed_from);
                return Ok((digest, after.len()));
            }
            before = after;
        }
        Err(io::Error::other(format!("`{path}` keeps changing while it is read")))
    }

    /// Writes what was learnt, merged with what other processes wrote meanwhile. A failure is no loss but of time.
    pub fn save(&self) {
        let mut state = self.state();
        if state.fresh.is_empty() && state.forgotten.is_empty() {
            return;
        }
        let mut entries = self.load();
        let forgotten = std::mem::take(&mut state.forgotten);
        entries.retain(|path, _| !forgotten.contains(path));
        entries.append(&mut state.fresh);
        if let Err(error) = self.write(&render(&entries)) {
            tracing::debug!("the stat memo was not written: {error}");
        }
        state.loaded = Some(entries);
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let Some(parent) = self.file.parent() else { return Ok(()) };
        fs_err::create_dir_all(parent)?;
        let mut temporary = luthier_core::fs::temporary_file(parent, ".memo-")?;
        // Not synchronised: the checksum finds a file that a power failure tore.
        io::Write::write_all(&mut temporary, text.as_bytes())?;
        temporary.persist(&self.file).map_err(|error| error.error)?;
        Ok(())
    }
}

fn render(entries: &BTreeMap<String, Entry>) -> String {
    let mut text = String::with_capacity(entries.len() * 160 + 128);
    text.push_str(HEADER);
    text.push('\n');
    for (path, entry) in entries {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {} {} {path}", entry.size, entry.modified, entry.inode, entry.digest);
    }
    let checksum = Digest::of(text.as_bytes());
    let _ = writeln!(text, "{checksum}");
    text
}

fn parse(text: &str) -> Option<BTreeMap<String, Entry>> {
    let body_end = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (body, checksum) = text.split_at(body_end);
    if checksum.parse::<Digest>().ok()? != Digest::of(body.as_bytes()) {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != HEADER {
        return None;
    }
    lines
        .map(|line| {
            let mut parts = line.splitn(5, ' ');
            let size = parts.next()?.parse().ok()?;
            let modified = parts.next()?.parse().ok()?;
            let inode = parts.next()?.parse().ok()?;
            let digest = parts.next()?.parse().ok()?;
            Some((parts.next()?.to_owned(), Entry { size, modified, inode, digest }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(path: &Utf8Path, seconds: u64) {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        fs_err::File::options().write(true).open(path).unwrap().file().set_modified(time).unwrap();
    }

    #[test]
    fn remembers_settled_files_and_rehashes_racy_ones() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let (memo_file, path) = (root.join("memo"), root.join("data"));
        fs_err::write(&path, "one").unwrap();

        let memo = StatMemo::new(memo_file.clone());
        assert_eq!(memo.digest(&path).unwrap().0, Digest::of(b"one"));
        assert_eq!(memo.recall(&path, &fs_err::metadata(&path).unwrap()), None, "just written, so racy");

        age(&path, 10);
        assert_eq!(memo.digest(&path).unwrap().0, Digest::of(b"one"));
        memo.save();
        let memo = StatMemo::new(memo_file.clone());
        assert_eq!(memo.recall(&path, &fs_err::metadata(&path).unwrap()), Some(Digest::of(b"one")));

        fs_err::write(&path, "two").unwrap();
        assert_eq!(memo.digest(&path).unwrap().0, Digest::of(b"two"), "another time, same size");

        let mut torn = fs_err::read_to_string(&memo_file).unwrap();
        torn.truncate(torn.len() - 70);
        fs_err::write(&memo_file, torn).unwrap();
        age(&path, 10);
        assert_eq!(StatMemo::new(memo_file).digest(&path).unwrap().0, Digest::of(b"two"));
    }
}
