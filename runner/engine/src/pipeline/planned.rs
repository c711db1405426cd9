//! What loading hands to the rest of the runner.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use camino::Utf8PathBuf;
use luthier_core::{ArtifactName, ExecutorSpec, Location, Prepared, Stage, StageId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::graph::StageGraph;
use super::select::{self, UnknownStage};
use crate::spec::{Node, SourceText, Span};

/// A pipeline without errors.
pub struct Pipeline {
    /// `name:` of the file, or the file's name without its extension.
    pub name: String,
    pub file: Utf8PathBuf,
    /// Where relative sources are looked up.
    pub directory: Utf8PathBuf,
    pub source: Arc<SourceText>,
    /// Where results are shared, as the file says, and the place that says so.
    pub remote: Option<(String, Location)>,
    /// With overrides applied.
    pub params: BTreeMap<String, Value>,
    /// Where stages execute that do not say so themselves; never part of a key.
    pub executor: Option<ExecutorSpec>,
    /// Each after the stages it reads; otherwise in the order of the file.
    pub stages: Vec<PlannedStage>,
    pub graph: StageGraph,
}

/// A stage ready to be planned.
pub struct PlannedStage {
    pub id: StageId,
    /// The name in the file: `id` itself unless the stage is a member of a matrix.
    pub group: StageId,
    /// The member's values by name, in written order; empty outside a matrix.
    pub matrix: Vec<(String, Value)>,
    pub about: Option<String>,
    pub stage: Arc<dyn Stage>,
    /// With `resources:` of the file applied.
    pub prepared: Prepared,
    /// By port, in the order written.
    pub inputs: BTreeMap<String, Vec<OutputRef>>,
    /// Environment variables that the stage's values were made from, and those it declares.
    pub env: BTreeMap<String, String>,
    /// Further tries after a failure; `None` leaves it to the run.
    pub retries: Option<u32>,
    /// Where it executes, if the file says so; never part of the key.
    pub executor: Option<ExecutorSpec>,
    /// The stage's name in the file.
    pub location: Location,
    pub(super) source: Arc<SourceText>,
    pub(super) with: Node,
    pub(super) with_span: Span,
    pub(super) asked_at: BTreeMap<&'static str, Span>,
}

/// One output of a stage. Written `stage.output`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OutputRef {
    pub stage: StageId,
    pub output: ArtifactName,
}

impl fmt::Display for OutputRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.stage, self.output)
    }
}

impl PlannedStage {
    /// Where the file says what stands at a configuration path such as `steps[0].config.max`; for a default that is
    /// not written, the nearest block around it.
    #[must_use]
    pub fn location_of(&self, config_path: &str) -> Location {
        let span = if config_path.is_empty() { self.with_span } else { self.with.find(config_path, false) };
        self.source.location(if span == self.with.span { self.with_span } else { span })
    }

    /// Where the file asks for a resource (`threads`, `memory`, `gpu`, `time`); `None` if the kind does.
    #[must_use]
    pub fn asked_at(&self, resource: &str) -> Option<Location> {
        self.asked_at.get(resource).map(|span| self.source.location(*span))
    }

    /// The stages it reads, each once, sorted.
    pub fn dependencies(&self) -> impl Iterator<Item = &StageId> {
        self.inputs.values().flatten().map(|input| &input.stage).collect::<BTreeSet<_>>().into_iter()
    }
}

impl Pipeline {
    #[must_use]
    pub fn stage(&self, id: &StageId) -> Option<&PlannedStage> {
        self.graph.position(id).and_then(|position| self.stages.get(position))
    }

    /// The stages that a name means: a stage, all members of a matrix by its name, some of them by `name@rank=8`, or
    /// any by a pattern with `*` and `?`.
    ///
    /// # Errors
    /// No stage fits.
    pub fn select(&self, pattern: &str) -> Result<BTreeSet<StageId>, UnknownStage> {
        select::select(self, pattern)
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("name", &self.name).field("stages", &self.stages).finish_non_exhaustive()
    }
}

impl fmt::Debug for PlannedStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlannedStage")
            .field("id", &self.id)
            .field("kind", &self.stage.kind())
            .field("inputs", &self.inputs)
            .field("config", &self.prepared.config)
            .finish_non_exhaustive()
    }
}
