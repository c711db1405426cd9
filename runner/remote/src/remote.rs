//! The remote as runs and commands use it.

use std::sync::atomic::{AtomicBool, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{CancelToken, Digest, StageId};
use luthier_engine::run::{Remote, RemoteProblem, Shipment, StageFailure, Wanted};
use luthier_engine::store::Store;

use crate::blobs::Blobs;
use crate::error::{RemoteError, unwrapped};
use crate::location::Location;
use crate::{layout, pull, push};

/// How much a remote holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Holdings {
    pub results: u64,
    pub objects: u64,
    pub bytes: u64,
}

/// A bucket or a directory.
#[derive(Debug)]
pub struct ObjectRemote {
    pub(crate) blobs: Blobs,
    /// Nothing works; it was said once.
    down: AtomicBool,
    /// Nothing more can be sent; it was said once.
    closed: AtomicBool,
    /// Nothing is sent, by wish.
    read_only: bool,
}

impl ObjectRemote {
    /// Names a remote; it is connected to when first used.
    #[must_use]
    pub fn new(location: Location) -> Self {
        Self {
            blobs: Blobs::new(location),
            down: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            read_only: false,
        }
    }

    /// Never sends anything.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    #[must_use]
    pub fn location(&self) -> &Location {
        &self.blobs.location
    }

    /// As [`Remote::push`]; with `force` also what the remote has already.
    pub fn push_all(
        &self,
        store: &Store,
        results: &[(StageId, Digest)],
        force: bool,
        cancel: &CancelToken,
    ) -> Shipment {
        push::push(self, store, results, force, cancel)
    }

    /// Lists the remote, which finds out whether it exists and answers.
    ///
    /// # Errors
    /// It does not.
    pub fn holdings(&self) -> Result<Holdings, RemoteError> {
        let (objects, bytes) = self.blobs.count(&format!("{}/objects", layout::ROOT))?;
        let (results, _) = self.blobs.count(&format!("{}/records", layout::ROOT))?;
        Ok(Holdings { results, objects, bytes })
    }

    /// Finds out whether the remote can be written, by a blob that is removed again.
    ///
    /// # Errors
    /// It cannot.
    pub fn try_write(&self) -> Result<(), RemoteError> {
        let name = format!("{}/probe-{}", layout::ROOT, std::process::id());
        self.blobs.put(&name, b"luthier\n".to_vec())?;
        self.blobs.remove(&name)
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed) || self.is_down()
    }

    /// Draws the consequences of an error; true if it is news.
    pub(crate) fn heed(&self, error: &RemoteError) -> bool {
        if error.is_outage() {
            !self.down.swap(true, Ordering::Relaxed)
        } else if error.ends_writing() {
            !self.closed.swap(true, Ordering::Relaxed)
        } else {
            true
        }
    }

    pub(crate) fn note(&self, shipment: &mut Shipment, stage: Option<&StageId>, error: &RemoteError) {
        // What was given up because of another error, which is noted for itself.
        if matches!(error, RemoteError::Interrupted) && self.is_closed() {
            return;
        }
        self.heed(error);
        let failure = failure(error);
        // An outage strikes every transfer under way alike.
        if shipment
            .problems
            .iter()
            .any(|known| known.failure.code == failure.code && (error.ends_writing() || known.failure == failure))
        {
            return;
        }
        let stage = if error.ends_writing() { None } else { stage.cloned() };
        shipment.problems.push(RemoteProblem { stage, failure });
    }

    pub(crate) fn damaged(&self, name: String, problem: String) -> RemoteError {
        RemoteError::Damaged { at: self.blobs.location.clone(), name, problem }
    }

    pub(crate) fn missing(&self, name: String) -> RemoteError {
        RemoteError::Missing { at: self.blobs.location.clone(), name }
    }

    /// Where transfers under way are kept.
    pub(crate) fn notes(store: &Store) -> Utf8PathBuf {
        store.workspace().cache_dir().join("remote")
    }

    /// Waits for the only right to a file, across processes.
    pub(crate) fn exclusive(&self, path: &Utf8Path) -> std::io::Result<fs_err::File> {
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.file().lock()?;
        Ok(file)
    }
}

/// A remote's error as runs pass it on.
#[must_use]
pub fn failure(error: &RemoteError) -> StageFailure {
    let mut causes = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = unwrapped(&cause.to_string());
        // Each layer of the client repeats the ones below it.
        if !causes.iter().any(|known: &String| known.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    StageFailure { hints: error.hints(), causes, ..StageFailure::new(error.class(), error.code(), error.to_string()) }
}

impl Remote for ObjectRemote {
    fn address(&self) -> String {
        self.blobs.location.to_string()
    }

    fn pull(&self, store: &Store, wanted: &[Wanted], cancel: &CancelToken) -> Shipment {
        pull::pull(self, store, wanted, cancel)
    }

    fn push(&self, store: &Store, results: &[(StageId, Digest)], cancel: &CancelToken) -> Shipment {
        if self.read_only { Shipment::default() } else { push::push(self, store, results, false, cancel) }
    }
}
