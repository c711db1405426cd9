//! Building guests for the tests, once per test binary and kept by the digest of their sources between runs.

use std::io::Write;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::digest_path;
use luthier_plugins::{BuildOptions, build_plugin, path_dependencies};

pub fn repository() -> Utf8PathBuf {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize_utf8().expect("a readable checkout")
}

/// The component of a crate; `None`, with the reason printed, only where the wasm target is missing.
pub fn build(krate: &Utf8Path) -> Option<Vec<u8>> {
    let shared = Utf8Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut sources = vec![source_digest(krate)];
    sources.extend(path_dependencies(krate).iter().map(|path| source_digest(path)));
    match build_plugin(krate, &BuildOptions { cache: shared, offline: false, sources: &sources, jobs: 2 }) {
        Ok(wasm) => Some(wasm),
        Err(error) if is_missing_target(&error) => None,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            panic!("{error}\n{cause}");
        }
    }
}

/// Whether a test cannot run because the wasm target is missing; prints that.
pub fn is_missing_target(error: &luthier_core::StageError) -> bool {
    let missing = error.code == "plugin::no_target";
    if missing {
        let _ = writeln!(std::io::stderr(), "skipped: {error} (hint: {})", error.hints.join("; "));
    }
    missing
}

fn source_digest(path: &Utf8Path) -> luthier_core::Digest {
    let mut files = luthier_core::fs::walk_files(path).expect("a readable checkout");
    files.retain(|file| !file.split('/').any(|part| part == "target"));
    let mut text = String::new();
    for file in files {
        text.push_str(&format!("{file} {}\n", digest_path(&path.join(&file)).expect("a readable checkout").0));
    }
    luthier_core::Digest::of(text.as_bytes())
}
