//! A stage on its way from the file to the plan.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use luthier_core::{ArtifactName, Prepared, Stage, StageId};

use super::settings::Settings;
use crate::spec::{Node, Span, StageSpec};

/// One member of a group, with references replaced.
pub(super) struct Draft<'s> {
    pub spec: &'s StageSpec,
    pub id: StageId,
    pub values: Vec<(String, Node)>,
    /// `None` if the kind is unknown, which was reported.
    pub stage: Option<Arc<dyn Stage>>,
    pub with: Node,
    pub inputs: Option<Node>,
    pub settings: Settings,
    pub env: BTreeMap<String, String>,
    /// `None` if the configuration is wrong, which was reported: the outputs are then not known.
    pub prepared: Option<Prepared>,
    pub links: Vec<Link>,
    /// A reference of the stage could not be replaced, which was reported; its values are not to be judged.
    pub broken: bool,
}

/// An edge, found.
pub(super) struct Link {
    pub port: String,
    /// Index of the producing draft.
    pub target: usize,
    /// `None` if the producer's outputs are not known.
    pub output: Option<ArtifactName>,
    pub span: Span,
}

/// The stages made from one name of the file.
pub(super) struct Group {
    /// Indices of drafts; empty if the matrix is wrong, which was reported.
    pub members: Range<usize>,
}

/// All drafts, and the names of the file.
pub(super) struct Drafts<'s> {
    pub list: Vec<Draft<'s>>,
    pub groups: BTreeMap<&'s str, Group>,
    /// Names in the order of the file, for lists in messages.
    pub names: Vec<String>,
}

impl Draft<'_> {
    /// Where to point for the `with` block as a whole.
    pub fn with_span(&self) -> Span {
        self.spec.with.as_ref().map_or(self.spec.span, |with| with.key_span)
    }

    /// Where to point for the `in` block as a whole.
    pub fn inputs_span(&self) -> Span {
        self.spec.inputs.as_ref().map_or(self.spec.span, |inputs| inputs.key_span)
    }

    /// The bytes of a path in the `with` block.
    pub fn config_span(&self, path: &str, on_key: bool) -> Span {
        let span = if path.is_empty() { self.with.span } else { self.with.find(path, on_key) };
        if span == self.with.span { self.with_span() } else { span }
    }
}
