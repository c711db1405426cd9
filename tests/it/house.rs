//! The dependency directions between our crates. An edge that is not listed here is a design change, not an import.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What each crate may depend on in a build; tests may use anything.
const ALLOWED: &[(&str, &[&str])] = &[
    ("luthier-core", &[]),
    ("luthier-kernels", &[]),
    ("luthier-cuda", &["luthier-kernels"]),
    ("luthier-ops", &["luthier-cuda", "luthier-kernels"]),
    ("luthier-engine", &["luthier-core"]),
    ("luthier-executors", &["luthier-core"]),
    ("luthier-formats", &["luthier-core"]),
    ("luthier-model", &["luthier-core", "luthier-formats", "luthier-kernels", "luthier-ops"]),
    ("luthier-builtins", &["luthier-filter"]),
    ("luthier-plugins", &["luthier-builtins", "luthier-core", "luthier-filter"]),
    (
        "luthier-stages",
        &["luthier-core", "luthier-cuda", "luthier-formats", "luthier-kernels", "luthier-model", "luthier-plugins"],
    ),
    ("luthier-remote", &["luthier-core", "luthier-engine"]),
    (
        "luthier",
        &["luthier-core", "luthier-engine", "luthier-executors", "luthier-plugins", "luthier-remote", "luthier-stages"],
    ),
];

/// Third-party crates that only the named crates may use.
const CONFINED: &[(&str, &[&str])] = &[
    ("petgraph", &["luthier-engine"]),
    ("serde-saphyr", &["luthier-engine"]),
    ("tokio", &["luthier-engine", "luthier-remote", "luthier"]),
    ("object_store", &["luthier-remote"]),
    ("clap", &["luthier", "luthier-bench"]),
    ("wasmtime", &["luthier-plugins"]),
    ("cudarc", &["luthier-cuda"]),
    ("candle-core", &["luthier-ops", "luthier-model"]),
    ("cudarc", &["luthier-cuda"]),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn build_dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let names = package["dependencies"].as_array().expect("dependencies").iter();
            let names = names.filter(|dependency| dependency["kind"].is_null());
            let names = names.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned)).collect();
            (package["name"].as_str().expect("a name").to_owned(), names)
        })
        .collect()
}

#[test]
fn crates_depend_only_downwards() {
    let packages = build_dependencies();
    let mut wrong = Vec::new();
    for (package, allowed) in ALLOWED {
        let dependencies = packages.get(*package).unwrap_or_else(|| panic!("{package} is a member"));
        for dependency in dependencies.iter().filter(|name| name.starts_with("luthier")) {
            if !allowed.contains(&dependency.as_str()) {
                wrong.push(format!("{package} -> {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "edges that the house does not allow: {wrong:#?}");
}

#[test]
fn heavy_dependencies_stay_where_they_belong() {
    let packages = build_dependencies();
    let mut wrong = Vec::new();
    for (dependency, homes) in CONFINED {
        for (package, dependencies) in &packages {
            if dependencies.contains(*dependency) && !homes.contains(&package.as_str()) {
                wrong.push(format!("{package} -> {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "dependencies outside their home: {wrong:#?}");
}

#[test]
fn every_crate_is_placed() {
    let known: BTreeSet<&str> =
        ALLOWED.iter().map(|(name, _)| *name).chain(["luthier-test", "luthier-bench"]).collect();
    let unknown: Vec<String> = build_dependencies().into_keys().filter(|name| !known.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "name these crates in the table of directions: {unknown:?}");
}
