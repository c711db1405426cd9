//! The contract between the runner and the stages.
//!
//! `luthier-core` names what both sides must agree on: identifiers, digests, artifacts, the [`Stage`] trait, the
//! [`StageContext`] a stage runs in, what it reports back, and how errors and hints travel. It knows nothing of YAML,
//! graphs, async runtimes, tensors or WebAssembly, and must stay that way: every other crate depends on it.

mod artifact;
mod batch;
mod cancel;
mod config;
mod context;
mod cutter;
mod digest;
mod error;
mod event;
mod executor;
pub mod fs;
mod id;
mod outcome;
mod shard;
mod stage;
mod suggest;

pub use artifact::{Artifact, ArtifactKind, TreeEntry, digest_file, digest_path, digest_tree};
pub use batch::{BatchExecutor, CancelMode, JobEnd, JobOrder, JobState};
pub use cancel::CancelToken;
pub use config::{ConfigIssue, check_config, config_schema, parse_config};
pub use context::{InputArtifact, ResolvedSource, StageContext, StageRequest};
pub use cutter::{Cutter, PieceBounds, mix_bits};
pub use digest::{Digest, DigestError};
pub use error::{ErrorClass, Location, StageError, StageResult};
pub use event::{EventSink, NullSink, Progress, StageEvent};
pub use executor::{ExecutorError, ExecutorSpec};
pub use id::{ArtifactName, IdError, StageId, StageKind};
pub use outcome::{MetricValue, Section, Series, StageOutcome};
pub use shard::{ShardCache, ShardEntry, ShardKey};
pub use stage::{InputPort, OutputDecl, PrepareEnv, Prepared, Registry, Resources, SourceKind, SourceRef, Stage};
pub use suggest::{nearest, quoted};
