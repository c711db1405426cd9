//! Builds a plugin from its sources with the user's own toolchain.
//!
//! Nothing is written into the plugin's directory. The result is kept by the digest of its sources: with it, no
//! toolchain is needed.

mod c;
mod cargo;
mod javascript;
mod python;
mod tool;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Digest, StageError, StageResult, quoted};

use crate::language::Language;

/// Bumped when the commands change what is built from equal sources.
const RECIPE: &str = "luthier 2026-11 plugin build v2";

/// Where and how to build.
#[derive(Debug, Clone)]
pub struct BuildOptions<'a> {
    /// The directory shared between runs.
    pub cache: &'a Utf8Path,
    pub offline: bool,
    /// Digests of the directory and of all that it depends on by path; the result is kept by them.
    pub sources: &'a [Digest],
    /// At most this many jobs.
    pub jobs: usize,
}

/// The component of the plugin in `directory`.
///
/// # Errors
/// There is no plugin, its toolchain is missing, the compiler says no (its last lines are the cause), or what it made
/// is no component.
pub fn build_plugin(directory: &Utf8Path, options: &BuildOptions<'_>) -> StageResult<Vec<u8>> {
    let directory = &directory.canonicalize_utf8()?;
    let name = directory.file_name().unwrap_or("plugin");
    if let Some(bytes) = kept_component(options) {
        return Ok(bytes);
    }
    let bytes = match Language::of(directory) {
        Some(Language::Rust) => cargo::build(directory, name, options)?,
        Some(Language::Python) => python::build(directory, name, options)?,
        Some(Language::JavaScript) => javascript::build(directory, name, options)?,
        Some(Language::C) => c::build(directory, name, options)?,
        None => {
            let markers = quoted(Language::ALL.map(Language::marker));
            return Err(StageError::input("plugin::no_sources", format!("`{directory}` holds none of {markers}"))
                .hint("`luthier plugin new NAME --lang rust|python|javascript|c` makes a plugin"));
        }
    };
    luthier_core::fs::write_atomic(&kept_path(options), &bytes)?;
    Ok(bytes)
}

/// The component that these sources were built to before.
#[must_use]
pub fn kept_component(options: &BuildOptions<'_>) -> Option<Vec<u8>> {
    fs_err::read(kept_path(options)).ok()
}

fn kept_path(options: &BuildOptions<'_>) -> Utf8PathBuf {
    let mut hasher = blake3::Hasher::new_derive_key(RECIPE);
    for source in options.sources {
        hasher.update(source.as_bytes());
    }
    options.cache.join("plugins/components-v1").join(format!("{}.wasm", hasher.finalize().to_hex()))
}

/// The last lines of a compiler's words.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
