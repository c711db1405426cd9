//! From `plugin new` to a tested plugin, far from any checkout of Luthier.

mod support;

use std::time::Duration;

use camino::Utf8Path;
use luthier_plugins::author::{Workshop, bench, inspect, judge_file, run_cases, sample_texts, scaffold};
use luthier_plugins::{Language, Limits, Plugin};
use serde_json::json;

#[test]
fn a_new_plugin_builds_passes_its_cases_and_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(directory.path()).unwrap();
    let made = scaffold(&root.join("no-urls"), Language::Rust).unwrap();
    assert_eq!(made.files, ["Cargo.toml", "src/lib.rs", "cases.jsonl"]);
    let before = luthier_core::fs::walk_files(&made.directory).unwrap();
    let cache = root.join("cache");
    let workshop = Workshop { cache: &cache, offline: true, jobs: 2 };
    let plugin = match workshop.load(&made.directory, Limits::DEFAULT) {
        Err(error) if support::is_missing_target(&error) => return,
        plugin => plugin.unwrap(),
    };

    let report = run_cases(&plugin, &made.directory.join("cases.jsonl")).unwrap();
    assert_eq!((report.passed, report.failed), (2, 0), "{report:?}");

    let inspection = inspect(&plugin);
    assert_eq!(inspection.manifest.name, "no-urls");
    assert_eq!(inspection.manifest.about, "Drops texts with many links.");
    assert!(inspection.granted.contains(&"luthier:filter/host@0.2.0".to_owned()));
    assert!(inspection.denied.iter().all(|import| import.starts_with("wasi:")));

    let rows = root.join("rows.txt");
    fs_err::write(&rows, "none\n\nhttp://a https://b https://c\n").unwrap();
    let plugin = Plugin::Component(plugin);
    let verdicts = judge_file(&plugin, &json!({}), &rows).unwrap();
    assert_eq!((verdicts[0].line, verdicts[0].keep), (1, true));
    assert_eq!((verdicts[1].line, verdicts[1].reason.as_deref()), (3, Some("too-many-links")));
    assert_eq!(verdicts[1].scores["links"], 3.0);
    fs_err::write(root.join("rows.jsonl"), "{\"text\": 5}\n[]\n").unwrap();
    let error = judge_file(&plugin, &json!({}), &root.join("rows.jsonl")).unwrap_err();
    assert!(error.to_string().ends_with("rows.jsonl:2: a row is a JSON object, this is another value"), "{error}");
    fs_err::write(root.join("rows.jsonl"), "{\"text\": 5}\n{\"prompt\": \"\"}\n").unwrap();
    let error = judge_file(&plugin, &json!({}), &root.join("rows.jsonl")).unwrap_err();
    let said = "rows.jsonl:2: the row has no `text`, which the plugin judges; it has [`prompt`]";
    assert!(error.to_string().ends_with(said), "{error}");

    let texts = sample_texts(1_000, 50);
    let report = bench(&plugin, &json!({}), &texts, Duration::from_millis(50)).unwrap();
    assert!(report.rows == 1_000 && report.batches > 0 && report.megabytes_per_second > 0.0);

    // The lock file was right, and nothing was written into the plugin.
    assert_eq!(luthier_core::fs::walk_files(&made.directory).unwrap(), before);
    let error = scaffold(&made.directory, Language::Rust).unwrap_err();
    assert!(error.message.ends_with("is not empty"), "{error}");
}

#[test]
fn cases_say_what_was_expected_and_where_they_are_wrong() {
    let Some(_) = support::build(&support::repository().join("pipelines/filters/word-shape")) else { return };
    let directory = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(directory.path()).unwrap();
    let workshop = Workshop { cache: Utf8Path::new(env!("CARGO_TARGET_TMPDIR")), offline: true, jobs: 2 };
    let plugin = workshop.load(&support::repository().join("pipelines/filters/word-shape"), Limits::DEFAULT).unwrap();
    let file = root.join("cases.jsonl");
    fs_err::write(&file, "{\"row\": {\"word\": \"luthier\"}, \"expect\": \"drop\", \"reason\": \"too-long\"}\n")
        .unwrap();
    let report = run_cases(&plugin, &file).unwrap();
    assert_eq!(report.cases[0].said, "keep");
    assert_eq!(report.cases[0].expected.as_deref(), Some("drop: too-long"));

    let complaint = |line: &str| {
        fs_err::write(&file, format!("\n{line}\n")).unwrap();
        run_cases(&plugin, &file).unwrap_err().to_string().replace(root.as_str(), "ROOT")
    };
    insta::assert_snapshot!(complaint(r#"{"row": {"text": "luthier"}, "expect": "keep"}"#), @"ROOT/cases.jsonl:2: the row has a column `text`, but the plugin reads `word`");
    insta::assert_snapshot!(complaint(r#"{"row": {}, "expect": "kept"}"#), @"ROOT/cases.jsonl:2:28: not a test case: unknown variant `kept`, expected one of `keep`, `drop`, `edit` at line 1 column 28");
    insta::assert_snapshot!(complaint(r#"{"config": {"min": -1}, "row": {}, "expect": "keep"}"#), @"ROOT/cases.jsonl:2: plugin `word-shape` refuses its configuration: `config.min`: -1 is out of range: expected at least 1");
}
