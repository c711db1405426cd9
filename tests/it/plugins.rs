//! From `plugin new` to a filtered dataset, and what a wrong configuration is told.

use std::io::Write;

use luthier_test::TestProject;

const PIPELINE: &str = r#"luthier: 1
stages:
  raw:
    uses: ingest
    with: {files: [rows.jsonl]}
  clean:
    uses: filter
    in: raw
    with:
      steps:
        - plugin: ./filters/no-urls
          config:
            max: 1
"#;

const ROWS: &str = r#"{"text": "none at all"}
{"text": "see https://a and http://b"}
{"text": "see https://a"}
"#;

/// `None`, with the reason printed, where plugins cannot be built.
fn project() -> Option<TestProject> {
    let project = TestProject::new(env!("CARGO_BIN_EXE_luthier"));
    project.file("p.yaml", PIPELINE).file("rows.jsonl", ROWS);
    let _ = project.run(&["plugin", "new", "filters/no-urls"]).success();
    let tested = project.run(&["plugin", "test", "filters/no-urls"]);
    if tested.stderr.contains("rustup target add wasm32-wasip2") {
        let _ = writeln!(std::io::stderr(), "skipped: {}", tested.stderr);
        return None;
    }
    assert!(tested.success().stdout.contains("2 passed, 0 failed"));
    Some(project)
}

#[test]
fn a_new_plugin_filters_a_dataset() {
    let Some(project) = project() else { return };
    let ran = project.run(&["run", "p.yaml"]).success();
    assert!(ran.stderr.contains("2 ran, 0 reused"), "{}", ran.stderr);
    let lock = fs_err::read_to_string(project.path().join("p.lock")).expect("a lock");
    assert!(lock.contains("rows_kept: 2.0\n"), "{lock}");
}

#[test]
fn a_plugin_is_measured_with_rows_of_a_file() {
    let Some(project) = project() else { return };
    let bench = project.run(&["plugin", "bench", "filters/no-urls", "--rows", "rows.jsonl"]).success();
    assert!(bench.stdout.contains("; 3 rows a batch"), "{}", bench.stdout);
    project.file("none.txt", "\n");
    let refused = project.run(&["plugin", "bench", "filters/no-urls", "--rows", "none.txt"]).failure(2);
    assert!(refused.stderr.contains("there is no text in `none.txt`"), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: write one row a line"), "{}", refused.stderr);
}

#[test]
fn a_wrong_configuration_is_told_at_its_place_before_anything_runs() {
    let Some(project) = project() else { return };
    project.edit("p.yaml", "            max: 1\n", "            max: -1\n            mox: 2\n");
    for command in ["plan", "run"] {
        let refused = project.run(&[command, "p.yaml"]).failure(2);
        for said in [
            "p.yaml:13:18",
            "plugin `no-urls`: -1 is out of range: expected at least 0",
            "p.yaml:14:13",
            "plugin `no-urls`: unknown key `mox`",
            "did you mean `max`?",
        ] {
            assert!(refused.stderr.contains(said), "{said} is missing:\n{}", refused.stderr);
        }
    }
    // A plugin that was never built is asked by `run`, before the first stage.
    project.edit("filters/no-urls/src/lib.rs", "default = 2", "default = 3");
    let refused = project.run(&["run", "p.yaml"]).failure(2);
    assert!(refused.stderr.contains("p.yaml:13:18"), "{}", refused.stderr);
}
