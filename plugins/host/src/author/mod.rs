//! What plugin authors need: make a plugin, build it, run it on sample rows, measure it, look inside.

mod bench;
mod cases;
mod embedded;
mod inspect;
mod rows;
mod scaffold;

use camino::Utf8Path;
use luthier_core::{Digest, StageError, StageResult, TreeEntry, digest_path, digest_tree};

pub use bench::{BenchReport, bench, bench_all};
pub use cases::{Case, CaseResult, TestReport, run_cases};
pub use embedded::{EmbeddedFile, SDK_FILES};
pub use inspect::{Inspection, inspect};
pub use rows::{RowVerdict, judge_file, sample_texts, texts_of};
pub use scaffold::{Scaffold, scaffold};

use crate::build::{BuildOptions, build_plugin, kept_component};
use crate::compiled_cache::CompiledCache;
use crate::component::PluginComponent;
use crate::engine::FilterEngine;
use crate::limits::Limits;
use crate::manifest::Manifest;
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
    /// The component at `path`: a directory of sources is built, a `.wasm` file read.
    ///
    /// # Errors
    /// As [`build_plugin`], or there is no plugin at `path`.
    pub fn build(&self, path: &Utf8Path) -> StageResult<Vec<u8>> {
        let source = PluginSource::parse(path.as_str(), Utf8Path::new(""))
            .map_err(|problem| StageError::input("plugin::missing", problem.message).hint(problem.help))?;
        match source {
            PluginSource::Component(file) => Ok(fs_err::read(file)?),
            PluginSource::Directory(directory) => {
                let root = directory.canonicalize_utf8()?;
                build_plugin(&root, &self.options(&sources_of(&root)?))
            }
            PluginSource::Builtin(name) => Err(StageError::input(
                "plugin::builtin",
                format!("`builtin:{name}` is part of Luthier: there is nothing to build"),
            )
            .hint("name the directory of a plugin or a `.wasm` file")),
        }
    }

    fn options<'o>(&'o self, sources: &'o [Digest]) -> BuildOptions<'o> {
        BuildOptions { cache: self.cache, offline: self.offline, sources, jobs: self.jobs }
    }

    /// What the plugin at `path` said about itself when it was last loaded; `None` if that is not known, such as after
    /// a change of its sources. Builds, compiles and runs nothing.
    #[must_use]
    pub fn known_manifest(&self, path: &Utf8Path) -> Option<Manifest> {
        let wasm = match PluginSource::parse(path.as_str(), Utf8Path::new("")).ok()? {
            PluginSource::Component(file) => fs_err::read(file).ok()?,
            PluginSource::Directory(directory) => {
                let sources = sources_of(&directory.canonicalize_utf8().ok()?).ok()?;
                kept_component(&self.options(&sources))?
            }
            PluginSource::Builtin(_) => return None,
        };
        CompiledCache::new(self.cache).known_manifest(&Digest::of(&wasm))
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

/// The digests by which the component of a directory is kept.
fn sources_of(root: &Utf8Path) -> StageResult<Vec<Digest>> {
    std::iter::once(root.to_owned()).chain(path_dependencies(root)).map(|path| source_digest(&path)).collect()
}

/// The digest of the sources in `root`: that of the engine for the same tree, so that a run finds what was built here.
fn source_digest(root: &Utf8Path) -> StageResult<Digest> {
    let mut entries = Vec::new();
    for path in luthier_core::fs::walk_sources(root)? {
        let full = root.join(&path);
        let (digest, _, size) = digest_path(&full)?;
        let executable = luthier_core::fs::is_executable(&fs_err::metadata(&full)?);
        entries.push(TreeEntry { path, digest, size, executable });
    }
    Ok(digest_tree(&entries))
}
