//! C: any clang that comes with a C library for WASI: that of the WASI SDK, zig's, or a distribution's.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult};

use super::BuildOptions;
use super::tool::{Tool, Words, scratch};
use crate::core_module::as_component;

/// The release of zig that the tests ran with.
const ZIG: &str = "ziglang==0.17.1";

pub(super) fn build(directory: &Utf8Path, name: &str, options: &BuildOptions<'_>) -> StageResult<Vec<u8>> {
    let (_held, scratch) = scratch(options.cache)?;
    let output = scratch.join("plugin.wasm");
    let words = Words { name, language: "C", install: format!("pip install {ZIG}") };
    let compiler = find().ok_or_else(|| words.missing("zig"))?;
    let mut command = compiler.command();
    command
        .current_dir(directory)
        .args(["-mexec-model=reactor", "-std=c11", "-O3", "-msimd128", "-Wall", "-s", "-o", output.as_str()])
        .args(sources(directory)?)
        .env("ZIG_GLOBAL_CACHE_DIR", options.cache.join("plugins/zig"))
        .env("ZIG_LOCAL_CACHE_DIR", options.cache.join("plugins/zig"));
    let module = words.run(command, &output)?;
    let component = as_component(name, &module)?;
    if component.len() == module.len() {
        return Err(StageError::input(
            "plugin::no_component",
            format!("plugin `{name}` builds, but exports no filter"),
        )
        .hint("keep `luthier/boundary.c`, which exports it; `luthier plugin new NAME --lang c` writes it"));
    }
    Ok(component.into_owned())
}

/// The first compiler that can make WebAssembly.
fn find() -> Option<Tool> {
    if let Some(sdk) = std::env::var("WASI_SDK_PATH").ok().map(Utf8PathBuf::from) {
        return Some(Tool::named(sdk.join("bin/clang"), &["--target=wasm32-wasip1"]));
    }
    let zig = ["zig".into(), "python3".into(), "python".into()].into_iter().find_map(|program: Utf8PathBuf| {
        let module: &[&str] = if program == "zig" { &[] } else { &["-m", "ziglang"] };
        Tool::named(program.clone(), module).answers(&["version"], "").then(|| {
            let first: &[&str] = if program == "zig" {
                &["cc", "-target", "wasm32-wasi"]
            } else {
                &["-m", "ziglang", "cc", "-target", "wasm32-wasi"]
            };
            Tool::named(program, first)
        })
    });
    zig.or_else(|| {
        let clang = Tool::named("clang", &["--target=wasm32-wasi"]);
        clang.answers(&["--print-targets"], "wasm32").then_some(clang)
    })
}

/// The C files of the plugin and of `luthier/`, without the native test.
fn sources(directory: &Utf8Path) -> StageResult<Vec<String>> {
    let mut found = Vec::new();
    for part in ["", "luthier/"] {
        let Ok(entries) = directory.join(part).read_dir_utf8() else { continue };
        for entry in entries {
            let name = entry?.file_name().to_owned();
            if name.ends_with(".c") && !name.starts_with("test") {
                found.push(format!("{part}{name}"));
            }
        }
    }
    found.sort();
    Ok(found)
}
