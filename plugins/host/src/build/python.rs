//! Python: `componentize-py`, which puts CPython and the plugin's modules, already imported, into one component.

use camino::Utf8Path;
use luthier_core::StageResult;

use super::BuildOptions;
use super::tool::{Tool, Words, scratch};

/// The release that the scaffold pins.
pub(crate) const REQUIREMENT: &str = "componentize-py==0.25.1";

pub(super) fn build(directory: &Utf8Path, name: &str, options: &BuildOptions<'_>) -> StageResult<Vec<u8>> {
    let (_held, scratch) = scratch(options.cache)?;
    let output = scratch.join("plugin.wasm");
    let luthier = directory.join("luthier");
    let mut command = Tool::local_or(directory, ".venv/bin/componentize-py", "componentize-py").command();
    // `--stub-wasi` takes every WASI import out of the component: what a module asks of them at run time traps.
    command
        .args(["--quiet", "--wit-path", luthier.join("wit").as_str(), "--world", "plugin", "componentize"])
        .args(["--stub-wasi", "--python-path", directory.as_str(), "--python-path", luthier.as_str()])
        .args(["app", "--output", output.as_str()])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONHASHSEED", "0");
    let install = format!("pip install {REQUIREMENT}");
    Words { name, language: "Python", install }.run(command, &output)
}
