//! What can go wrong with a remote, sorted by what the user can do about it.

use std::io;

use luthier_core::{Digest, ErrorClass};
use luthier_engine::store::StoreError;
use object_store::client::{HttpError, HttpErrorKind};

use crate::location::{Location, Scheme};

type Source = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    #[error("`{text}` is not the address of a remote: {problem}")]
    Address { text: String, problem: String },
    #[error("the remote {at} cannot be used as it is configured")]
    Configuration { at: Location, source: Source },
    #[error("no credentials for the remote {at}")]
    Credentials { at: Location, source: Source },
    #[error("the remote {at} refuses these credentials")]
    Refused { at: Location, source: Source },
    #[error("the remote {at} does not exist")]
    NoBucket { at: Location },
    #[error("the remote {at} cannot be reached")]
    Unreachable { at: Location, source: Source },
    #[error("the remote {at} cannot be written")]
    ReadOnly { at: Location, source: Source },
    #[error("no space left on the remote {at}")]
    Full { at: Location, source: Source },
    /// Bytes that are not what their name says. They never enter the store.
    #[error("`{name}` of the remote {at} is damaged: {problem}")]
    Damaged { at: Location, name: String, problem: String },
    #[error("`{name}` is not in the remote {at}")]
    Missing { at: Location, name: String },
    /// An object of the local store that must not be shared.
    #[error("object {digest} of the store is damaged, so it was not sent to the remote")]
    LocalDamage { digest: Digest },
    #[error("object {digest} is not in the store")]
    LocalMissing { digest: Digest },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("interrupted")]
    Interrupted,
    #[error("the remote {at} failed")]
    Other { at: Location, source: Source },
}

/// What was being done, since the same answer means different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

impl RemoteError {
    pub(crate) fn sort(at: &Location, access: Access, error: object_store::Error) -> Self {
        use object_store::Error;
        let at = at.clone();
        let text = chain(&error);
        let no_bucket = ["NoSuchBucket", "bucket does not exist", "ContainerNotFound", "container does not exist"];
        if no_bucket.iter().any(|mark| text.contains(mark)) {
            return Self::NoBucket { at };
        }
        // Without credentials in the environment the address of the cloud's own machines is asked for some.
        let asked = ["169.254.169.254", "metadata.google.internal", "credential", "Credential", "InstanceMetadata"];
        let kind = http_kind(&error);
        match error {
            Error::Unauthenticated { source, .. } => Self::Refused { at, source },
            Error::PermissionDenied { source, .. } if invalid_key(&text) => Self::Refused { at, source },
            Error::PermissionDenied { source, .. } if access == Access::Write => Self::ReadOnly { at, source },
            Error::PermissionDenied { source, .. } => Self::Refused { at, source },
            error @ Error::UnknownConfigurationKey { .. } => Self::Configuration { at, source: error.into() },
            error if asked.iter().any(|mark| text.contains(mark)) && at.scheme != Scheme::File => {
                Self::Credentials { at, source: error.into() }
            }
            // Listing answers with the status alone.
            error if ["403 Forbidden", "401 Unauthorized"].iter().any(|mark| text.contains(mark)) => match access {
                Access::Write if !invalid_key(&text) => Self::ReadOnly { at, source: error.into() },
                Access::Write | Access::Read => Self::Refused { at, source: error.into() },
            },
            error if kind.is_some_and(is_network) => Self::Unreachable { at, source: error.into() },
            error => match io_kind(&error) {
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    Self::Full { at, source: error.into() }
                }
                Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => match access {
                    Access::Write => Self::ReadOnly { at, source: error.into() },
                    Access::Read => Self::Refused { at, source: error.into() },
                },
                Some(io::ErrorKind::NotFound) if at.directory.as_ref().is_some_and(|path| !path.exists()) => {
                    Self::NoBucket { at }
                }
                _ => Self::Other { at, source: error.into() },
            },
        }
    }

    /// The remote as a whole is of no use, so that asking again would only cost time.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Configuration { .. }
                | Self::Credentials { .. }
                | Self::Refused { .. }
                | Self::NoBucket { .. }
                | Self::Unreachable { .. }
                | Self::Other { .. }
        )
    }

    /// Nothing more can be sent, though reading may work.
    #[must_use]
    pub fn ends_writing(&self) -> bool {
        self.is_outage() || matches!(self, Self::ReadOnly { .. } | Self::Full { .. })
    }

    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Address { .. } => ErrorClass::Input,
            Self::Interrupted => ErrorClass::Interrupted,
            _ => ErrorClass::Store,
        }
    }

    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Address { .. } => "remote::address",
            Self::Configuration { .. } => "remote::configuration",
            Self::Credentials { .. } => "remote::credentials",
            Self::Refused { .. } => "remote::refused",
            Self::NoBucket { .. } => "remote::no_bucket",
            Self::Unreachable { .. } => "remote::unreachable",
            Self::ReadOnly { .. } => "remote::read_only",
            Self::Full { .. } => "remote::full",
            Self::Damaged { .. } => "remote::damaged",
            Self::Missing { .. } => "remote::missing",
            Self::LocalDamage { .. } => "remote::local_damage",
            Self::LocalMissing { .. } => "remote::local_missing",
            Self::Store(error) => error.code(),
            Self::Interrupted => "run::interrupted",
            Self::Other { .. } => "remote::failed",
        }
    }

    /// Each a sentence with a command or an edit that works.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Address { .. } => {
                "write it like `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`"
                    .to_owned()
            }
            Self::Configuration { at, .. } | Self::Credentials { at, .. } | Self::Refused { at, .. } => variables(at),
            Self::NoBucket { at } => match &at.directory {
                Some(path) => format!("`mkdir -p {path}`, or correct the address; is the share mounted?"),
                None => "correct the bucket's name, or make the bucket first".to_owned(),
            },
            Self::Unreachable { .. } => {
                "check the network and the endpoint; `--offline` runs without the remote, and what was brought stays"
                    .to_owned()
            }
            Self::ReadOnly { .. } => {
                "results are still read from it; ask its owner for the right to write, or run with `--no-push`".to_owned()
            }
            Self::Full { .. } => "free some space there, or name another remote with `--remote`".to_owned(),
            Self::Damaged { .. } => {
                "`luthier push --force` from a machine that has the result replaces it; until then `luthier run` makes it here".to_owned()
            }
            Self::Missing { .. } => {
                "`luthier push` from a machine that has the result sends it; `luthier run` makes it here".to_owned()
            }
            Self::LocalDamage { .. } => "`luthier verify --repair` mends the store".to_owned(),
            Self::LocalMissing { .. } => "`luthier run` makes it again".to_owned(),
            Self::Store(error) => return error.hints(),
            Self::Interrupted | Self::Other { .. } => return Vec::new(),
        };
        vec![hint]
    }
}

/// Where credentials are looked for.
fn variables(at: &Location) -> String {
    match at.scheme {
        Scheme::S3 => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`eval \"$(aws configure export-credentials --format env)\"`), \
             AWS_REGION, and AWS_ENDPOINT_URL for another service than Amazon's; AWS_SKIP_SIGNATURE=true for a public bucket"
        }
        Scheme::Gcs => {
            "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or log in with `gcloud auth application-default login`"
        }
        Scheme::Azure => "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
        Scheme::File => "check the owner and mode of the directory",
    }
    .to_owned()
}

fn invalid_key(text: &str) -> bool {
    ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthenticationFailed"]
        .iter()
        .any(|mark| text.contains(mark))
}

/// Without the markup in which services wrap what they say: `InvalidAccessKeyId: The key does not exist.`
pub(crate) fn unwrapped(text: &str) -> String {
    let between = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0)
    };
    match (text.find("<?xml").or_else(|| text.find("<Error>")), between("Code"), between("Message")) {
        (Some(at), Some(code), Some(message)) => format!("{}{code}: {message}", &text[..at]),
        _ => text.to_owned(),
    }
}

fn is_network(kind: HttpErrorKind) -> bool {
    matches!(
        kind,
        HttpErrorKind::Connect | HttpErrorKind::Request | HttpErrorKind::Timeout | HttpErrorKind::Interrupted
    )
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push('\n');
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn find<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<E>() {
            return Some(found);
        }
        next = cause.source();
    }
    None
}

fn http_kind(error: &object_store::Error) -> Option<HttpErrorKind> {
    find::<HttpError>(error).map(HttpError::kind)
}

fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    find::<io::Error>(error).map(io::Error::kind)
}
