//! Rust: the user's own cargo.
//!
//! The target directory is ours, so that neither the crate nor the surrounding workspace is touched and plugins share
//! what they have in common.

use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult};
use serde_json::Value;

use super::{BuildOptions, tail};

const TARGET: &str = "wasm32-wasip2";
const TARGET_HINT: &str = "rustup target add wasm32-wasip2";

/// The component of the crate in `directory`.
pub(super) fn build(directory: &Utf8Path, name: &str, options: &BuildOptions<'_>) -> StageResult<Vec<u8>> {
    check_target(directory, name)?;
    let lock = directory.join("Cargo.lock");
    let locked = lock.is_file();
    let wasm = run_cargo(directory, name, options);
    // A lock file is a source: one that appears during a build would change the digest of what is being built.
    if !locked && lock.is_file() {
        fs_err::remove_file(&lock)?;
    }
    Ok(fs_err::read(wasm?)?)
}

/// A variable of the surrounding cargo or of the user's native builds, which must not reach the plugin's.
fn is_foreign(name: &str) -> bool {
    const EXACT: &[&str] = &["RUSTFLAGS", "RUSTDOCFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "MAKEFLAGS"];
    const PREFIX: &[&str] = &["CARGO_ENCODED_", "CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_PKG_"];
    const NEXT: &[&str] = &["CARGO_MANIFEST_", "CARGO_UNSTABLE_", "CARGO_RESOLVER_", "CARGO_CFG_", "CARGO_MAKEFLAGS"];
    EXACT.contains(&name)
        || PREFIX.iter().chain(NEXT).any(|prefix| name.starts_with(prefix))
        || name == "CARGO_INCREMENTAL"
}

fn tool(program: &str, directory: &Utf8Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_foreign) {
            command.env_remove(name);
        }
    }
    command
}

fn missing(program: &str, name: &str, error: std::io::Error) -> StageError {
    if error.kind() == std::io::ErrorKind::NotFound {
        StageError::input(
            "plugin::no_cargo",
            format!("plugin `{name}` is a Rust crate, and `{program}` is not installed or not on the PATH"),
        )
        .hint("install Rust from rust-lang.org, or name a `.wasm` component instead of the crate")
    } else {
        StageError::new("plugin::cargo", format!("cannot start `{program}` to build plugin `{name}`")).caused_by(error)
    }
}

/// Asks before cargo does, because its own message for a missing target is about a missing `core`.
fn check_target(directory: &Utf8Path, name: &str) -> StageResult<()> {
    let output = tool("rustc", directory)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| missing("rustc", name, error))?;
    let libraries = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && Utf8Path::new(&libraries).is_dir() {
        return Ok(());
    }
    Err(StageError::input(
        "plugin::no_target",
        format!("plugin `{name}` is built for `{TARGET}`, and that target is not installed"),
    )
    .hint(TARGET_HINT))
}

fn run_cargo(directory: &Utf8Path, name: &str, options: &BuildOptions<'_>) -> StageResult<Utf8PathBuf> {
    let mut flags = vec!["-Ctarget-feature=+simd128".to_owned()];
    let parent = directory.parent().filter(|parent| !parent.as_str().is_empty());
    if let Some(parent) = parent {
        flags.push(format!("--remap-path-prefix={parent}=/plugins"));
    }
    let mut command = tool("cargo", directory);
    command
        .args(["build", "--release", "--lib", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .args(["--config", "profile.release.strip=true", "--config", "profile.release.opt-level=3"])
        .args(["--config", "profile.release.lto=true", "--config", "profile.release.codegen-units=1"])
        .arg("--jobs")
        .arg(options.jobs.max(1).to_string())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_DIR", options.cache.join("plugins/target"))
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_TERM_PROGRESS_WHEN", "never");
    if directory.join("Cargo.lock").is_file() {
        command.arg("--locked");
    }
    if options.offline {
        command.arg("--offline");
    }
    let output = command.output().map_err(|error| missing("cargo", name, error))?;
    if !output.status.success() {
        return Err(build_error(directory, name, &String::from_utf8_lossy(&output.stderr)));
    }
    artifact(&String::from_utf8_lossy(&output.stdout), directory).ok_or_else(|| {
        StageError::input("plugin::no_component", format!("crate `{name}` builds, but makes no component"))
            .hint("add `[lib]` with `crate-type = [\"cdylib\"]` to its Cargo.toml")
    })
}

fn build_error(directory: &Utf8Path, name: &str, stderr: &str) -> StageError {
    let lines: Vec<&str> = stderr
        .lines()
        .filter(|line| {
            let line = line.trim_start();
            !["Compiling ", "Finished ", "Locking ", "Updating ", "Blocking ", "Downloaded ", "Downloading "]
                .iter()
                .any(|word| line.starts_with(word))
        })
        .collect();
    let error = StageError::input("plugin::build", format!("plugin `{name}` does not compile"));
    let error = if stderr.contains("--locked was passed") || stderr.contains("because --locked") {
        error.hint(format!("update the lock file: cargo update --workspace --manifest-path {directory}/Cargo.toml"))
    } else {
        error.hint(format!("cargo build --release --target {TARGET} --manifest-path {directory}/Cargo.toml"))
    };
    error.caused_by(tail(&lines.join("\n")))
}

/// The `.wasm` that cargo says it made of the crate in `directory`.
fn artifact(messages: &str, directory: &Utf8Path) -> Option<Utf8PathBuf> {
    let manifest = directory.join("Cargo.toml");
    let manifest = manifest.canonicalize_utf8().unwrap_or(manifest);
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| {
            message["manifest_path"].as_str().is_some_and(|path| {
                let path = Utf8Path::new(path);
                path.canonicalize_utf8().unwrap_or_else(|_| path.to_owned()) == manifest
            })
        })
        .filter_map(|message| {
            let files = message["filenames"].as_array()?.clone();
            files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm")).map(Utf8PathBuf::from)
        })
        .next_back()
}
