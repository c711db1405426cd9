//! Named bytes in an object store, by blocking calls. Opened when first used, so a run that needs nothing costs nothing.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use tokio::runtime::Runtime;

use crate::credentials;
use crate::error::{Access, RemoteError};
use crate::location::{Location, Scheme};

/// What is asked again, and for how long, before the remote counts as out of reach.
const RETRIES: usize = 3;
const RETRY_FOR: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
/// Of silence, not of the whole transfer: a large object may take hours.
const SILENCE: Duration = Duration::from_secs(60);

pub(crate) struct Opened {
    pub store: Arc<dyn ObjectStore>,
    /// Where large uploads can go on after a kill; a directory has no such thing.
    pub multipart: Option<Arc<dyn MultipartStore>>,
    pub runtime: Runtime,
}

pub(crate) struct Blobs {
    pub location: Location,
    opened: OnceLock<Opened>,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Blobs").field(&self.location.to_string()).finish()
    }
}

impl Blobs {
    pub fn new(location: Location) -> Self {
        Self { location, opened: OnceLock::new() }
    }

    pub fn opened(&self) -> Result<&Opened, RemoteError> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let opened = self.open()?;
        Ok(self.opened.get_or_init(|| opened))
    }

    fn open(&self) -> Result<Opened, RemoteError> {
        if let Some(problem) = credentials::missing(self.location.scheme) {
            return Err(RemoteError::Credentials { at: self.location.clone(), source: problem.into() });
        }
        // Fails only if one is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let at = || self.location.clone();
        let configuration = |error: object_store::Error| RemoteError::Configuration { at: at(), source: error.into() };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("remote")
            .enable_all()
            .build()
            .map_err(|error| RemoteError::Other { at: at(), source: error.into() })?;
        let address = self.location.url.as_ref().map(ToString::to_string).unwrap_or_default();
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() };
        let (store, multipart): (Arc<dyn ObjectStore>, Option<Arc<dyn MultipartStore>>) = match self.location.scheme {
            Scheme::S3 => {
                let plain = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
                    .iter()
                    .any(|name| std::env::var(name).is_ok_and(|value| value.starts_with("http://")));
                let store = AmazonS3Builder::from_env()
                    .with_url(address)
                    .with_client_options(client(plain))
                    .with_retry(retry)
                    .build()
                    .map_err(configuration)?;
                let store = Arc::new(store);
                (Arc::clone(&store) as _, Some(store))
            }
            Scheme::Gcs => {
                let mut builder = GoogleCloudStorageBuilder::from_env();
                let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
                let emulator = set(credentials::EMULATOR);
                if let Some(host) = &emulator {
                    let base = if host.contains("://") { host.clone() } else { format!("http://{host}") };
                    builder = builder.with_base_url(&base);
                    if set("GOOGLE_BEARER_TOKEN").is_none() {
                        builder = builder.with_bearer_token("emulator");
                    }
                }
                let plain =
                    emulator.or_else(|| set("GOOGLE_BASE_URL")).is_some_and(|base| !base.starts_with("https://"));
                let store = builder
                    .with_url(address)
                    .with_client_options(client(plain))
                    .with_retry(retry)
                    .build()
                    .map_err(configuration)?;
                let store = Arc::new(store);
                (Arc::clone(&store) as _, Some(store))
            }
            Scheme::Azure => {
                let plain = std::env::var("AZURE_STORAGE_USE_EMULATOR").is_ok()
                    || std::env::var("AZURE_STORAGE_ENDPOINT").is_ok_and(|value| value.starts_with("http://"));
                let store = MicrosoftAzureBuilder::from_env()
                    .with_url(address)
                    .with_client_options(client(plain))
                    .with_retry(retry)
                    .build()
                    .map_err(configuration)?;
                let store = Arc::new(store);
                (Arc::clone(&store) as _, Some(store))
            }
            Scheme::File => {
                let path = self.location.directory.clone().unwrap_or_default();
                // A share that is not mounted must not look like an empty remote.
                if !path.exists() && path.parent().is_some_and(|parent| parent.is_dir()) {
                    fs_err::create_dir(&path)
                        .map_err(|error| RemoteError::ReadOnly { at: at(), source: error.into() })?;
                }
                if !path.is_dir() {
                    return Err(RemoteError::NoBucket { at: at() });
                }
                let store = LocalFileSystem::new_with_prefix(path.as_std_path()).map_err(configuration)?;
                (Arc::new(store.with_fsync(true)), None)
            }
        };
        Ok(Opened { store, multipart, runtime })
    }

    pub fn path(&self, name: &str) -> Path {
        self.location.name(name)
    }

    pub fn failure(&self, access: Access, error: object_store::Error) -> RemoteError {
        RemoteError::sort(&self.location, access, error)
    }

    /// The whole of a small blob, or `None` if there is none.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>, RemoteError> {
        let opened = self.opened()?;
        let path = self.path(name);
        let read = async {
            let found = opened.store.get(&path).await?;
            found.bytes().await
        };
        match opened.runtime.block_on(read) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(error) => self.absent(error),
        }
    }

    /// Size in bytes, or `None` if there is no such blob.
    pub fn size(&self, name: &str) -> Result<Option<u64>, RemoteError> {
        let opened = self.opened()?;
        let path = self.path(name);
        match opened.runtime.block_on(opened.store.head(&path)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) => self.absent(error),
        }
    }

    fn absent<T>(&self, error: object_store::Error) -> Result<Option<T>, RemoteError> {
        let missing = matches!(error, object_store::Error::NotFound { .. });
        match self.failure(Access::Read, error) {
            RemoteError::NoBucket { at } => Err(RemoteError::NoBucket { at }),
            _ if missing => Ok(None),
            other => Err(other),
        }
    }

    /// Writes a small blob whole.
    pub fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), RemoteError> {
        let opened = self.opened()?;
        let path = self.path(name);
        let written = opened.runtime.block_on(opened.store.put(&path, bytes.into()));
        written.map(drop).map_err(|error| self.failure(Access::Write, error))
    }

    pub fn remove(&self, name: &str) -> Result<(), RemoteError> {
        let opened = self.opened()?;
        let path = self.path(name);
        let removed = opened.runtime.block_on(opened.store.delete(&path));
        removed.map_err(|error| self.failure(Access::Write, error))
    }

    /// Blobs below a name and their bytes together.
    pub fn count(&self, name: &str) -> Result<(u64, u64), RemoteError> {
        let opened = self.opened()?;
        let path = self.path(name);
        let listed = opened
            .store
            .list(Some(&path))
            .try_fold((0, 0), |(count, bytes), meta| async move { Ok((count + 1, bytes + meta.size)) });
        opened.runtime.block_on(listed).map_err(|error| self.failure(Access::Read, error))
    }
}

fn client(plain_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(plain_http)
        .with_connect_timeout(CONNECT)
        .with_timeout_disabled()
        .with_read_timeout(SILENCE)
}
