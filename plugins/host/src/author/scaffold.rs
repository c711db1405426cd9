//! A new plugin that builds, passes its tests, and says what to do next.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult};

use super::embedded::SDK_FILES;

/// What a plugin is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Rust,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaffold {
    pub name: String,
    pub directory: Utf8PathBuf,
    /// Relative to the directory, what the author will edit first.
    pub files: Vec<String>,
    /// Commands to go on with.
    pub next: Vec<String>,
}

const RUST_CARGO: &str = include_str!("template/Cargo.toml.txt");
const RUST_LIB: &str = include_str!("template/lib.rs.txt");
const RUST_CASES: &str = include_str!("template/cases.jsonl");

/// Makes a plugin in `directory`, which must not exist or be empty; its last part is the plugin's name.
///
/// # Errors
/// The directory holds something, or its name is not one for a crate.
pub fn scaffold(directory: &Utf8Path, language: Language) -> StageResult<Scaffold> {
    let name = directory.file_name().unwrap_or_default().to_owned();
    let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !valid {
        return Err(StageError::input("plugin::name", format!("`{name}` is not a name for a plugin"))
            .hint("use a to z, digits and `-`, starting with a letter: `luthier plugin new filters/no-urls`"));
    }
    if directory.exists() && fs_err::read_dir(directory)?.next().is_some() {
        return Err(StageError::input("plugin::exists", format!("`{directory}` is not empty"))
            .hint("choose another name, or remove the directory"));
    }
    fs_err::create_dir_all(directory)?;
    match language {
        Language::Rust => rust(directory, name),
    }
}

fn rust(directory: &Utf8Path, name: String) -> StageResult<Scaffold> {
    let sdk = match sdk_nearby(directory) {
        Some(path) => path,
        None => {
            for file in SDK_FILES {
                write(&directory.join("luthier-filter").join(file.path), &standalone(file.path, file.text))?;
            }
            "luthier-filter".to_owned()
        }
    };
    let fill = |text: &str| {
        text.replace("@NAME@", &name).replace("@FUNCTION@", &name.replace('-', "_")).replace("@SDK@", &sdk)
    };
    let files = [
        ("Cargo.toml", fill(RUST_CARGO)),
        ("src/lib.rs", fill(RUST_LIB)),
        ("cases.jsonl", RUST_CASES.to_owned()),
        (".gitignore", "target/\n".to_owned()),
    ];
    for (path, text) in &files {
        write(&directory.join(path), text)?;
    }
    Ok(Scaffold {
        next: vec![
            format!("luthier plugin test {directory}"),
            format!("cargo test --manifest-path {directory}/Cargo.toml"),
        ],
        name,
        directory: directory.to_owned(),
        files: files.iter().take(3).map(|(path, _)| (*path).to_owned()).collect(),
    })
}

/// The copied SDK is a part of the plugin, not a workspace of its own.
fn standalone(path: &str, text: &str) -> String {
    match (path, text.split_once("[workspace]")) {
        ("Cargo.toml", Some((before, _))) => format!("{}\n", before.trim_end()),
        _ => text.to_owned(),
    }
}

/// In a checkout of Luthier its own SDK is used; elsewhere the plugin gets a copy.
fn sdk_nearby(directory: &Utf8Path) -> Option<String> {
    let full = directory.canonicalize_utf8().ok()?;
    full.ancestors().enumerate().skip(1).find_map(|(up, ancestor)| {
        let manifest = fs_err::read_to_string(ancestor.join("plugins/sdk/Cargo.toml")).ok()?;
        manifest.contains("name = \"luthier-filter\"").then(|| format!("{}plugins/sdk", "../".repeat(up)))
    })
}

fn write(path: &Utf8Path, text: &str) -> StageResult<()> {
    Ok(luthier_core::fs::write_atomic(path, text.as_bytes())?)
}
