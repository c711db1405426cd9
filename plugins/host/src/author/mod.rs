//! What plugin authors need: make a plugin, build it, run it on sample rows, measure it, look inside.

mod bench;
mod cases;
mod embedded;
mod inspect;
mod rows;
mod scaffold;

use camino::Utf8Path;
use luthier_core::{Digest, StageError, StageResult, digest_path};

pub use bench::{BenchReport, bench};
pub use cases::{Case, CaseResult, TestReport, run_cases};
pub use embedded::{EmbeddedFile, SDK_FILES, WIT_FILE};
pub use inspect::{Inspection, inspect};
pub use rows::{RowVerdict, judge_file, sample_texts};
pub use scaffold::{Language, Scaffold, scaffold};

use crate::compiled_cache::CompiledCache;
use crate::component::PluginComponent;
use crate::crate_build::{BuildOptions, build_crate};
use crate::engine::FilterEngine;
use crate::limits::Limits;
use crate::source::{PluginSource, path_dependencies};

/// Where an author's commands work.
#[derive(Debug, Clone, Copy)]
pub struct Workshop<'a> {
    /// The directory shared between runs.
    pub cache: &'a Utf8Path,
    pub offline: bool,
    pub jobs: usize,
}

impl Workshop<'_> {
    /// The component at `path`: a crate is built, a `.wasm` file read.
    ///
    /// # Errors
    /// As [`build_crate`], or there is no plugin at `path`.
    pub fn build(&self, path: &Utf8Path) -> StageResult<Vec<u8>> {
        let source = PluginSource::parse(path.as_str(), Utf8Path::new(""))
            .map_err(|problem| StageError::input("plugin::missing", problem.message).hint(problem.help))?;
        match source {
            PluginSource::Component(file) => Ok(fs_err::read(file)?),
            PluginSource::Crate(krate) => {
                let root = krate.canonicalize_utf8()?;
                let mut sources = vec![source_digest(&root)?];
                for dependency in path_dependencies(&root) {
                    sources.push(source_digest(&dependency)?);
                }
                let options =
                    BuildOptions { cache: self.cache, offline: self.offline, sources: &sources, jobs: self.jobs };
                build_crate(&root, &options)
            }
            PluginSource::Builtin(name) => Err(StageError::input(
                "plugin::builtin",
                format!("`builtin:{name}` is part of Luthier: there is nothing to build"),
            )
            .hint("name the directory of a crate or a `.wasm` file")),
        }
    }

    /// Builds and loads the plugin at `path`.
    ///
    /// # Errors
    /// As [`Self::build`], or it is not a filter.
    pub fn load(&self, path: &Utf8Path, limits: Limits) -> StageResult<PluginComponent> {
        let wasm = self.build(path)?;
        let engine = FilterEngine::new(limits.fuel.is_some())?;
        let name = path.file_stem().unwrap_or("plugin");
        PluginComponent::load(&engine, &CompiledCache::new(self.cache), name, &wasm, limits)
    }
}

/// The digest of a crate's files, without what building leaves behind.
fn source_digest(root: &Utf8Path) -> StageResult<Digest> {
    const LEFT_OUT: &[&str] = &["target", ".git", ".luthier"];
    let mut hasher = blake3::Hasher::new_derive_key("luthier 2026-11 plugin sources v1");
    for file in luthier_core::fs::walk_files(root)? {
        if file.split('/').any(|part| LEFT_OUT.contains(&part)) {
            continue;
        }
        let (digest, _, _) = digest_path(&root.join(&file))?;
        hasher.update(&(file.len() as u64).to_le_bytes());
        hasher.update(file.as_bytes());
        hasher.update(digest.as_bytes());
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}
