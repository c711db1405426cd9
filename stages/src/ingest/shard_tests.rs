//! What is kept between runs, and that nobody can tell from the outputs.

use std::fmt::Write;

use camino::Utf8Path;
use serde_json::{Value, json};

use super::IngestStage;
use crate::testing::{Bench, Done};

/// Lines with a broken one in every thousand.
fn lines(from: usize, count: usize) -> String {
    let mut text = String::new();
    for number in from..from + count {
        let broken = if number % 1000 == 999 { "" } else { "}" };
        writeln!(text, "{{\"text\": \"row {number}\", \"n\": {}{broken}", number * 7).unwrap();
    }
    text
}

/// Runs with what earlier runs left, and without; the outputs must be the same.
fn run(bench: &mut Bench, with: &Value) -> Done {
    let done = bench.run(&IngestStage, with).unwrap();
    let nothing = tempfile::tempdir().unwrap();
    let used = std::mem::replace(&mut bench.cache, Utf8Path::from_path(nothing.path()).unwrap().to_owned());
    let anew = bench.run(&IngestStage, with).unwrap();
    bench.cache = used;
    assert_eq!(done.digest(), anew.digest(), "the cache shows in the outputs of {with}");
    assert_eq!(done.outcome.sections, anew.outcome.sections);
    assert_eq!(done.outcome.warnings, anew.outcome.warnings);
    done
}

#[test]
fn a_new_file_costs_its_own_shard() {
    let mut bench = Bench::new();
    for number in 0..11 {
        bench.write(&format!("d/{number:02}.jsonl"), lines(number * 100, 100));
    }
    let with = json!({"files": "d/*.jsonl", "keep": ["n"], "on_error": "skip"});
    assert_eq!(run(&mut bench, &with).shards(), (0, 11));
    assert_eq!(run(&mut bench, &with).shards(), (11, 11));
    bench.write("d/05-new.jsonl", lines(70_000, 100));
    assert_eq!(run(&mut bench, &with).shards(), (11, 12), "one between the others");
    bench.write("d/07.jsonl", lines(80_000, 100));
    assert_eq!(run(&mut bench, &with).shards(), (11, 12), "one that changed");
    fs_err::rename(bench.path("d/00.jsonl"), bench.path("d/99.jsonl")).unwrap();
    assert_eq!(run(&mut bench, &with).shards(), (12, 12), "names are no content");
    for change in [json!({"keep": []}), json!({"map": {"text": "{{ row.text }}!"}})] {
        let mut with = with.clone();
        with.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(run(&mut bench, &with).shards(), (0, 12), "{change}");
    }
}

#[test]
fn a_changed_line_of_a_large_file_costs_its_shard() {
    let mut bench = Bench::new();
    let with = json!({"files": "x.jsonl", "on_error": "skip"});
    let text = lines(0, 40_000);
    bench.write("x.jsonl", &text);
    let (_, all) = run(&mut bench, &with).shards();
    assert!(all > 8, "{all}");
    bench.write("x.jsonl", text.replace("row 17\"", "row seventeen\""));
    assert_eq!(run(&mut bench, &with).shards(), (all - 1, all));
    bench.write("x.jsonl", format!("{}{text}{}", lines(50_000, 3), lines(60_000, 3)));
    let (reused, all) = run(&mut bench, &with).shards();
    assert!(all - reused <= 3, "lines before and behind: {reused} of {all}");
    // Rejected lines have moved by three, and are named where they are now.
    let done = run(&mut bench, &with);
    let rejected = fs_err::read_to_string(done.out.join("rejected")).unwrap();
    let first: Value = serde_json::from_str(rejected.lines().next().unwrap()).unwrap();
    assert_eq!((&first["line"], rejected.lines().count()), (&json!(1003), 40));
}

#[test]
fn every_format_is_kept_and_damage_is_read_again() {
    let mut bench = Bench::new();
    let rows: Vec<Value> = (0..9_000).map(|n| json!({"text": format!("row {n}"), "n": n})).collect();
    bench.write("x.jsonl", rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    bench.write("x.json", json!(rows).to_string());
    bench.write(
        "x.csv",
        rows.iter().fold("text,n\n".to_owned(), |all, row| all + &format!("row {},{}\n", row["n"], row["n"])),
    );
    let first = run(&mut bench, &json!({"files": "x.jsonl", "keep": ["n"]}));
    fs_err::copy(first.out.join("dataset/part-00000.parquet"), bench.path("x.parquet")).unwrap();
    for name in ["x.json", "x.csv", "x.parquet"] {
        let with = json!({"files": name, "keep": ["n"]});
        let (reused, all) = run(&mut bench, &with).shards();
        assert!(reused == 0 && all > 2, "{name}: {reused} of {all}");
        let again = run(&mut bench, &with);
        assert_eq!(again.shards(), (all, all), "{name}");
        assert_eq!(again.digest(), first.digest(), "{name}");
    }
    let files = bench.shard_files();
    for file in files.iter().step_by(3) {
        let mut bytes = fs_err::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs_err::write(file, bytes).unwrap();
    }
    for name in ["x.jsonl", "x.json", "x.csv", "x.parquet"] {
        let with = json!({"files": name, "keep": ["n"]});
        assert_eq!(run(&mut bench, &with).digest(), first.digest(), "{name}");
        let (reused, all) = run(&mut bench, &with).shards();
        assert_eq!(reused, all, "{name}");
    }
}

#[test]
fn limits_and_samples_see_the_same_rows() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", lines(0, 9_000));
    bench.write("b.jsonl", lines(9_000, 900));
    let with = |more: Value| {
        let mut with = json!({"files": ["a.jsonl", "b.jsonl"], "on_error": "skip"});
        with.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with
    };
    // A run that stops in the middle must not be taken for one that read all.
    run(&mut bench, &with(json!({"limit": 5_000})));
    let (_, all) = run(&mut bench, &with(json!({}))).shards();
    for more in [json!({"limit": 5_000}), json!({"limit": 9_100}), json!({"sample": {"count": 77}}), json!({})] {
        let (reused, seen) = run(&mut bench, &with(more.clone())).shards();
        assert!(reused == seen && seen <= all, "{more}: {reused} of {seen}");
    }
    assert_eq!(run(&mut bench, &with(json!({"max_errors": 100}))).shards(), (all, all));
    let error = bench.run(&IngestStage, &with(json!({"max_errors": 3}))).unwrap_err();
    assert_eq!((error.code, error.location.unwrap().line), ("ingest::too_many_errors", 4000));
    let error = bench.run(&IngestStage, &with(json!({"on_error": "fail"}))).unwrap_err();
    assert_eq!((error.code, error.location.unwrap().line), ("ingest::broken_row", 1000));
}
