//! What decides whether a stage must run.
//!
//! A [`Fingerprint`] holds everything that can change a byte of a stage's outputs, and nothing else. Its digest is the
//! *key*: equal keys mean the stage need not run. The whole fingerprint is kept beside the result, so two of them can be
//! compared field by field and every rerun has a reason with an old and a new value.
//!
//! | input | in the key | why |
//! |---|---|---|
//! | stage kind (`uses`) | yes | another program |
//! | recipe version | yes | the same program, other output for equal input |
//! | resolved parameters (`Prepared::key`) | yes, field by field | defaults filled in, so a new default counts and spelling out an old one does not |
//! | kind and content digest of each input artifact | yes, by port, in order | content and not the upstream key: an upstream that reran with equal output stops there |
//! | upstream stage names | only for ports that take a list | such stages label their rows with them; elsewhere a rename costs nothing |
//! | source files and trees (plugins, data, scripts) | yes, content by label | the label is stable, the path is not |
//! | declared environment variables | yes, as the digest of the value | values may be secrets or name a machine's paths; records and locks are shared |
//! | numeric class (`cpu-f32`, `cuda-sm80`, …) | yes, where the stage declares one | its floats depend on the implementation |
//! | threads, memory, device index, `--jobs` | no | results do not depend on them, by contract with the stages |
//! | paths, working directory, host, user, time, log level | no | a moved or cloned project keeps its results |
//! | comments, key order, number spelling (`1e-3`, `0.001`) in YAML | no | gone after parsing |
//! | the version of this format | no | a record of an older format is reused when its fields say the same ([`Fingerprint::same`]) |
//!
//! Dangers: an input that a stage reads without declaring it poisons the store, because the key cannot see it; and an
//! absolute path in a key loses every result when the project moves. A change to [`Fingerprint`] needs a change to the
//! table above and to [`FORMAT`].

mod canonical;
mod difference;
pub mod path;
mod reason;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use luthier_core::{ArtifactKind, Digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use difference::{Locate, Origin};
pub use reason::DirtyReason;
pub use source::{digest_source, digest_tree_source};

/// The format of [`Fingerprint`]. 1: the first.
pub const FORMAT: u32 = 1;

/// Everything that can change an output byte of a stage; see the table above.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fingerprint {
    /// [`FORMAT`] of the writer.
    pub version: u32,
    /// `Stage::kind`.
    pub kind: String,
    /// `Stage::recipe_version`.
    pub recipe: u32,
    /// `Prepared::key`.
    pub config: Value,
    /// The artifacts of each connected port, in the order written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Vec<InputPrint>>,
    /// Content of each source, by `SourceRef::label`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Digest>,
    /// Digest of the value of each declared environment variable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Digest>,
    /// `Prepared::numeric_class`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numeric_class: Option<String>,
}

/// One input artifact as the key sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputPrint {
    pub kind: ArtifactKind,
    pub digest: Digest,
    /// `stage.output`, only where the port takes a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Fingerprint {
    /// The key: BLAKE3 of the canonical bytes, in a domain of its own.
    #[must_use]
    pub fn digest(&self) -> Digest {
        canonical::key(self)
    }

    /// Why `new` is not `self`, field by field; empty if they mean the same.
    #[must_use]
    pub fn diff(&self, new: &Self, origin: &Origin<'_>) -> Vec<DirtyReason> {
        difference::diff(self, new, origin)
    }

    /// As [`Fingerprint::diff`], while the inputs of `new` are not known yet.
    #[must_use]
    pub fn diff_without_inputs(&self, new: &Self, origin: &Origin<'_>) -> Vec<DirtyReason> {
        difference::fixed(self, new, origin)
    }

    /// Whether both say the same, whatever formats they were written in.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        canonical::bytes(self) == canonical::bytes(other)
    }
}
