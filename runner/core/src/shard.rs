//! Results of parts of a stage, kept between runs in the shared cache.
//!
//! A stage whose work divides into shards (a group of rows, a source file) asks for each shard's result by a key over
//! everything that can change it, and files what it had to compute. Nothing here is ever needed: an entry that is absent,
//! damaged or unreadable is a miss, and the outputs of a stage have the same bytes with and without the cache.
//!
//! ```text
//! cache/shards/ab/KEY    magic · length of the payload · BLAKE3 of key and payload · payload
//! ```
//!
//! Invariants: an entry is believed only if its digest is that of its key and payload; entries appear by rename, so that
//! any number of processes may read and write one key; the time of an entry's file is when it was last used, by which
//! garbage collection and the ceiling choose what goes.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};

use crate::context::StageContext;
use crate::digest::Digest;
use crate::outcome::StageOutcome;

const MAGIC: &[u8; 8] = b"LTSHARD1";
const HEADER: usize = MAGIC.len() + 8 + 32;
/// All entries together take at most this many bytes after a stage ends.
const CEILING: u64 = 16 << 30;

/// Everything that decides the result of a shard, hashed field by field.
#[derive(Debug, Clone)]
pub struct ShardKey(blake3::Hasher);

impl ShardKey {
    /// A key for the results of `kind` (such as `tokenize`), whose code is at `recipe`.
    #[must_use]
    pub fn new(kind: &str, recipe: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("luthier 2026-11 shard key v1");
        hasher.update(&recipe.to_le_bytes());
        Self(hasher).with("kind", kind.as_bytes())
    }

    /// Adds a field; the order counts.
    #[must_use]
    pub fn with(mut self, name: &str, value: &[u8]) -> Self {
        for part in [name.as_bytes(), value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds a configuration; the order of its keys does not count.
    #[must_use]
    pub fn with_config(self, name: &str, value: &serde_json::Value) -> Self {
        let text = sorted(value).to_string();
        self.with(name, text.as_bytes())
    }

    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest::from_bytes(*self.0.finalize().as_bytes())
    }
}

fn sorted(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            Value::Object(names.into_iter().map(|name| (name.clone(), sorted(&members[name]))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        plain => plain.clone(),
    }
}

/// One entry as the file system lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardEntry {
    pub path: Utf8PathBuf,
    pub bytes: u64,
    pub used: SystemTime,
}

/// The shards of one run of one stage.
#[derive(Debug)]
pub struct ShardCache {
    directory: Utf8PathBuf,
    /// Only entries that this run has filed are read; they are remembered.
    fresh: Option<Mutex<BTreeSet<Digest>>>,
    ceiling: u64,
    started: SystemTime,
    written: AtomicU64,
    refused: AtomicBool,
    reused: AtomicU64,
    computed: AtomicU64,
}

impl ShardCache {
    /// The shards below the directory `cache`. With `fresh` nothing that an earlier run left is used.
    #[must_use]
    pub fn new(cache: &Utf8Path, fresh: bool) -> Self {
        Self {
            directory: Self::directory(cache),
            fresh: fresh.then(Mutex::default),
            ceiling: CEILING,
            started: SystemTime::now(),
            written: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            reused: AtomicU64::new(0),
            computed: AtomicU64::new(0),
        }
    }

    /// With another ceiling than 16 GiB.
    #[must_use]
    pub fn with_ceiling(mut self, bytes: u64) -> Self {
        self.ceiling = bytes;
        self
    }

    /// Where the entries are.
    #[must_use]
    pub fn directory(cache: &Utf8Path) -> Utf8PathBuf {
        cache.join("shards")
    }

    fn own(&self) -> Option<MutexGuard<'_, BTreeSet<Digest>>> {
        self.fresh.as_ref().map(|own| own.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn path(&self, key: &Digest) -> Utf8PathBuf {
        let hex = key.hex();
        self.directory.join(&hex[..2]).join(&hex[2..])
    }

    /// The result filed under `key`, if there is one and it is whole.
    #[must_use]
    pub fn get(&self, key: &Digest) -> Option<Vec<u8>> {
        if self.own().is_some_and(|own| !own.contains(key)) {
            return None;
        }
        let path = self.path(key);
        let used = fs_err::metadata(&path).ok()?.modified().ok()?;
        let mut bytes = fs_err::read(&path).ok()?;
        if !is_whole(key, &bytes) {
            let _ = fs_err::remove_file(&path);
            return None;
        }
        if used < self.started {
            let touched = fs_err::OpenOptions::new().append(true).open(&path);
            let _ = touched.and_then(|file| file.set_modified(SystemTime::now()));
        }
        bytes.drain(..HEADER);
        Some(bytes)
    }

    /// Whether a result is filed under `key`, whole or not.
    #[must_use]
    pub fn contains(&self, key: &Digest) -> bool {
        self.own().is_none_or(|own| own.contains(key)) && self.path(key).exists()
    }

    /// Files a result. What cannot be written is left out: the next run computes it again.
    pub fn put(&self, key: &Digest, payload: &[u8]) {
        let bytes = (HEADER + payload.len()) as u64;
        if self.refused.load(Ordering::Relaxed) || self.written.load(Ordering::Relaxed) + bytes > self.ceiling {
            return;
        }
        match self.write(key, payload) {
            Ok(()) => {
                self.written.fetch_add(bytes, Ordering::Relaxed);
                if let Some(mut own) = self.own() {
                    own.insert(*key);
                }
            }
            // A full or read-only disk refuses the next one too.
            Err(_) => self.refused.store(true, Ordering::Relaxed),
        }
    }

    fn write(&self, key: &Digest, payload: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        let parent = path.parent().unwrap_or(&self.directory);
        fs_err::create_dir_all(parent)?;
        let mut file = crate::fs::temporary_file(parent, ".tmp-")?;
        file.write_all(MAGIC)?;
        file.write_all(&(payload.len() as u64).to_le_bytes())?;
        file.write_all(digest(key, payload).as_bytes())?;
        file.write_all(payload)?;
        // Not synchronised: what a crash tears is a miss.
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Counts a shard: taken from the cache as a whole, or computed at least in part.
    pub fn count(&self, reused: bool) {
        let counter = if reused { &self.reused } else { &self.computed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Shards that were taken from the cache, and all of them.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let reused = self.reused.load(Ordering::Relaxed);
        (reused, reused + self.computed.load(Ordering::Relaxed))
    }

    /// Reports what was reused in the log and in the measured metrics `shards` and `shards_reused`, and keeps the cache
    /// under its ceiling.
    pub fn finish(&self, context: &StageContext<'_>, outcome: &mut StageOutcome) {
        let (reused, all) = self.counts();
        outcome.measured("shards", all as f64, "").measured("shards_reused", reused as f64, "");
        if reused > 0 {
            context.log(format!("{reused} of {all} shards reused"));
        }
        self.trim();
    }

    /// Removes what was not used for longest while all entries together exceed the ceiling.
    pub fn trim(&self) {
        if self.written.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Ok(mut entries) = Self::entries(&self.directory) else { return };
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.path.cmp(&b.path)));
        for entry in entries {
            if total <= self.ceiling {
                return;
            }
            let _ = fs_err::remove_file(&entry.path);
            total -= entry.bytes;
        }
    }

    /// Every file below `directory`, unfinished ones included.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn entries(directory: &Utf8Path) -> io::Result<Vec<ShardEntry>> {
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        for name in crate::fs::walk_files(directory)? {
            let path = directory.join(name);
            // Another process may have removed it meanwhile.
            let Ok(meta) = fs_err::metadata(&path) else { continue };
            entries.push(ShardEntry { path, bytes: meta.len(), used: meta.modified()? });
        }
        Ok(entries)
    }
}

fn digest(key: &Digest, payload: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes()).update(payload);
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

fn is_whole(key: &Digest, bytes: &[u8]) -> bool {
    let Some((header, payload)) = bytes.split_at_checked(HEADER) else { return false };
    header.starts_with(MAGIC)
        && header[8..16] == (payload.len() as u64).to_le_bytes()
        && header[16..] == *digest(key, payload).as_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn temporary() -> (tempfile::TempDir, Utf8PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(directory.path()).unwrap().to_owned();
        (directory, path)
    }

    #[test]
    fn what_is_filed_is_found_and_what_is_damaged_is_not() {
        let (_kept, root) = temporary();
        let cache = ShardCache::new(&root, false);
        let key = ShardKey::new("test", 1).with("part", b"a").finish();
        let other = ShardKey::new("test", 1).with("part", b"b").finish();
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"payload");
        assert_eq!(cache.get(&key).as_deref(), Some(&b"payload"[..]));
        let whole = fs_err::read(cache.path(&key)).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs_err::write(cache.path(&key), &bytes).unwrap();
            assert_eq!(cache.get(&key), None, "byte {at} changed");
            assert!(!cache.path(&key).exists(), "and went");
            fs_err::write(cache.path(&key), &whole[..at]).unwrap();
            assert_eq!(cache.get(&key), None, "cut at {at}");
        }
        cache.put(&other, b"other");
        fs_err::write(cache.path(&other), &whole).unwrap();
        assert_eq!(cache.get(&other), None, "an entry of another key");
    }

    #[test]
    fn keys_tell_fields_apart_but_not_the_order_of_a_configuration() {
        let key = |kind: &str, recipe, fields: &[(&str, &[u8])]| {
            let start = ShardKey::new(kind, recipe);
            fields.iter().fold(start, |key, (name, value)| key.with(name, value)).finish()
        };
        let keys = [
            key("k", 1, &[("a", b"b")]),
            key("k", 2, &[("a", b"b")]),
            key("l", 1, &[("a", b"b")]),
            key("k", 1, &[("ab", b"")]),
            key("k", 1, &[("a", b"b"), ("", b"")]),
        ];
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
        let config =
            |text: &str| ShardKey::new("k", 1).with_config("config", &serde_json::from_str(text).unwrap()).finish();
        assert_eq!(
            config(r#"{"a": {"x": 1, "y": [2, 3]}, "b": 0}"#),
            config(r#"{"b": 0, "a": {"y": [2, 3], "x": 1}}"#)
        );
        assert_ne!(config(r#"{"y": [2, 3]}"#), config(r#"{"y": [3, 2]}"#));
    }

    #[test]
    fn a_fresh_run_believes_only_itself() {
        let (_kept, root) = temporary();
        let key = Digest::of(b"key");
        let old = ShardCache::new(&root, false);
        old.put(&key, b"old");
        let fresh = ShardCache::new(&root, true);
        assert_eq!((fresh.get(&key), fresh.contains(&key), old.contains(&key)), (None, false, true));
        fresh.put(&key, b"new");
        assert!(fresh.contains(&key));
        assert_eq!(fresh.get(&key).as_deref(), Some(&b"new"[..]));
    }

    #[test]
    fn the_ceiling_takes_what_was_not_used_for_longest() {
        let (_kept, root) = temporary();
        let keys: Vec<Digest> = (0..4u8).map(|n| Digest::of(&[n])).collect();
        let cache = ShardCache::new(&root, false);
        for (age, key) in [40u64, 30, 20].into_iter().zip(&keys) {
            cache.put(key, &[0; 1000]);
            let used = SystemTime::now() - Duration::from_secs(age);
            fs_err::OpenOptions::new().append(true).open(cache.path(key)).unwrap().set_modified(used).unwrap();
        }
        let next = ShardCache::new(&root, false).with_ceiling(3 * (1000 + HEADER as u64));
        assert!(next.get(&keys[0]).is_some(), "used now");
        next.put(&keys[3], &[0; 1000]);
        next.trim();
        let left: Vec<bool> = keys.iter().map(|key| next.get(key).is_some()).collect();
        assert_eq!(left, [true, false, true, true]);
    }

    #[test]
    fn a_disk_that_refuses_is_no_error() {
        let (_kept, root) = temporary();
        fs_err::write(root.join("shards"), "a file where the directory should be").unwrap();
        let cache = ShardCache::new(&root, false);
        cache.put(&Digest::of(b"key"), b"payload");
        assert_eq!(cache.get(&Digest::of(b"key")), None);
        cache.trim();
    }
}
