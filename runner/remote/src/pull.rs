//! From the remote into the store: look results up, bring the bytes they lack, file the records last.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8PathBuf;
use luthier_core::{Artifact, CancelToken, Digest, TreeEntry};
use luthier_engine::lock::LockStage;
use luthier_engine::run::{Shipment, Wanted, run_id};
use luthier_engine::store::{LiveRun, StageRecord, Store, StoreError};

use crate::download::Received;
use crate::error::RemoteError;
use crate::remote::ObjectRemote;
use crate::{layout, transfer};

/// A result that is known, with every file it consists of.
struct Found<'a> {
    wanted: &'a Wanted,
    record: StageRecord,
    /// Per tree, its files.
    trees: Vec<(Artifact, Vec<TreeEntry>)>,
    /// All files: digest, size, executable bit.
    files: BTreeSet<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct File {
    pub digest: Digest,
    pub size: u64,
    pub executable: bool,
}

type Outcomes = BTreeMap<Digest, Result<Received, RemoteError>>;

pub(crate) fn pull(remote: &ObjectRemote, store: &Store, wanted: &[Wanted], cancel: &CancelToken) -> Shipment {
    let mut shipment = Shipment::default();
    if wanted.is_empty() || remote.is_down() {
        shipment.skipped = wanted.iter().map(|one| one.stage.clone()).collect();
        return shipment;
    }
    let mut found = Vec::new();
    for (wanted, result) in wanted.iter().zip(transfer::each(wanted, |one| look_up(remote, store, one, cancel))) {
        match result {
            Ok(Some(result)) => found.push(result),
            Ok(None) => shipment.skipped.push(wanted.stage.clone()),
            Err(error) => {
                shipment.skipped.push(wanted.stage.clone());
                remote.note(&mut shipment, Some(&wanted.stage), &error);
            }
        }
    }
    if found.is_empty() {
        return shipment;
    }
    let id = format!("{}-pull-{}", run_id(std::time::SystemTime::now()), std::process::id());
    // Under a shared hold, or a collection would take the note for that of a dead process.
    let live = match store.share().and_then(|_shared| store.live(&id)) {
        Ok(live) => live,
        Err(error) => {
            remote.note(&mut shipment, None, &error.into());
            return shipment;
        }
    };
    let files: Vec<File> =
        found.iter().flat_map(|one| &one.files).copied().collect::<BTreeSet<_>>().into_iter().collect();
    // One transfer for both names of the same bytes.
    let mut by_digest: BTreeMap<Digest, Vec<File>> = BTreeMap::new();
    for file in files {
        by_digest.entry(file.digest).or_default().push(file);
    }
    let groups: Vec<(Digest, Vec<File>)> = by_digest.into_iter().collect();
    let brought = transfer::each(&groups, |(_, files)| bring(remote, store, files, &live, cancel));
    let outcomes: Outcomes = groups.iter().map(|(digest, _)| *digest).zip(brought).collect();
    for received in outcomes.values().flatten() {
        shipment.objects += usize::from(received.bytes > 0);
        shipment.bytes += received.bytes;
        shipment.resumed += received.resumed;
    }
    let mut told = BTreeSet::new();
    for result in found {
        let stage = result.wanted.stage.clone();
        let failed =
            result.files.iter().find_map(|file| Some((file.digest, outcomes.get(&file.digest)?.as_ref().err()?)));
        let filed = match failed {
            // What one missing file means for several stages is said once.
            Some((digest, error)) => {
                if told.insert(digest) {
                    remote.note(&mut shipment, Some(&stage), error);
                }
                false
            }
            None => match file(store, &live, result) {
                Ok(()) => true,
                Err(error) => {
                    remote.note(&mut shipment, Some(&stage), &error.into());
                    false
                }
            },
        };
        if filed { shipment.stages.push(stage) } else { shipment.skipped.push(stage) }
    }
    store.memo().save();
    shipment
}

/// Finds out what the result is and of which files it consists.
fn look_up<'a>(
    remote: &ObjectRemote,
    store: &Store,
    wanted: &'a Wanted,
    cancel: &CancelToken,
) -> Result<Option<Found<'a>>, RemoteError> {
    if cancel.is_cancelled() {
        return Err(RemoteError::Interrupted);
    }
    let name = layout::record(&wanted.key);
    let known = match store.record(&wanted.key)? {
        Some(record) if agrees(&record, wanted.locked.as_ref()) => Some(record),
        _ => match remote.blobs.get(&name)? {
            None => None,
            Some(bytes) => match layout::parse(&bytes, &wanted.key) {
                Ok(record) => record.filter(|record| agrees(record, wanted.locked.as_ref())),
                // The lock says all that is needed.
                Err(_) if wanted.locked.is_some() => None,
                Err(problem) => return Err(remote.damaged(name, problem)),
            },
        },
    };
    let from_lock = known.is_none();
    let record = match (known, &wanted.locked) {
        (Some(record), _) => record,
        (None, Some(locked)) => locked.to_record(&wanted.stage),
        (None, None) => return Ok(None),
    };
    let (mut trees, mut files) = (Vec::new(), BTreeSet::new());
    for artifact in record.outputs.values() {
        if !artifact.tree {
            files.insert(File { digest: artifact.digest, size: artifact.size, executable: false });
            continue;
        }
        let entries = match store.tree_entries(&artifact.digest)? {
            Some(entries) => entries,
            None => {
                let name = layout::tree(&artifact.digest);
                match remote.blobs.get(&name)? {
                    Some(bytes) => Store::parse_manifest(&bytes, &artifact.digest)
                        .ok_or_else(|| remote.damaged(name, "it is not the manifest of this tree".to_owned()))?,
                    // Nobody ever sent what the lock names.
                    None if from_lock => return Ok(None),
                    None => return Err(remote.missing(name)),
                }
            }
        };
        files.extend(entries.iter().map(|entry| File {
            digest: entry.digest,
            size: entry.size,
            executable: entry.executable,
        }));
        trees.push((artifact.clone(), entries));
    }
    if from_lock && !all_there(remote, store, &files)? {
        return Ok(None);
    }
    Ok(Some(Found { wanted, record, trees, files }))
}

/// Without a record nothing says that the remote has the files of a result.
fn all_there(remote: &ObjectRemote, store: &Store, files: &BTreeSet<File>) -> Result<bool, RemoteError> {
    for file in files {
        if !store.holds(&file.digest, file.size, file.executable)?
            && remote.blobs.size(&layout::object(&file.digest))?.is_none()
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn agrees(record: &StageRecord, locked: Option<&LockStage>) -> bool {
    locked.is_none_or(|locked| locked.outputs == record.outputs)
}

/// Brings the bytes of one digest into the store, under each name they need.
fn bring(
    remote: &ObjectRemote,
    store: &Store,
    files: &[File],
    live: &LiveRun,
    cancel: &CancelToken,
) -> Result<Received, RemoteError> {
    let mut received = Received::default();
    for file in files {
        let File { digest, size, executable } = *file;
        let here = || -> Result<bool, RemoteError> {
            let _shared = store.share()?;
            live.uses_object(&digest).map_err(|error| unnoted(store, error))?;
            Ok(store.holds(&digest, size, executable)? || store.adopt_twin(&digest, size, executable)?)
        };
        if here()? {
            continue;
        }
        let (part, lock) = parts(store, &digest);
        let unwritten =
            |error| StoreError::sort(store.workspace().root(), "what the remote sends cannot be kept", error);
        let held = remote.exclusive(&lock).map_err(unwritten)?;
        // Whoever held it before may have brought the same.
        if here()? {
            continue;
        }
        let name = layout::object(&digest);
        let mut got = remote.blobs.download(&name, &part, size, cancel)?;
        let adopt = || -> Result<(), StoreError> {
            let _shared = store.share()?;
            store.adopt_file(&part, &digest, executable)
        };
        match adopt() {
            // What was left of an earlier try may be what is wrong.
            Err(StoreError::Damaged { .. }) if got.resumed > 0 => {
                fs_err::remove_file(&part).map_err(unwritten)?;
                got = remote.blobs.download(&name, &part, size, cancel)?;
                accept(remote, &name, adopt(), &part)?;
            }
            other => accept(remote, &name, other, &part)?,
        }
        received.bytes += got.bytes;
        received.resumed += got.resumed;
        // Removed while locked: those who wait find the object in the store.
        let _ = fs_err::remove_file(&lock);
        drop(held);
    }
    Ok(received)
}

/// Refuses bytes that are not what their name says, and forgets them.
fn accept(
    remote: &ObjectRemote,
    name: &str,
    adopted: Result<(), StoreError>,
    part: &Utf8PathBuf,
) -> Result<(), RemoteError> {
    match adopted {
        Err(StoreError::Damaged { found, .. }) => {
            let _ = fs_err::remove_file(part);
            Err(remote.damaged(name.to_owned(), format!("its bytes hash to {}", found.short())))
        }
        other => Ok(other?),
    }
}

fn unnoted(store: &Store, error: std::io::Error) -> StoreError {
    StoreError::sort(store.workspace().root(), "the pull cannot note what it uses", error)
}

/// Where a file grows while it arrives, and the lock that keeps other processes from adding to it.
fn parts(store: &Store, digest: &Digest) -> (Utf8PathBuf, Utf8PathBuf) {
    let directory = ObjectRemote::notes(store);
    (directory.join(format!("{digest}.part")), directory.join(format!("{digest}.lock")))
}

/// Everything it names is here: builds its trees and files the record.
fn file(store: &Store, live: &LiveRun, found: Found<'_>) -> Result<(), StoreError> {
    let _shared = store.share()?;
    for (artifact, entries) in found.trees {
        store.adopt_tree(&artifact, entries)?;
    }
    store.file_record(&found.record)?;
    live.uses(&found.record.key).map_err(|error| unnoted(store, error))
}
