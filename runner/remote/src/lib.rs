//! Results shared over an object store: S3, Google Cloud Storage, Azure, or a directory.
//!
//! ```text
//! store ──push──▶ objects, manifests, records (last) ──▶ v1/… in the bucket
//! store ◀──pull── records, manifests, objects: each hashed before it enters the store
//! ```
//!
//! A transfer that was killed goes on where it was; what arrives damaged is refused and named. A remote that fails is
//! a warning to a run, never its end, because everything in it can be made again.

mod blobs;
mod credentials;
mod download;
mod error;
mod layout;
mod location;
mod pull;
mod push;
mod remote;
mod transfer;
mod upload;

pub use error::RemoteError;
pub use location::{Location, Scheme};
pub use remote::{Holdings, ObjectRemote, failure};
