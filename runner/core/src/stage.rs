//! What a stage kind must say about itself and do.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::ArtifactKind;
use crate::config::ConfigIssue;
use crate::context::StageContext;
use crate::error::StageResult;
use crate::id::ArtifactName;
use crate::outcome::StageOutcome;

/// A declared input of a stage kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPort {
    pub name: &'static str,
    /// Artifact kinds that fit.
    pub accepts: &'static [ArtifactKind],
    pub required: bool,
    /// Takes a list, in the order written (gather).
    pub many: bool,
    /// One line for `luthier stages KIND`.
    pub about: &'static str,
}

/// A declared output, after the configuration is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputDecl {
    pub name: ArtifactName,
    pub kind: ArtifactKind,
}

impl OutputDecl {
    /// # Panics
    /// If `name` is not a valid output name; for literals only.
    #[must_use]
    pub fn new(name: &'static str, kind: ArtifactKind) -> Self {
        Self { name: ArtifactName::new(name).expect("a literal output name is valid"), kind }
    }
}

/// How a source path enters the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A file, by content.
    File,
    /// A directory, by the names and content of all its files (`target/`, `.git/` and `.luthier/` left out).
    Tree,
}

/// Something outside the store that a stage reads. Its content enters the key under `label`; its path does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRef {
    /// Stable name, such as `files[0]` or `steps[1].plugin`; how the stage finds it again in the context.
    pub label: String,
    /// Relative to the pipeline file's directory, or absolute.
    pub path: Utf8PathBuf,
    pub kind: SourceKind,
    /// Path in the `with` block to point at when the source is missing.
    pub config_path: String,
}

/// What a stage may use while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Threads it can make use of; 0 for all that the run has.
    pub threads: usize,
    /// Resident bytes it expects to need; 0 for little.
    pub memory: u64,
    /// Accelerators it has to itself.
    pub gpu: u32,
    /// Seconds after which it is stopped; 0 for no limit.
    pub time: u64,
}

impl Resources {
    pub const ONE_THREAD: Self = Self { threads: 1, memory: 0, gpu: 0, time: 0 };
    pub const ALL_THREADS: Self = Self { threads: 0, memory: 0, gpu: 0, time: 0 };
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Handed back to [`Stage::run`]; defaults filled.
    pub config: Value,
    /// The part of the configuration that can change an output byte: canonical, defaults filled, without paths, thread
    /// counts or log settings. Enters the key field by field, so `explain` can name what changed.
    pub key: Value,
    pub outputs: Vec<OutputDecl>,
    pub sources: Vec<SourceRef>,
    pub resources: Resources,
    /// `Some("cpu-f32")` for stages whose floats depend on the implementation; enters the key.
    pub numeric_class: Option<String>,
}

/// Where `prepare` may look. It must not read large files.
#[derive(Debug, Clone, Copy)]
pub struct PrepareEnv<'a> {
    /// That of the pipeline file.
    pub directory: &'a Utf8Path,
    /// The directory shared between runs; `None` if nothing of it may be used.
    pub cache: Option<&'a Utf8Path>,
    /// A run follows: what it will need of the cache for certain may be made now, so that mistakes are found before it.
    pub build: bool,
}

/// A stage kind. Implementations are stateless; everything about one execution is in the context.
pub trait Stage: Send + Sync {
    /// What `uses:` names.
    fn kind(&self) -> &'static str;

    /// Bumped whenever the output for equal input may change.
    fn recipe_version(&self) -> u32;

    /// One line for `luthier stages`.
    fn about(&self) -> &'static str;

    /// JSON Schema of `with` ([`crate::config_schema`]).
    fn schema(&self) -> Value;

    /// `with` blocks as one would write them, a YAML list. Together they use every parameter, so that each has an example
    /// in the schema that editors read.
    fn examples(&self) -> &'static str {
        "[]"
    }

    fn inputs(&self) -> &'static [InputPort];

    /// The inputs of this configuration; only a kind whose ports depend on `with` (`command`) overrides it by
    /// accepting any name with any artifact.
    fn accepts_any_input(&self) -> bool {
        false
    }

    /// Output names and kinds for documentation, when they do not depend on the configuration.
    fn outputs_about(&self) -> &'static str;

    /// Checks the `with` block, fills defaults, declares outputs and sources.
    ///
    /// # Errors
    /// Every issue found.
    fn prepare(&self, with: &Value, env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>>;

    /// What a run will do where nothing but the parameters changed, from `old` to `new` (both [`Prepared::key`]), and results
    /// of parts of the stage ([`crate::ShardCache`]) spare it some of the work: a verb and what follows it, as in
    /// `selects again by stored scores`. `None` where it does everything anew. A prediction for people to read: no more
    /// than that depends on it.
    fn rerun(&self, _old: &Value, _new: &Value) -> Option<String> {
        None
    }

    /// Runs. Writes each declared output to [`StageContext::output`] and nowhere else but its scratch directory.
    ///
    /// # Errors
    /// A [`crate::StageError`] with a hint. Must not panic on any input.
    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome>;
}

/// The stage kinds of this build, by name.
#[derive(Clone, Default)]
pub struct Registry {
    stages: BTreeMap<&'static str, Arc<dyn Stage>>,
    cache: Option<Utf8PathBuf>,
    build: bool,
}

impl Registry {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(&mut self, stage: impl Stage + 'static) -> &mut Self {
        self.stages.insert(stage.kind(), Arc::new(stage));
        self
    }

    /// Lets stages look into the directory shared between runs while they prepare, and make there what a run that
    /// follows will need.
    #[must_use]
    pub fn preparing_in(self, cache: Utf8PathBuf, build: bool) -> Self {
        Self { cache: Some(cache), build, ..self }
    }

    /// What a stage of a pipeline file in `directory` prepares with.
    #[must_use]
    pub fn prepare_env<'a>(&'a self, directory: &'a Utf8Path) -> PrepareEnv<'a> {
        PrepareEnv { directory, cache: self.cache.as_deref(), build: self.build }
    }

    #[must_use]
    pub fn get(&self, kind: &str) -> Option<&Arc<dyn Stage>> {
        self.stages.get(kind)
    }

    pub fn kinds(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.stages.keys().copied()
    }

    pub fn stages(&self) -> impl Iterator<Item = &Arc<dyn Stage>> {
        self.stages.values()
    }
}
