//! A new plugin that builds, passes its tests, and says what to do next.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult};

use super::embedded::{EmbeddedFile, SDK_FILES};
use crate::language::Language;
use crate::world::World;

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

macro_rules! files {
    ($directory:literal: $($path:literal),* $(,)?) => {
        &[$(EmbeddedFile { path: $path, text: include_str!(concat!("template/", $directory, "/", $path)) }),*]
    };
}

const RUST_CARGO: &str = include_str!("template/rust/Cargo.toml.txt");
const RUST_LIB: &str = include_str!("template/rust/lib.rs.txt");
const CASES: &str = include_str!("template/cases.jsonl");

const PYTHON: &[EmbeddedFile] = files!["python":
    "judge.py", "test_judge.py", "requirements.txt", "luthier/__init__.py", "luthier/app.py", "luthier/filter.py",
];
const JAVASCRIPT: &[EmbeddedFile] =
    files!["javascript": "judge.js", "judge.test.js", "package.json", "luthier/index.js", "luthier/app.js"];
const C: &[EmbeddedFile] =
    files!["c": "judge.c", "test.c", "luthier/luthier.h", "luthier/luthier.c", "luthier/boundary.c"];

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
        Language::Python => python(directory, name),
        Language::JavaScript => javascript(directory, name),
        Language::C => c(directory, name),
    }
}

fn python(directory: &Utf8Path, name: String) -> StageResult<Scaffold> {
    let files = place(directory, &name, PYTHON, World::V0_3, ".venv/\n__pycache__/\ntarget/\n")?;
    let next = vec![
        format!("pip install -r {directory}/requirements.txt"),
        format!("luthier plugin test {directory}"),
        format!("(cd {directory} && python -m unittest)"),
    ];
    Ok(Scaffold { name, directory: directory.to_owned(), files, next })
}

fn javascript(directory: &Utf8Path, name: String) -> StageResult<Scaffold> {
    let files = place(directory, &name, JAVASCRIPT, World::V0_2, "node_modules/\ntarget/\n")?;
    let next = vec![
        format!("npm install --prefix {directory}"),
        format!("luthier plugin test {directory}"),
        format!("npm test --prefix {directory}"),
    ];
    Ok(Scaffold { name, directory: directory.to_owned(), files, next })
}

fn c(directory: &Utf8Path, name: String) -> StageResult<Scaffold> {
    let files = place(directory, &name, C, World::V0_2, "target/\n")?;
    let next = vec![
        "pip install ziglang".to_owned(),
        format!("luthier plugin test {directory}"),
        format!(
            "(cd {directory} && mkdir -p target && cc test.c judge.c luthier/luthier.c -o target/test && target/test)"
        ),
    ];
    Ok(Scaffold { name, directory: directory.to_owned(), files, next })
}

/// Writes the files of a language, the cases and the world; returns what the author will edit.
fn place(
    directory: &Utf8Path,
    name: &str,
    files: &[EmbeddedFile],
    world: World,
    ignored: &str,
) -> StageResult<Vec<String>> {
    for file in files {
        write(&directory.join(file.path), &file.text.replace("@NAME@", name))?;
    }
    write(&directory.join("cases.jsonl"), CASES)?;
    write(&directory.join(".gitignore"), ignored)?;
    write(&directory.join("luthier/wit/filter.wit"), world.wit())?;
    let edited = files.iter().map(|file| file.path).filter(|path| !path.starts_with("luthier/"));
    Ok(edited.chain(["cases.jsonl"]).map(str::to_owned).collect())
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
        ("cases.jsonl", CASES.to_owned()),
        ("Cargo.lock", lock_file(&name)),
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

/// What cargo would write: the plugin and the SDK, which depends on nothing else.
fn lock_file(name: &str) -> String {
    let mut packages = [
        (name, "dependencies = [\n \"luthier-filter\",\n]\n"),
        ("luthier-filter", "dependencies = [\n \"luthier-filter-macros\",\n]\n"),
        ("luthier-filter-macros", ""),
    ];
    packages.sort_unstable();
    let packages = packages
        .map(|(name, dependencies)| format!("[[package]]\nname = \"{name}\"\nversion = \"0.1.0\"\n{dependencies}"));
    format!(
        "# This file is automatically @generated by Cargo.\n# It is not intended for manual editing.\nversion = 4\n\n{}",
        packages.join("\n")
    )
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
