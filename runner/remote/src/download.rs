//! Fetching a file. What a killed download left is kept and added to; whether it is right is for the store to find out.

use std::io::Write;

use camino::Utf8Path;
use futures_util::StreamExt;
use luthier_core::CancelToken;
use object_store::{GetOptions, GetRange, ObjectStore};

use crate::blobs::Blobs;
use crate::error::{Access, RemoteError};

/// How much came over the wire, and how much had come before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub bytes: u64,
    pub resumed: u64,
}

impl Blobs {
    /// Brings `name`, of `size` bytes, to `file`, going on where the file ends.
    pub fn download(
        &self,
        name: &str,
        file: &Utf8Path,
        size: u64,
        cancel: &CancelToken,
    ) -> Result<Received, RemoteError> {
        let opened = self.opened()?;
        opened.runtime.block_on(self.receive(opened.store.as_ref(), name, file, size, cancel))
    }

    async fn receive(
        &self,
        store: &dyn ObjectStore,
        name: &str,
        file: &Utf8Path,
        size: u64,
        cancel: &CancelToken,
    ) -> Result<Received, RemoteError> {
        let local = |error: std::io::Error| {
            RemoteError::Store(luthier_engine::store::StoreError::sort(
                file.parent().unwrap_or(file),
                "what the remote sends cannot be written",
                error,
            ))
        };
        let mut out = fs_err::OpenOptions::new().create(true).append(true).open(file).map_err(local)?;
        let mut have = out.metadata().map_err(local)?.len();
        if have > size {
            out.set_len(0).map_err(local)?;
            have = 0;
        }
        let resumed = have;
        if have == size && size > 0 {
            return Ok(Received { bytes: 0, resumed });
        }
        let options = GetOptions { range: (have > 0).then_some(GetRange::Offset(have)), ..GetOptions::default() };
        let path = self.path(name);
        let found = match store.get_opts(&path, options).await {
            Ok(found) => found,
            Err(error @ object_store::Error::NotFound { .. }) => {
                return Err(match self.failure(Access::Read, error) {
                    error @ RemoteError::NoBucket { .. } => error,
                    _ => RemoteError::Missing { at: self.location.clone(), name: name.to_owned() },
                });
            }
            Err(error) => return Err(self.failure(Access::Read, error)),
        };
        if found.meta.size != size {
            return Err(RemoteError::Damaged {
                at: self.location.clone(),
                name: name.to_owned(),
                problem: format!("it has {} bytes, expected {size}", found.meta.size),
            });
        }
        let mut stream = found.into_stream();
        while let Some(chunk) = stream.next().await {
            if cancel.is_cancelled() {
                return Err(RemoteError::Interrupted);
            }
            let chunk = chunk.map_err(|error| self.failure(Access::Read, error))?;
            out.write_all(&chunk).map_err(local)?;
            have += chunk.len() as u64;
        }
        if have != size {
            return Err(RemoteError::Damaged {
                at: self.location.clone(),
                name: name.to_owned(),
                problem: format!("it ended after {have} of {size} bytes"),
            });
        }
        Ok(Received { bytes: have - resumed, resumed })
    }
}
