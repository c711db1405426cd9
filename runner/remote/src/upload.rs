//! Sending a file. A large one goes in parts; what was sent is noted beside the store, so that a killed upload goes on.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::{StreamExt, TryStreamExt};
use luthier_core::{CancelToken, Digest};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use crate::blobs::Blobs;
use crate::error::{Access, RemoteError};

/// The services take at most 10,000 parts of 5 MiB or more (S3's "multipart upload limits").
const MOST_PARTS: u64 = 9_000;
pub(crate) const PART: u64 = 8 << 20;
/// Parts of one file on their way at once.
const ABREAST: usize = 4;

/// An upload that has begun.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    remote: String,
    name: String,
    size: u64,
    part: u64,
    upload: String,
    /// The service's receipt for each part that arrived.
    arrived: BTreeMap<usize, String>,
}

/// How much went over the wire, and how much had gone before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub bytes: u64,
    pub resumed: u64,
}

fn read_part(file: &Utf8Path, index: usize, part: u64, size: u64) -> Result<Vec<u8>, object_store::Error> {
    let from = index as u64 * part;
    let length = part.min(size - from);
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs_err::File::open(file)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| object_store::Error::Generic { store: "file", source: error.into() })
}

impl Blobs {
    /// Sends a file of the store under `name`. `notes` is a directory for what a killed upload needs to go on.
    pub fn upload(
        &self,
        name: &str,
        file: &Utf8Path,
        size: u64,
        notes: &Utf8Path,
        cancel: &CancelToken,
    ) -> Result<Sent, RemoteError> {
        let opened = self.opened()?;
        let path = self.path(name);
        let fail = |error| self.failure(Access::Write, error);
        if size <= PART {
            let bytes = read_part(file, 0, PART, size).map_err(fail)?;
            opened.runtime.block_on(opened.store.put(&path, bytes.into())).map_err(fail)?;
            return Ok(Sent { bytes: size, resumed: 0 });
        }
        let part = PART.max(size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        let Some(multipart) = &opened.multipart else {
            return opened.runtime.block_on(self.stream(opened.store.as_ref(), &path, file, size, cancel));
        };
        let notes = note_of(notes, &self.location.to_string(), name);
        let begun = recall(&notes, &self.location.to_string(), name, size, part);
        let goes_on = begun.is_some();
        let send = |begun| self.parts(multipart.as_ref(), &path, file, &notes, begun, (size, part), cancel);
        match opened.runtime.block_on(send(begun)) {
            // The service has given up what was begun: start anew, once.
            Err(error) if goes_on && !error.ends_writing() && !matches!(error, RemoteError::Interrupted) => {
                opened.runtime.block_on(send(None))
            }
            other => other,
        }
    }

    /// To a directory: piece by piece under a temporary name, which the last step replaces.
    async fn stream(
        &self,
        store: &dyn ObjectStore,
        path: &Path,
        file: &Utf8Path,
        size: u64,
        cancel: &CancelToken,
    ) -> Result<Sent, RemoteError> {
        let fail = |error| self.failure(Access::Write, error);
        let mut upload = store.put_multipart(path).await.map_err(fail)?;
        let pieces = usize::try_from(size.div_ceil(PART)).unwrap_or(usize::MAX);
        for index in 0..pieces {
            if cancel.is_cancelled() {
                let _ = upload.abort().await;
                return Err(RemoteError::Interrupted);
            }
            let sent = match read_part(file, index, PART, size) {
                Ok(bytes) => upload.put_part(bytes.into()).await,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                let _ = upload.abort().await;
                return Err(fail(error));
            }
        }
        upload.complete().await.map_err(fail)?;
        Ok(Sent { bytes: size, resumed: 0 })
    }

    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    async fn parts(
        &self,
        store: &dyn MultipartStore,
        path: &Path,
        file: &Utf8Path,
        notes: &Utf8Path,
        begun: Option<Begun>,
        (size, part): (u64, u64),
        cancel: &CancelToken,
    ) -> Result<Sent, RemoteError> {
        let fail = |error| self.failure(Access::Write, error);
        let mut begun = match begun {
            Some(begun) => begun,
            None => Begun {
                remote: self.location.to_string(),
                name: path.to_string(),
                size,
                part,
                upload: store.create_multipart(path).await.map_err(fail)?,
                arrived: BTreeMap::new(),
            },
        };
        let count = usize::try_from(size.div_ceil(part)).unwrap_or(usize::MAX);
        let length = |index: usize| part.min(size - index as u64 * part);
        let resumed: u64 = begun.arrived.keys().filter(|index| **index < count).map(|index| length(*index)).sum();
        let missing: Vec<usize> = (0..count).filter(|index| !begun.arrived.contains_key(index)).collect();
        let upload = begun.upload.clone();
        let mut arriving = futures_util::stream::iter(missing)
            .map(|index| {
                let upload = &upload;
                async move {
                    if cancel.is_cancelled() {
                        return Err(RemoteError::Interrupted);
                    }
                    let bytes = read_part(file, index, part, size).map_err(fail)?;
                    let receipt = store.put_part(path, upload, index, bytes.into()).await.map_err(fail)?;
                    Ok((index, receipt.content_id))
                }
            })
            .buffer_unordered(ABREAST);
        while let Some((index, receipt)) = arriving.try_next().await? {
            begun.arrived.insert(index, receipt);
            remember(notes, &begun);
        }
        drop(arriving);
        let receipts = begun.arrived.values().map(|receipt| PartId { content_id: receipt.clone() }).collect();
        store.complete_multipart(path, &begun.upload, receipts).await.map_err(fail)?;
        let _ = fs_err::remove_file(notes);
        Ok(Sent { bytes: size - resumed, resumed })
    }
}

fn note_of(directory: &Utf8Path, remote: &str, name: &str) -> Utf8PathBuf {
    let id = Digest::of(format!("{remote}\n{name}").as_bytes()).hex();
    directory.join(format!("push-{}.json", &id[..16]))
}

fn recall(notes: &Utf8Path, remote: &str, name: &str, size: u64, part: u64) -> Option<Begun> {
    let begun: Begun = serde_json::from_slice(&fs_err::read(notes).ok()?).ok()?;
    let same = begun.remote == remote && begun.name.ends_with(name) && begun.size == size && begun.part == part;
    same.then_some(begun)
}

/// A note that is lost costs a second sending, nothing else.
fn remember(notes: &Utf8Path, begun: &Begun) {
    let written = serde_json::to_vec(begun)
        .map_err(std::io::Error::from)
        .and_then(|bytes| luthier_core::fs::write_atomic(notes, &bytes));
    if let Err(error) = written {
        tracing::debug!("an upload in parts could not be noted: {error}");
    }
}
