//! Steps of the stage's own: decontamination, tokens, deduplication on disk.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{ArtifactKind, StageError, digest_path};
use luthier_formats::dataset::{DatasetReader, DatasetShape, DatasetWriter, string_column};
use luthier_formats::decontaminated::Decontaminated;
use luthier_test::TinyModel;
use serde_json::{Value, json};

use super::FilterStage;
use crate::split::SplitStage;
use crate::testing::Bench;

fn dataset(path: &Utf8Path, rows: &[(String, String)]) {
    let schema = Arc::new(DatasetShape::PromptCompletion.schema([]));
    let mut writer = DatasetWriter::create(path, Arc::clone(&schema), DatasetShape::PromptCompletion).unwrap();
    let column = |make: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new((0..rows.len()).map(|row| Some(make(row))).collect::<StringArray>())
    };
    let columns = vec![
        column(&|row| format!("id-{row}")),
        column(&|row| rows[row].0.clone()),
        column(&|row| rows[row].1.clone()),
    ];
    writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    writer.finish().unwrap();
}

fn input(bench: &mut Bench, port: &str, rows: &[(&str, &str)]) -> Utf8PathBuf {
    let path = bench.root().join(format!("{port}-{}", rows.len()));
    let rows: Vec<(String, String)> = rows.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    dataset(&path, &rows);
    bench.input(port, ArtifactKind::Dataset, &path);
    path
}

fn column(dataset: &Utf8Path, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for batch in DatasetReader::open(dataset).unwrap().batches(100) {
        let batch = batch.unwrap();
        found.extend(string_column(&batch, name).unwrap().iter().map(|text| text.unwrap_or_default().to_owned()));
    }
    found
}

fn render(error: &StageError) -> String {
    format!("{error}\nhint: {}", error.hints.join("\nhint: "))
}

const QUESTION: &str = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.";
const ANSWER: &str = "She sold 24 clips in May, so together that makes 72 clips in both months.";

#[test]
fn rows_that_repeat_evaluation_data_go_with_their_spans() {
    let mut bench = Bench::new();
    let leak = format!("As the exam had it: {} How many?", QUESTION.to_uppercase());
    let rows =
        [("What is spruce?", "A wood."), (&*leak, "72"), (QUESTION, ANSWER), ("Who sold clips in May?", "Natalia.")];
    input(&mut bench, "data", &rows);
    let test = input(&mut bench, "against", &[(QUESTION, ANSWER), ("Where is Cremona?", "In Lombardy."), ("x", "y")]);
    let done = bench.run(&FilterStage, &json!({"steps": [{"decontaminate": {}}]})).unwrap();
    assert_eq!(column(&done.out.join("kept"), "id"), ["id-0", "id-3"]);
    let dropped = done.out.join("dropped");
    assert_eq!(column(&dropped, "filter_reason"), ["ngram-of-eval", "equal-to-eval"]);
    let details: Vec<Value> =
        column(&dropped, "filter_detail").iter().map(|detail| serde_json::from_str(detail).unwrap()).collect();
    assert_eq!((&details[0]["against"], &details[0]["row"]), (&json!("against.dataset"), &json!("id-0")));
    let span = &details[0]["spans"][0];
    let text = span["text"].as_str().unwrap();
    assert!(text.starts_with("NATALIA SOLD") && text.ends_with("CLIPS IN MAY"), "{text}");
    let judged = format!("{leak}\n72");
    let place = span["start"].as_u64().unwrap() as usize..span["end"].as_u64().unwrap() as usize;
    assert_eq!(&judged[place], text);
    assert_eq!(done.outcome.metrics["dropped.decontaminate"].value, 2.0);

    // What is kept says so, and so do the parts that a split makes of it.
    let digest = digest_path(&test).unwrap().0;
    assert!(Decontaminated::read(&done.out.join("kept")).unwrap().contains(&digest));
    assert_eq!(Decontaminated::read(&dropped).unwrap(), Decontaminated::default());
    let mut split = Bench::new();
    split.input("data", ArtifactKind::Dataset, &done.out.join("kept"));
    let parts = split.run(&SplitStage, &json!({"parts": {"a": 1, "b": "rest"}})).unwrap();
    for part in ["a", "b"] {
        assert!(Decontaminated::read(&parts.out.join(part)).unwrap().contains(&digest), "{part}");
    }
}

#[test]
fn what_is_not_connected_or_not_used_is_an_error() {
    let mut bench = Bench::new();
    input(&mut bench, "data", &[("a", "b")]);
    let error = bench.run(&FilterStage, &json!({"steps": [{"decontaminate": {}}]})).unwrap_err();
    insta::assert_snapshot!(render(&error), @r"
    step `decontaminate` needs an evaluation set to compare with, but input `against` is not connected
    hint: add it under `in:`, such as `in: {data: raw, against: [split.test]}`
    ");
    let error = bench.run(&FilterStage, &json!({"steps": [{"tokens": {"max": 3}}]})).unwrap_err();
    insta::assert_snapshot!(render(&error), @r"
    step `tokens` needs a model whose tokenizer counts, but input `model` is not connected
    hint: add it under `in:`, such as `in: {data: raw, model: base}`
    ");
    input(&mut bench, "against", &[("…", "!")]);
    let error = bench.run(&FilterStage, &json!({"steps": [{"dedup": "exact"}]})).unwrap_err();
    insta::assert_snapshot!(render(&error), @r"
    `against.dataset` is connected to `against`, but no step decontaminates
    hint: add the step `decontaminate: {}`
    ");
    let error = bench.run(&FilterStage, &json!({"steps": [{"decontaminate": {}}]})).unwrap_err();
    insta::assert_snapshot!(render(&error), @r"
    evaluation set `against.dataset` has no words to compare with
    hint: look at the stage that makes it: `luthier show against.dataset`
    ");
}

#[test]
fn tokens_are_counted_by_the_model_that_is_connected() {
    let mut bench = Bench::new();
    input(&mut bench, "data", &[("a", ""), ("b", "short"), ("c", &"many words of a text ".repeat(30))]);
    let model = bench.root().join("model");
    TinyModel::new(1).write_directory(&model);
    bench.input("model", ArtifactKind::Model, &model);
    let done = bench.run(&FilterStage, &json!({"steps": [{"tokens": {"min": 1, "max": 60}}]})).unwrap();
    assert_eq!(column(&done.out.join("kept"), "id"), ["id-1"]);
    assert_eq!(column(&done.out.join("dropped"), "filter_reason"), ["few_tokens", "many_tokens"]);
}

#[test]
fn deduplication_on_disk_keeps_the_same_rows() {
    let mut bench = Bench::new();
    let path = bench.root().join("many");
    let rows: Vec<(String, String)> = (0..30_000)
        .map(|row| {
            (
                format!("What is {}?", row * 7_919 % 20_011),
                format!("It is the number {} of them all.", row * 7_919 % 20_011),
            )
        })
        .collect();
    dataset(&path, &rows);
    bench.input("data", ArtifactKind::Dataset, &path);
    for method in ["exact", "minhash"] {
        let mut kept = Vec::new();
        for memory in [1, 512] {
            let mut options = json!({"method": method, "memory_mib": memory, "normalize": "none"});
            if method == "minhash" {
                options["ngrams"] = json!(1);
            }
            let with = json!({"steps": [
                {"plugin": "builtin:length", "config": {"min_chars": 1}},
                {"dedup": options},
            ]});
            let done = bench.run(&FilterStage, &with).unwrap();
            kept.push((
                digest_path(&done.out.join("kept")).unwrap().0,
                digest_path(&done.out.join("dropped")).unwrap().0,
            ));
            if method == "exact" {
                assert_eq!(done.outcome.metrics["rows_kept"].value, 20_011.0);
            }
            assert!(done.outcome.metrics[&format!("dropped.dedup-{method}")].value >= 9_989.0);
        }
        assert_eq!(kept[0], kept[1], "{method}");
    }
}

#[test]
fn near_duplicates_are_those_that_datatrove_finds() {
    let golden = |name: &str| -> Value {
        let path = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/dedup").join(name);
        serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
    };
    let documents = golden("documents.json");
    let documents = documents.as_array().unwrap();
    let family = |index: usize| documents[index]["family"].as_u64().unwrap();
    let theirs = golden("kept.json");
    let theirs: Vec<u64> =
        theirs.as_array().unwrap().iter().map(|index| family(index.as_u64().unwrap() as usize)).collect();

    let mut bench = Bench::new();
    let path = bench.root().join("families");
    let rows: Vec<(String, String)> =
        documents.iter().map(|row| (String::new(), row["text"].as_str().unwrap().to_owned())).collect();
    dataset(&path, &rows);
    bench.input("data", ArtifactKind::Dataset, &path);
    let done = bench.run(&FilterStage, &json!({"steps": [{"dedup": "minhash", "on": "completion"}]})).unwrap();
    let kept = column(&done.out.join("kept"), "id");
    let ours: Vec<usize> = kept.iter().map(|id| id.trim_start_matches("id-").parse().unwrap()).collect();
    // Of each cluster one stays; which one is ours to say: the first.
    let mut seen = std::collections::BTreeSet::new();
    let firsts: Vec<usize> = (0..documents.len()).filter(|index| seen.insert(family(*index))).collect();
    assert_eq!(ours, firsts);
    let families = |list: &mut Vec<u64>| {
        list.sort_unstable();
        list.clone()
    };
    assert_eq!(families(&mut ours.iter().map(|index| family(*index)).collect()), families(&mut theirs.clone()));
}
