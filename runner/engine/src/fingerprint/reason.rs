//! Why a stage runs: every cause, with old and new values, worded in one place.

use std::fmt;

use camino::Utf8PathBuf;
use luthier_core::{ArtifactName, Digest, Location, StageId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One reason to run a stage. The list of reasons of a stage that runs is never empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum DirtyReason {
    /// No result of this stage is known.
    FirstRun,
    /// `uses` names another kind.
    KindChanged { old: String, new: String },
    /// The stage kind now makes other output for equal input.
    RecipeChanged { old: u32, new: u32 },
    /// One field of the resolved parameters; `None` where the field is absent.
    ConfigChanged { path: String, old: Option<Value>, new: Option<Value>, location: Option<Location> },
    /// An input artifact has other content; `None` where the port has no such artifact.
    InputChanged {
        port: String,
        /// `stage.output` that feeds the port now, or fed it before.
        from: String,
        old: Option<Digest>,
        new: Option<Digest>,
    },
    /// A file or tree outside the store has other content.
    SourceChanged {
        label: String,
        #[schemars(with = "String")]
        path: Utf8PathBuf,
        old: Option<Digest>,
        new: Option<Digest>,
    },
    /// A declared environment variable has another value (values are not kept).
    EnvChanged { name: String, old: Option<Digest>, new: Option<Digest> },
    /// Floats are computed by another implementation.
    NumericClassChanged { old: Option<String>, new: Option<String> },
    /// The result is known but an output is gone from the store.
    OutputMissing { output: ArtifactName },
    /// The bytes of an output are not those that were stored.
    Corrupt { output: ArtifactName },
    /// `--force`.
    Forced,
    /// Only in plans: a stage it reads will run, so its own key is not known yet.
    UpstreamRuns { stage: StageId },
}

impl DirtyReason {
    /// The stage that passes the cause on, for chains of causes.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        match self {
            Self::UpstreamRuns { stage } => Some(stage.as_str()),
            Self::InputChanged { from, new: Some(_), .. } => {
                // Matrix members may hold dots (`train@lr=0.1.adapter`), output names never do.
                Some(from.rsplit_once('.').map_or(from.as_str(), |(stage, _)| stage))
            }
            _ => None,
        }
    }
}

/// A JSON value on one line, cut at 60 characters.
fn brief(value: &Value) -> String {
    let text = match value {
        Value::String(text) if !text.is_empty() && !text.contains(['\n', ' ']) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= 60 { text } else { text.chars().take(59).chain(std::iter::once('…')).collect() }
}

fn digest(value: Option<&Digest>) -> String {
    value.map_or_else(|| "none".to_owned(), Digest::short)
}

impl fmt::Display for DirtyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstRun => f.write_str("never run before"),
            Self::KindChanged { old, new } => write!(f, "uses: {old} → {new}"),
            Self::RecipeChanged { old, new } => write!(f, "recipe version {old} → {new}"),
            Self::ConfigChanged { path, old, new, location } => {
                let path = if path.is_empty() { "with" } else { path };
                match (old, new) {
                    (Some(old), Some(new)) => write!(f, "{path} {} → {}", brief(old), brief(new))?,
                    (None, Some(new)) => write!(f, "{path} added: {}", brief(new))?,
                    (Some(old), None) => write!(f, "{path} removed (was {})", brief(old))?,
                    (None, None) => write!(f, "{path} changed")?,
                }
                match location {
                    Some(at) if at.line > 0 => {
                        write!(f, " ({}:{})", at.file.file_name().unwrap_or(at.file.as_str()), at.line)
                    }
                    _ => Ok(()),
                }
            }
            Self::InputChanged { port, from, old, new } => match (old, new) {
                (Some(old), Some(new)) => write!(f, "input {port} changed: {from} {} → {}", old.short(), new.short()),
                (None, _) => write!(f, "input {port} added: {from} {}", digest(new.as_ref())),
                (_, None) => write!(f, "input {port} removed: {from} (was {})", digest(old.as_ref())),
            },
            Self::SourceChanged { label, path, old, new } => match (old, new) {
                (Some(_), Some(_)) => write!(f, "source {label} changed: {path}"),
                (None, _) => write!(f, "source {label} added: {path}"),
                (_, None) => write!(f, "source {label} removed"),
            },
            Self::EnvChanged { name, old, new } => match (old, new) {
                (Some(_), Some(_)) => write!(f, "environment variable {name} changed"),
                (None, _) => write!(f, "environment variable {name} added"),
                (_, None) => write!(f, "environment variable {name} removed"),
            },
            Self::NumericClassChanged { old, new } => {
                let name = |class: &Option<String>| class.clone().unwrap_or_else(|| "none".to_owned());
                write!(f, "numeric class {} → {}", name(old), name(new))
            }
            Self::OutputMissing { output } => write!(f, "output {output} is missing from the store"),
            Self::Corrupt { output } => write!(f, "output {output} in the store is damaged"),
            Self::Forced => f.write_str("forced"),
            Self::UpstreamRuns { stage } => write!(f, "{stage} will run"),
        }
    }
}
