//! A filter, however it runs.

use luthier_core::{StageError, StageResult};
use serde_json::Value;

use crate::builtin::Builtin;
use crate::component::PluginComponent;
use crate::judge::Worker;
use crate::limits::Limits;
use crate::manifest::Manifest;

/// A filter that can be opened, once per worker thread.
#[derive(Clone)]
pub enum Plugin {
    /// WebAssembly.
    Component(PluginComponent),
    /// Linked in.
    Native(Builtin),
}

impl Plugin {
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        match self {
            Self::Component(component) => component.manifest().clone(),
            Self::Native(builtin) => builtin.manifest(),
        }
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        match self {
            Self::Component(component) => *component.limits(),
            Self::Native(_) => Limits::DEFAULT,
        }
    }

    /// Opens the filter with a configuration.
    ///
    /// # Errors
    /// The configuration is wrong, each issue with its path; or a plugin fails while it opens.
    pub fn open(&self, config: &Value) -> StageResult<Worker> {
        match self {
            Self::Component(component) => Worker::open(component, config),
            Self::Native(builtin) => match builtin.open(config) {
                Ok(filter) => Ok(Worker::native(filter)),
                Err(issues) => {
                    let issues: Vec<(String, String)> =
                        issues.into_iter().map(|issue| (issue.path, issue.message)).collect();
                    Err(config_error(builtin.name(), &issues, &format!("builtin:{}", builtin.name())))
                }
            },
        }
    }
}

/// The error for a refused configuration of the plugin at `path`.
pub(crate) fn config_error(name: &str, issues: &[(String, String)], path: &str) -> StageError {
    let issues: Vec<String> = issues
        .iter()
        .map(|(path, message)| match path.as_str() {
            "" => format!("`config`: {message}"),
            path => format!("`config.{path}`: {message}"),
        })
        .collect();
    let message = format!("plugin `{name}` refuses its configuration: {}", issues.join("; "));
    StageError::input("plugin::config", message)
        .hint(format!("`luthier plugin inspect {path}` prints the configuration that `{name}` takes"))
}
