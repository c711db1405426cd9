//! Where a plugin comes from: `builtin:NAME`, a `.wasm` file, or a directory of sources.

use std::collections::BTreeSet;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use luthier_core::quoted;

use crate::language::Language;

/// What `plugin:` names in a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginSource {
    Builtin(String),
    /// A compiled component.
    Component(Utf8PathBuf),
    /// A directory with the [`Language::marker`] of its language.
    Directory(Utf8PathBuf),
}

/// Why a plugin was not found: message and help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceProblem {
    pub message: String,
    pub help: String,
}

impl PluginSource {
    /// Reads `text` as a plugin source; paths are relative to `directory`.
    ///
    /// # Errors
    /// It is none of the three, or not there.
    pub fn parse(text: &str, directory: &Utf8Path) -> Result<Self, SourceProblem> {
        if let Some(name) = text.strip_prefix("builtin:") {
            return Ok(Self::Builtin(name.to_owned()));
        }
        let path = directory.join(text);
        let problem = |message: String, help: &str| Err(SourceProblem { message, help: help.to_owned() });
        if path.is_dir() {
            if Language::of(&path).is_some() {
                return Ok(Self::Directory(Utf8PathBuf::from(text)));
            }
            let markers = quoted(Language::ALL.map(Language::marker));
            return problem(
                format!("`{text}` is a directory without a plugin: it has none of {markers}"),
                "`luthier plugin new NAME --lang rust|python|javascript|c` makes a plugin; a component that something \
                 else built is named by its `.wasm` file",
            );
        }
        if path.is_file() {
            if path.extension() == Some("wasm") {
                return Ok(Self::Component(Utf8PathBuf::from(text)));
            }
            return problem(
                format!("`{text}` is neither a directory nor a `.wasm` file"),
                "name the directory of a plugin, or a component that ends in `.wasm`",
            );
        }
        problem(
            format!("there is no plugin at `{text}`"),
            &format!("`luthier plugin new {text}` makes one; built-in filters are named `builtin:NAME`"),
        )
    }
}

/// The directories that a crate depends on by path, directly or not, sorted, without itself.
///
/// Read from the manifests line by line: `path = "…"` anywhere in a dependency counts. One too many only makes the key
/// more careful.
#[must_use]
pub fn path_dependencies(krate: &Utf8Path) -> Vec<Utf8PathBuf> {
    let root = normal(krate);
    let mut found = BTreeSet::new();
    let mut pending = vec![root.clone()];
    while let Some(directory) = pending.pop() {
        let Ok(manifest) = fs_err::read_to_string(directory.join("Cargo.toml")) else { continue };
        for path in manifest.lines().flat_map(paths_in) {
            let target = normal(&directory.join(path));
            let inside = target.starts_with(&root) || found.iter().any(|known: &Utf8PathBuf| target.starts_with(known));
            if !inside && target.join("Cargo.toml").is_file() {
                found.insert(target.clone());
                pending.push(target);
            }
        }
    }
    found.into_iter().collect()
}

fn paths_in(line: &str) -> Vec<&str> {
    let line = line.split('#').next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find("path") {
        rest = &rest[at + 4..];
        let after = rest.trim_start();
        if let Some(value) = after.strip_prefix('=')
            && let Some(text) = value.trim_start().strip_prefix(['"', '\''])
            && let Some(end) = text.find(['"', '\''])
        {
            found.push(&text[..end]);
        }
    }
    found
}

/// Takes `.` and `..` out of a path without asking the file system.
fn normal(path: &Utf8Path) -> Utf8PathBuf {
    let mut out = Utf8PathBuf::new();
    for component in path.components() {
        match component {
            Utf8Component::CurDir => {}
            Utf8Component::ParentDir if out.file_name().is_some_and(|name| name != "..") => {
                out.pop();
            }
            other => out.push(other.as_str()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_paths_in_manifest_lines() {
        assert_eq!(paths_in(r#"a = { path = "../sdk", version = "1" }"#), ["../sdk"]);
        assert_eq!(paths_in(r#"path='x'"#), ["x"]);
        assert!(paths_in(r#"# path = "x""#).is_empty());
        assert!(paths_in(r#"paths = 3"#).is_empty());
    }

    #[test]
    fn follows_path_dependencies() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let write = |name: &str, text: &str| {
            fs_err::create_dir_all(root.join(name)).unwrap();
            fs_err::write(root.join(name).join("Cargo.toml"), text).unwrap();
        };
        write("a", "[dependencies]\nb = { path = \"../b\" }\nnone = { path = \"../none\" }");
        write("b", "[dependencies]\nmacros = { path = \"macros\" }\na = { path = \"../a\" }");
        write("b/macros", "");
        assert_eq!(path_dependencies(&root.join("a")), [root.join("b")]);
        assert!(matches!(PluginSource::parse("a", root), Ok(PluginSource::Directory(_))));
        assert!(PluginSource::parse("c", root).unwrap_err().message.contains("no plugin at `c`"));
        assert_eq!(PluginSource::parse("builtin:x", root), Ok(PluginSource::Builtin("x".to_owned())));
    }
}
