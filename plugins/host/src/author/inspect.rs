//! What is inside a plugin.

use luthier_core::Digest;
use serde::Serialize;

use crate::component::PluginComponent;
use crate::manifest::Manifest;

/// What `luthier plugin inspect` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// `luthier:filter@0.2.0`.
    pub world: String,
    /// BLAKE3 of the component.
    pub digest: Digest,
    /// Bytes of the component.
    pub size: usize,
    pub manifest: Manifest,
    /// What it may call and gets an answer from.
    pub granted: Vec<String>,
    /// What traps when it is called: linked in by the language's runtime, of no use in a filter.
    pub denied: Vec<String>,
}

/// Looks inside a loaded plugin.
#[must_use]
pub fn inspect(plugin: &PluginComponent) -> Inspection {
    let (granted, denied) = plugin
        .imports()
        .iter()
        .cloned()
        .partition(|import| import.starts_with("luthier:") || import.starts_with("wasi:random/"));
    Inspection {
        world: plugin.world().to_string(),
        digest: plugin.digest(),
        size: plugin.size(),
        manifest: plugin.manifest().clone(),
        granted,
        denied,
    }
}
