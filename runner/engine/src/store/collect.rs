//! Garbage collection: what no lock, no recent run and no running process names goes.
//!
//! Marking and sweeping happen under an exclusive lock on the store; a run holds a shared one while it looks results up
//! and notes that it uses them, and while it adds new ones. So nothing vanishes between being found and being used, and
//! a run that executes for days blocks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::Digest;
use serde::Serialize;

use super::verify::filed_digest;
use super::{Store, StoreError};
use crate::lock::Lock;
use crate::run::{RunEvent, journal};

/// How long a collection waits for runs to finish what must not be interrupted.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an unfinished transfer is left to be gone on with.
const RESUMABLE: Duration = Duration::from_secs(7 * 86_400);

/// What to keep besides what running processes use.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Keep what the last N runs used or made, with their checkpoints.
    pub keep_runs: usize,
    /// Keep what these locks name; locks beside pipelines that this store has run are kept without being given.
    pub locks: Vec<Lock>,
    /// Keep results that were made or brought since.
    pub keep_for: Option<Duration>,
    /// Keep the youngest results as long as all that is kept has no more bytes.
    pub keep_size: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// One thing that went, or would.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Removed {
    /// `object`, `tree`, `record`, `checkpoint`, `run`, `shard`, `temporary` or `transfer`.
    pub what: &'static str,
    /// Its digest, key or run id.
    pub name: String,
    /// Freed; a tree's files are hard links to objects and free nothing by themselves.
    pub bytes: u64,
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    pub dry_run: bool,
    pub removed: Vec<Removed>,
    pub freed_bytes: u64,
    /// Removed objects by the stage whose results they were; an object of several stages counts for the first by name.
    pub stages: BTreeMap<String, StageShare>,
    pub kept_objects: usize,
    pub kept_bytes: u64,
}

/// What goes of one stage's results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StageShare {
    pub objects: usize,
    pub bytes: u64,
}

/// Objects of which no record is left.
const UNNAMED: &str = "of no result";

/// Bytes on disk, by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DiskUsage {
    pub objects: u64,
    pub records: u64,
    /// Of stages that run, failed or were killed.
    pub scratch: u64,
    /// What can be made again.
    pub cache: u64,
    pub runs: u64,
}

/// What roots reach.
#[derive(Debug, Default)]
struct Marked {
    /// With their executable bit.
    objects: BTreeSet<(Digest, bool)>,
    trees: BTreeSet<Digest>,
}

/// What must stay.
#[derive(Debug, Default)]
struct Roots {
    keys: BTreeSet<Digest>,
    /// Digests of files and trees that a lock names, also where the record is gone.
    artifacts: BTreeSet<(Digest, bool)>,
    /// Of files that no record names yet.
    objects: BTreeSet<Digest>,
    runs: BTreeSet<String>,
}

fn size(path: &Utf8Path) -> u64 {
    let Ok(files) = luthier_core::fs::walk_files(path) else { return 0 };
    files.iter().filter_map(|file| fs_err::metadata(path.join(file)).ok()).map(|meta| meta.len()).sum()
}

impl Store {
    /// Removes what nothing names.
    ///
    /// # Errors
    /// The store is busy for long, a lock beside a known pipeline does not parse (nothing is removed then, for fear of
    /// removing what it names), or the store cannot be written.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        let mut report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
        if !self.root().exists() {
            return Ok(report);
        }
        let _alone = self.exclusive(PATIENCE)?;
        let mut roots = self.roots(options)?;
        let mut marked = self.mark(&roots)?;
        if options.keep_for.is_some() || options.keep_size.is_some() {
            self.keep_young(options, &mut roots, &mut marked)?;
        }
        let owners = self.owners(&roots)?;
        self.sweep_trees(&marked.trees, &mut report)?;
        self.sweep_objects(&marked.objects, &mut report)?;
        self.sweep_records(&roots, &mut report)?;
        self.sweep_rest(&roots, &mut report)?;
        self.sweep_shards(roots.runs.first().map(String::as_str), options.keep_for, &mut report)?;
        report.freed_bytes = report.removed.iter().map(|removed| removed.bytes).sum();
        report.removed.sort();
        for removed in report.removed.iter().filter(|removed| removed.what == "object") {
            let owner = removed.name.parse().ok().and_then(|digest: Digest| owners.get(&digest));
            let share = report.stages.entry(owner.cloned().unwrap_or_else(|| UNNAMED.to_owned())).or_default();
            share.objects += 1;
            share.bytes += removed.bytes;
        }
        if !options.dry_run {
            self.sweep_claims()?;
            self.memo().save();
        }
        Ok(report)
    }

    fn roots(&self, options: &GcOptions) -> Result<Roots, StoreError> {
        let mut roots = Roots::default();
        let mut locks = options.locks.clone();
        for pipeline in self.known_pipelines() {
            let file = pipeline.with_extension("lock");
            let lock = Lock::read(&file).map_err(|error| StoreError::Io {
                what: format!("the lock `{file}` cannot be read, so nothing was removed"),
                source: std::io::Error::other(error),
            })?;
            locks.extend(lock);
        }
        for stage in locks.iter().flat_map(|lock| lock.stages.values()) {
            roots.keys.insert(stage.key);
            roots.artifacts.extend(stage.outputs.values().map(|artifact| (artifact.digest, artifact.tree)));
        }
        let ids = journal::ids(self.workspace());
        for id in ids.iter().take(options.keep_runs) {
            roots.runs.insert(id.clone());
            for event in journal::events(self.workspace(), id).unwrap_or_default() {
                match event {
                    RunEvent::StageReused { key, .. } | RunEvent::StageStarted { key, .. } => {
                        roots.keys.insert(key);
                    }
                    _ => {}
                }
            }
        }
        let live = self.root().join("live");
        roots.runs.extend(ids.into_iter().filter(|id| live.join(id).exists()));
        let (keys, objects) = self.live_uses()?;
        roots.keys.extend(keys);
        roots.objects.extend(objects);
        Ok(roots)
    }

    /// Adds results that nothing names but that are young, youngest first.
    fn keep_young(&self, options: &GcOptions, roots: &mut Roots, marked: &mut Marked) -> Result<(), StoreError> {
        let root = self.root().join("records");
        let mut young = Vec::new();
        for name in self.files("records")? {
            let Some(key) = filed_digest(&name).filter(|key| !roots.keys.contains(key)) else { continue };
            if let Ok(time) = fs_err::metadata(root.join(&name)).and_then(|meta| meta.modified()) {
                young.push((std::cmp::Reverse(time), key));
            }
        }
        young.sort();
        let bytes = |marked: &Marked| -> u64 {
            let sizes = marked.objects.iter().map(|(digest, executable)| self.object_path(digest, *executable));
            sizes.filter_map(|path| fs_err::metadata(path).ok()).map(|meta| meta.len()).sum()
        };
        let now = std::time::SystemTime::now();
        let mut kept = bytes(marked);
        for (std::cmp::Reverse(time), key) in young {
            let age = now.duration_since(time).unwrap_or_default();
            if options.keep_for.is_some_and(|limit| age > limit) {
                break;
            }
            let more = self.mark(&Roots { keys: BTreeSet::from([key]), ..Roots::default() })?;
            let new =
                Marked { objects: more.objects.difference(&marked.objects).copied().collect(), trees: BTreeSet::new() };
            kept += bytes(&new);
            if options.keep_size.is_some_and(|limit| kept > limit) {
                break;
            }
            roots.keys.insert(key);
            marked.objects.extend(more.objects);
            marked.trees.extend(more.trees);
        }
        Ok(())
    }

    /// Which stage the objects of results that go belong to.
    fn owners(&self, roots: &Roots) -> Result<BTreeMap<Digest, String>, StoreError> {
        let mut owners: BTreeMap<Digest, String> = BTreeMap::new();
        for name in self.files("records")? {
            let Some(key) = filed_digest(&name).filter(|key| !roots.keys.contains(key)) else { continue };
            let Some(record) = self.record(&key)? else { continue };
            let reached = self.mark(&Roots { keys: BTreeSet::from([key]), ..Roots::default() })?;
            for (digest, _) in reached.objects {
                let owner = owners.entry(digest).or_insert_with(|| record.stage.to_string());
                if record.stage.as_str() < owner.as_str() {
                    *owner = record.stage.to_string();
                }
            }
        }
        Ok(owners)
    }

    /// The locks beside the pipelines that this store has run.
    #[must_use]
    pub fn known_locks(&self) -> Vec<Utf8PathBuf> {
        let beside = self.known_pipelines().into_iter().map(|pipeline| pipeline.with_extension("lock"));
        beside.filter(|path| path.is_file()).collect()
    }

    fn mark(&self, roots: &Roots) -> Result<Marked, StoreError> {
        let mut artifacts = roots.artifacts.clone();
        for key in &roots.keys {
            if let Some(record) = self.record(key)? {
                artifacts.extend(record.outputs.values().map(|artifact| (artifact.digest, artifact.tree)));
            }
        }
        let mut marked = Marked::default();
        marked.objects.extend(roots.objects.iter().flat_map(|digest| [(*digest, false), (*digest, true)]));
        for (digest, tree) in artifacts {
            if tree {
                marked.trees.insert(digest);
                let entries = self.tree_entries(&digest)?.unwrap_or_default();
                marked.objects.extend(entries.iter().map(|entry| (entry.digest, entry.executable)));
            } else {
                marked.objects.insert((digest, false));
            }
        }
        Ok(marked)
    }

    fn sweep_trees(&self, kept: &BTreeSet<Digest>, report: &mut GcReport) -> Result<(), StoreError> {
        let fail = |error| self.error("the store cannot be cleaned", error);
        for digest in self.tree_digests()? {
            if kept.contains(&digest) {
                continue;
            }
            if !report.dry_run {
                let root = self.tree_path(&digest);
                for entry in self.tree_entries(&digest)?.unwrap_or_default() {
                    self.memo().forget(&root.join(&entry.path));
                }
                self.memo().forget(&root);
                // The manifest first: a tree without one does not count as stored.
                self.disk().remove_file(&self.manifest_path(&digest)).map_err(fail)?;
                self.disk().remove_tree(&root).map_err(fail)?;
            }
            report.removed.push(Removed { what: "tree", name: digest.hex(), bytes: 0 });
        }
        Ok(())
    }

    fn sweep_objects(&self, kept: &BTreeSet<(Digest, bool)>, report: &mut GcReport) -> Result<(), StoreError> {
        let fail = |error| self.error("the store cannot be cleaned", error);
        let root = self.root().join("objects");
        for name in self.files("objects")? {
            let path = root.join(&name);
            let bytes = fs_err::metadata(&path).map_or(0, |meta| meta.len());
            let Some(digest) = filed_digest(&name) else { continue };
            if kept.contains(&(digest, name.ends_with(".x"))) {
                report.kept_objects += 1;
                report.kept_bytes += bytes;
                continue;
            }
            if !report.dry_run {
                self.memo().forget(&path);
                self.disk().remove_file(&path).map_err(fail)?;
            }
            report.removed.push(Removed { what: "object", name: digest.hex(), bytes });
        }
        Ok(())
    }

    fn sweep_records(&self, roots: &Roots, report: &mut GcReport) -> Result<(), StoreError> {
        let fail = |error| self.error("the store cannot be cleaned", error);
        for name in self.files("records")? {
            let Some(key) = filed_digest(&name) else { continue };
            if roots.keys.contains(&key) {
                continue;
            }
            let path = self.root().join("records").join(&name);
            let bytes = fs_err::metadata(&path).map_or(0, |meta| meta.len());
            if !report.dry_run {
                self.disk().remove_file(&path).map_err(fail)?;
            }
            report.removed.push(Removed { what: "record", name: key.hex(), bytes });
        }
        Ok(())
    }

    /// Scratch that nobody executes in, old runs, unfinished files.
    fn sweep_rest(&self, roots: &Roots, report: &mut GcReport) -> Result<(), StoreError> {
        let claimed = |name: &str| self.is_claimed(name);
        let live = self.root().join("live");
        let kept_key = |name: &str| name.parse().is_ok_and(|key: Digest| roots.keys.contains(&key));
        let scratch = self.workspace().scratch_dir();
        // A job elsewhere may have lost its runner and go on; the next run follows it.
        let job = |name: &str| scratch.join(name).join("job.json").exists();
        self.sweep_directory(&scratch, "checkpoint", report, &|name| {
            claimed(name) || kept_key(name) || live.join(name).exists() || job(name)
        })?;
        self.sweep_directory(&self.workspace().runs_dir(), "run", report, &|name| {
            name == "last" || roots.runs.contains(name)
        })?;
        self.sweep_transfers(report)?;
        self.sweep_directory(&self.root().join("tmp"), "temporary", report, &|_| false)
    }

    /// What killed pulls and pushes left, unless one is under way or may go on soon.
    fn sweep_transfers(&self, report: &mut GcReport) -> Result<(), StoreError> {
        let directory = self.workspace().cache_dir().join("remote");
        let now = std::time::SystemTime::now();
        let fresh = |name: &str| {
            let modified = fs_err::metadata(directory.join(name)).and_then(|meta| meta.modified());
            modified.is_ok_and(|time| now.duration_since(time).unwrap_or_default() < RESUMABLE)
        };
        self.sweep_directory(&directory, "transfer", report, &fresh)
    }

    fn sweep_directory(
        &self,
        directory: &Utf8Path,
        what: &'static str,
        report: &mut GcReport,
        keep: &dyn Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        let fail = |error| self.error("the store cannot be cleaned", error);
        if !directory.exists() {
            return Ok(());
        }
        for entry in fs_err::read_dir(directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if keep(&name) {
                continue;
            }
            let path: Utf8PathBuf = directory.join(&name);
            let is_dir = path.is_dir();
            let bytes = if is_dir { size(&path) } else { fs_err::metadata(&path).map_or(0, |meta| meta.len()) };
            if !report.dry_run {
                let removed = if is_dir { self.disk().remove_tree(&path) } else { self.disk().remove_file(&path) };
                removed.map_err(fail)?;
            }
            report.removed.push(Removed { what, name, bytes });
        }
        Ok(())
    }

    /// How much disk the workspace takes.
    ///
    /// # Errors
    /// Never today; kept for file systems that refuse to be listed.
    pub fn disk_usage(&self) -> Result<DiskUsage, StoreError> {
        let workspace = self.workspace();
        Ok(DiskUsage {
            objects: size(&self.root().join("objects")),
            records: size(&self.root().join("records")) + size(&self.root().join("index")),
            scratch: size(&workspace.scratch_dir()),
            cache: size(&workspace.cache_dir()),
            runs: size(&workspace.runs_dir()),
        })
    }
}
