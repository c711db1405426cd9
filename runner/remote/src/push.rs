//! From the store to the remote: files first, then the manifests of trees, then the records that name them.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{CancelToken, Digest, StageId, TreeEntry, digest_path};
use luthier_engine::run::Shipment;
use luthier_engine::store::{StageRecord, Store};

use crate::error::RemoteError;
use crate::pull::File;
use crate::remote::ObjectRemote;
use crate::upload::Sent;
use crate::{layout, transfer};

struct Outgoing<'a> {
    stage: &'a StageId,
    record: StageRecord,
    trees: Vec<(Digest, Vec<TreeEntry>)>,
    /// And where their bytes are.
    files: BTreeMap<File, Utf8PathBuf>,
}

type Outcomes = BTreeMap<Digest, Result<Sent, RemoteError>>;

pub(crate) fn push(
    remote: &ObjectRemote,
    store: &Store,
    results: &[(StageId, Digest)],
    force: bool,
    cancel: &CancelToken,
) -> Shipment {
    let mut shipment = Shipment::default();
    if results.is_empty() || remote.is_closed() {
        return shipment;
    }
    let mut ready = Vec::new();
    for ((stage, _), gathered) in results.iter().zip(transfer::each(results, |(stage, key)| gather(store, stage, key)))
    {
        match gathered {
            Ok(result) => ready.push(result),
            Err(error) => remote.note(&mut shipment, Some(stage), &error),
        }
    }
    // What the remote has a record of, it has whole: records go last.
    let known = transfer::each(&ready, |one| if force { Ok(false) } else { same(remote, &one.record) });
    let mut missing = Vec::new();
    for (result, known) in ready.into_iter().zip(known) {
        match known {
            Ok(true) => shipment.skipped.push(result.stage.clone()),
            Ok(false) => missing.push(result),
            Err(error) => {
                remote.note(&mut shipment, Some(result.stage), &error);
                if error.is_outage() {
                    return shipment;
                }
            }
        }
    }
    let files: BTreeMap<Digest, (File, Utf8PathBuf)> =
        missing.iter().flat_map(|one| &one.files).map(|(file, path)| (file.digest, (*file, path.clone()))).collect();
    let files: Vec<(File, Utf8PathBuf)> = files.into_values().collect();
    let sent = transfer::each(&files, |(file, path)| send(remote, store, file, path, force, cancel));
    let outcomes: Outcomes = files.iter().map(|(file, _)| file.digest).zip(sent).collect();
    for sent in outcomes.values().flatten() {
        shipment.objects += usize::from(sent.bytes > 0);
        shipment.bytes += sent.bytes;
        shipment.resumed += sent.resumed;
    }
    let mut told = BTreeSet::new();
    let mut whole = Vec::new();
    for result in missing {
        // A file that was not tried after another's failure says nothing of why, so all of them are asked.
        let failed: Vec<(Digest, &RemoteError)> = result
            .files
            .keys()
            .filter_map(|file| Some((file.digest, outcomes.get(&file.digest)?.as_ref().err()?)))
            .collect();
        for (digest, error) in &failed {
            if told.insert(*digest) {
                remote.note(&mut shipment, Some(result.stage), error);
            }
        }
        if failed.is_empty() {
            whole.push(result);
        }
    }
    for (result, named) in whole.iter().zip(transfer::each(&whole, |one| name(remote, one))) {
        match named {
            Ok(()) => shipment.stages.push(result.stage.clone()),
            Err(error) => remote.note(&mut shipment, Some(result.stage), &error),
        }
    }
    shipment
}

fn gather<'a>(store: &Store, stage: &'a StageId, key: &Digest) -> Result<Outgoing<'a>, RemoteError> {
    let Some(record) = store.record(key)? else { return Err(RemoteError::LocalMissing { digest: *key }) };
    let (mut trees, mut files) = (Vec::new(), BTreeMap::new());
    for artifact in record.outputs.values() {
        if artifact.tree {
            let entries =
                store.tree_entries(&artifact.digest)?.ok_or(RemoteError::LocalMissing { digest: artifact.digest })?;
            let root = store.artifact_path(artifact);
            for entry in &entries {
                let file = File { digest: entry.digest, size: entry.size, executable: entry.executable };
                let object = store.object(&file.digest, file.executable);
                // A tree has names of its own for its files, which outlive a damaged object.
                files.insert(file, if object.is_file() { object } else { root.join(&entry.path) });
            }
            trees.push((artifact.digest, entries));
        } else {
            let file = File { digest: artifact.digest, size: artifact.size, executable: false };
            files.insert(file, store.artifact_path(artifact));
        }
    }
    Ok(Outgoing { stage, record, trees, files })
}

/// Whether the remote has this result under this key. One that is damaged or says something else is replaced.
fn same(remote: &ObjectRemote, record: &StageRecord) -> Result<bool, RemoteError> {
    let Some(bytes) = remote.blobs.get(&layout::record(&record.key))? else { return Ok(false) };
    Ok(layout::parse(&bytes, &record.key).is_ok_and(|there| there.is_some_and(|there| there.outputs == record.outputs)))
}

fn send(
    remote: &ObjectRemote,
    store: &Store,
    file: &File,
    path: &Utf8Path,
    force: bool,
    cancel: &CancelToken,
) -> Result<Sent, RemoteError> {
    if cancel.is_cancelled() {
        return Err(RemoteError::Interrupted);
    }
    // After the first refusal the rest is not tried.
    if remote.is_closed() {
        return Err(RemoteError::Interrupted);
    }
    let name = layout::object(&file.digest);
    if !force && remote.blobs.size(&name)? == Some(file.size) {
        return Ok(Sent::default());
    }
    // Rot must not spread, so the bytes are hashed again whatever `stat` says.
    let found = digest_path(path).map_err(|_| RemoteError::LocalMissing { digest: file.digest })?;
    if found.0 != file.digest {
        return Err(RemoteError::LocalDamage { digest: file.digest });
    }
    let sent = remote.blobs.upload(&name, path, file.size, &ObjectRemote::notes(store), cancel);
    if let Err(error) = &sent {
        remote.heed(error);
    }
    sent
}

/// Sends what gives the files their names.
fn name(remote: &ObjectRemote, result: &Outgoing<'_>) -> Result<(), RemoteError> {
    let other =
        |error: serde_json::Error| RemoteError::Other { at: remote.blobs.location.clone(), source: error.into() };
    for (digest, entries) in &result.trees {
        remote.blobs.put(&layout::tree(digest), Store::render_manifest(entries).map_err(other)?)?;
    }
    remote.blobs.put(&layout::record(&result.record.key), layout::render(&result.record).map_err(other)?)
}
