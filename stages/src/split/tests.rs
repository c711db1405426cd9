use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field};
use camino::Utf8PathBuf;
use luthier_core::{StageError, digest_path};
use luthier_formats::dataset::DatasetShape;
use serde_json::json;

use super::*;
use crate::testing::{Bench, Done};

/// Rows `0..count` in the given order; row n has the word n / 2, so every word has two rows.
fn dataset(bench: &Bench, name: &str, rows: impl Iterator<Item = usize>) -> Utf8PathBuf {
    let path = bench.path(name);
    let schema = Arc::new(DatasetShape::Text.schema([Field::new("word", DataType::Utf8, true)]));
    let rows: Vec<usize> = rows.collect();
    let column = |text: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(rows.iter().map(|row| Some(text(*row))).collect::<StringArray>())
    };
    let columns = vec![
        column(&|row| format!("id{row}")),
        column(&|row| format!("text {row}")),
        column(&|row| format!("w{}", row / 2)),
    ];
    let mut writer = DatasetWriter::create(&path, Arc::clone(&schema), DatasetShape::Text).expect("a writer");
    writer.write(&RecordBatch::try_new(schema, columns).expect("a batch")).expect("write");
    writer.finish().expect("finish");
    path
}

fn split(rows: impl Iterator<Item = usize>, with: &Value) -> Result<(Bench, Done), StageError> {
    let mut bench = Bench::new();
    let path = dataset(&bench, "data", rows);
    bench.input("data", ArtifactKind::Dataset, &path);
    bench.run(&SplitStage, with).map(|done| (bench, done))
}

/// The ids of every part.
fn parts(done: &Done) -> BTreeMap<String, Vec<String>> {
    let names = fs_err::read_dir(&done.out).expect("out").map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.into_string().expect("UTF-8"));
    names
        .map(|name| {
            let reader = DatasetReader::open(&done.out.join(&name)).expect("a dataset");
            let ids = reader.batches(1000).flat_map(|batch| {
                let batch = batch.expect("a batch");
                let ids = string_column(&batch, "id").expect("ids");
                ids.iter().map(|id| id.expect("not null").to_owned()).collect::<Vec<_>>()
            });
            (name, ids.collect())
        })
        .collect()
}

#[test]
fn sizes_are_exact_and_parts_disjoint() {
    let with = json!({"seed": 7, "by": "word", "parts": {"test": 100, "train": 1600}});
    let (_bench, done) = split(0..5000, &with).expect("split");
    let parts = parts(&done);
    assert_eq!((parts["test"].len(), parts["train"].len()), (100, 1600));
    let word = |id: &String| id[2..].parse::<usize>().expect("a number") / 2;
    let (test, train): (BTreeSet<usize>, BTreeSet<usize>) =
        (parts["test"].iter().map(word).collect(), parts["train"].iter().map(word).collect());
    assert!(test.is_disjoint(&train), "both rows of a word lie in one part");
    assert_eq!(test.len(), 50);
    assert!(parts["train"].is_sorted_by_key(|id| id[2..].parse::<usize>().expect("a number")), "order is kept");
    assert_eq!(done.outcome.metrics["rows.unused"].value, 3300.0);
}

#[test]
fn order_of_rows_and_parts_does_not_matter_but_the_seed_does() {
    let with = |seed: u64| json!({"seed": seed, "parts": {"a": 0.25, "b": 0.75}});
    let set = |done: &Done| parts(done)["a"].iter().cloned().collect::<BTreeSet<String>>();
    let (_bench, forward) = split(0..2000, &with(1)).expect("split");
    let (_bench, backward) = split((0..2000).rev(), &with(1)).expect("split");
    let (_bench, other) = split(0..2000, &with(2)).expect("split");
    assert_eq!(set(&forward), set(&backward));
    assert_ne!(set(&forward), set(&other));
    // 500 expected; four standard deviations are 77.
    assert!(set(&forward).len().abs_diff(500) < 80, "{}", set(&forward).len());
    assert_eq!(parts(&forward).values().map(Vec::len).sum::<usize>(), 2000);
}

#[test]
fn added_rows_move_none_between_parts() {
    for with in [json!({"parts": {"a": 0.3, "b": 0.6}}), json!({"parts": {"test": 50, "train": 500}})] {
        let (_bench, before) = split(0..1000, &with).expect("split");
        let (_bench, after) = split(0..1100, &with).expect("split");
        let (before, after) = (parts(&before), parts(&after));
        let names: Vec<&String> = before.keys().collect();
        for (from, to) in [(names[0], names[1]), (names[1], names[0])] {
            let moved = before[from].iter().filter(|id| after[to].contains(id)).count();
            assert_eq!(moved, 0, "{with}");
        }
    }
}

#[test]
fn rest_takes_what_is_left_and_bytes_repeat() {
    let with = json!({"parts": {"test": 10, "train": "rest"}});
    let (_bench, first) = split(0..1000, &with).expect("split");
    let (_bench, second) = split(0..1000, &with).expect("split");
    assert_eq!(parts(&first)["train"].len(), 990);
    assert_eq!(digest_path(&first.out).expect("a").0, digest_path(&second.out).expect("b").0);
}

#[test]
fn impossible_splits_are_explained() {
    let error = split(0..10, &json!({"parts": {"test": 5, "train": 6}})).err().expect("too small");
    assert_eq!(error.to_string(), "the parts ask for 11 rows (`test`: 5, `train`: 6), the dataset has 10");
    let error = split(0..10, &json!({"by": "word", "parts": {"test": 3}})).err().expect("odd");
    assert_eq!(error.code, "split::groups_too_large");
    let error = split(0..10, &json!({"by": "wrod", "parts": {"test": 3}})).err().expect("a typo");
    assert_eq!(error.hints, ["did you mean `word`?"]);
    let error = split(0..3, &json!({"parts": {"a": 0.001, "b": "rest"}})).err().expect("empty");
    assert_eq!(error.to_string(), "part `a` got none of 3 rows");
    insta::assert_snapshot!(
        Bench::new().issues(&SplitStage, &json!({"parts": {"a b": 0.7, "c": 0.7, "d": "rest", "e": "rest"}})).join("\n"),
        @"
    parts.a b | `a b` is not an output name: use 1 to 64 of a-z, A-Z, 0-9, `_` and `-`, starting with a letter or `_` | rename it
    parts | the fractions add up to 1.4, more than 1 | lower one, or let one part take the `rest`
    parts | two parts want the `rest` | give all but one a fraction or a number
    "
    );
    insta::assert_snapshot!(
        Bench::new().issues(&SplitStage, &json!({"parts": {"a": 1.5}})).join("\n"),
        @"parts.a | 1.5 is not between 0 and 1; a number of rows is written without a point | -"
    );
}

#[test]
fn groups_by_several_columns_stay_together_when_rows_are_added() {
    let with = json!({"seed": 3, "by": ["word", "text"], "parts": {"a": 0.5, "b": "rest"}});
    let (_bench, by_row) = split(0..1000, &with).expect("split");
    let words = json!({"seed": 3, "by": ["word"], "parts": {"a": 0.5, "b": "rest"}});
    let (_bench, before) = split((0..1000).step_by(2), &words).expect("split");
    let (_bench, after) = split(0..1000, &words).expect("split");
    let (before, after, by_row) = (parts(&before), parts(&after), parts(&by_row));
    let number = |id: &String| id[2..].parse::<usize>().expect("a number");
    for part in ["a", "b"] {
        assert!(
            before[part].iter().all(|id| after[part].contains(id)),
            "rows of a group that came later go to its part"
        );
        assert!(after[part].chunks(2).all(|pair| number(&pair[0]) / 2 == number(&pair[1]) / 2));
    }
    let (a, b): (BTreeSet<usize>, BTreeSet<usize>) =
        (by_row["a"].iter().map(|id| number(id) / 2).collect(), by_row["b"].iter().map(|id| number(id) / 2).collect());
    assert!(!a.is_disjoint(&b), "two columns make smaller groups");
}
