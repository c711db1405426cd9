//! JavaScript: `componentize-js`, which puts an engine and the plugin's modules, already evaluated, into one component.

use camino::Utf8Path;
use luthier_core::StageResult;

use super::BuildOptions;
use super::tool::{Tool, Words, scratch};

/// The release that the scaffold pins.
pub(crate) const VERSION: &str = "0.23.0";

/// What the engine would import from WASI.
const DISABLED: [&str; 5] = ["stdio", "random", "clocks", "http", "fetch-event"];

pub(super) fn build(directory: &Utf8Path, name: &str, options: &BuildOptions<'_>) -> StageResult<Vec<u8>> {
    let (_held, scratch) = scratch(options.cache)?;
    let output = scratch.join("plugin.wasm");
    let mut command = Tool::local_or(directory, "node_modules/.bin/componentize-js", "componentize-js").command();
    command.current_dir(directory).args([
        "luthier/app.js",
        "--wit",
        "luthier/wit",
        "--world-name",
        "plugin",
        "--out",
        output.as_str(),
    ]);
    for feature in DISABLED {
        command.args(["--disable", feature]);
    }
    let install = if directory.join("package.json").is_file() {
        format!("npm install --prefix {directory}")
    } else {
        format!("npm install --global @bytecodealliance/componentize-js@{VERSION}")
    };
    Words { name, language: "JavaScript", install }.run(command, &output)
}
