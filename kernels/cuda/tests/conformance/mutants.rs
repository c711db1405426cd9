//! The checks of the checks: every defect of `mutants/*.toml`, put into the kernels, must be noticed.

use std::process::Command;

use crate::support::emulator::{Edit, build, missing};
use crate::support::sources::home;

struct Mutant {
    name: String,
    file: String,
    find: String,
    replace: String,
    /// Filters of the tests of which one must fail.
    tests: String,
}

/// Reads the tables, whose values are strings on one line as both TOML and JSON write them.
fn mutants() -> Vec<Mutant> {
    let folder = home().join("tests/conformance/mutants");
    let mut paths: Vec<_> = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        for table in fs_err::read_to_string(&path).unwrap().split("[[mutant]]").skip(1) {
            let value = |key: &str| {
                let line = table.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
                let line = line.unwrap_or_else(|| panic!("{path:?}: a mutant has no `{key}`: {table}"));
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{path:?}: {key}: {error}"))
            };
            all.push(Mutant {
                name: value("name"),
                file: value("file"),
                find: value("find"),
                replace: value("replace"),
                tests: value("tests"),
            });
        }
    }
    all
}

#[test]
fn every_defect_is_of_a_kernel() {
    let all = mutants();
    assert!(all.len() >= 100, "{} defects", all.len());
    for mutant in &all {
        let text = fs_err::read_to_string(home().join("kernels").join(&mutant.file)).unwrap();
        let count = text.matches(mutant.find.as_str()).count();
        assert_eq!(count, 1, "`{}` ({}): what it replaces is there {count} times", mutant.name, mutant.file);
    }
}

#[test]
#[ignore = "takes minutes: kernels/cuda/tests/checks.sh"]
fn every_defect_is_noticed() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let only = std::env::var("LUTHIER_MUTANT").unwrap_or_default();
    let mut survivors = Vec::new();
    let all = mutants();
    for mutant in all.iter().filter(|mutant| mutant.name.contains(&only) || mutant.file.contains(&only)) {
        let edit = Edit { file: &mutant.file, find: &mutant.find, replace: &mutant.replace };
        let driver = build(None, Some(&edit));
        let output = Command::new(std::env::current_exe().unwrap())
            .args(mutant.tests.split(' '))
            .env("LUTHIER_EMULATED_DRIVER", driver)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains("running 0 tests"), "`{}`: `{}` names no test", mutant.name, mutant.tests);
        eprintln!("{}: {}", mutant.name, if output.status.success() { "NOT NOTICED" } else { "noticed" });
        if output.status.success() {
            survivors.push(mutant.name.as_str());
        }
    }
    assert!(survivors.is_empty(), "defects that no test notices: {survivors:#?}");
}
