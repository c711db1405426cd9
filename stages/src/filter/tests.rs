use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use camino::Utf8Path;
use luthier_core::{ArtifactKind, Section, StageError};
use luthier_formats::dataset::{DatasetReader, DatasetShape, DatasetWriter, string_column};
use serde_json::json;

use super::FilterStage;
use crate::testing::Bench;

/// Writes a prompt/completion dataset of dictionary rows with the further column `word`.
fn dictionary(bench: &mut Bench, rows: &[(&str, &str)]) {
    let extra = [arrow::datatypes::Field::new("word", arrow::datatypes::DataType::Utf8, true)];
    let schema = Arc::new(DatasetShape::PromptCompletion.schema(extra));
    let path = bench.root().join("dictionary");
    let mut writer = DatasetWriter::create(&path, Arc::clone(&schema), DatasetShape::PromptCompletion).unwrap();
    let column = |make: &dyn Fn(usize, &(&str, &str)) -> String| -> ArrayRef {
        Arc::new(rows.iter().enumerate().map(|(at, row)| Some(make(at, row))).collect::<StringArray>())
    };
    let columns = vec![
        column(&|at, _| format!("id-{at}")),
        column(&|_, (word, _)| format!("How is '{word}' pronounced?")),
        column(&|_, (_, phonemes)| (*phonemes).to_owned()),
        column(&|_, (word, _)| (*word).to_owned()),
    ];
    writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    writer.finish().unwrap();
    bench.input("data", ArtifactKind::Dataset, &path);
}

fn column(dataset: &Utf8Path, name: &str) -> Vec<String> {
    let reader = DatasetReader::open(dataset).unwrap();
    let mut found = Vec::new();
    for batch in reader.batches(100) {
        let batch = batch.unwrap();
        found.extend(string_column(&batch, name).unwrap().iter().map(|text| text.unwrap_or_default().to_owned()));
    }
    found
}

fn filters() -> String {
    format!("{}/../pipelines/filters", env!("CARGO_MANIFEST_DIR"))
}

fn render(error: &StageError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!("\ncause: {cause}")).unwrap_or_default();
    format!("{error}{cause}\nhint: {}", error.hints.join("\nhint: "))
}

/// False, with the reason printed, where plugins cannot be built.
fn wasm_target(error: Option<&StageError>) -> bool {
    match error {
        Some(error) if error.code == "plugin::no_target" => {
            eprintln!("skipped: {}", render(error));
            false
        }
        _ => true,
    }
}

const ROWS: &[(&str, &str)] = &[
    ("luthier", "L UW1 TH IY0 ER0"),
    ("it's", "IH1 T S"),
    ("aaa", "T R IH1 P AH0 L EY1"),
    ("tomato", "T AH0 M EY1 T OW2"),
    ("at", "AE1 T"),
    ("tomato", "T AH0 M AA1 T OW2"),
    ("violin", "V AY2 AH0 L IH1 N"),
];

#[test]
fn exact_dedup_keeps_the_first_row_and_the_order() {
    let mut bench = Bench::new();
    dictionary(&mut bench, ROWS);
    let done = bench.run(&FilterStage, &json!({"steps": [{"dedup": "exact", "on": "word"}]})).unwrap();
    assert_eq!(column(&done.out.join("kept"), "id"), ["id-0", "id-1", "id-2", "id-3", "id-4", "id-6"]);
    assert_eq!(column(&done.out.join("dropped"), "id"), ["id-5"]);
    assert_eq!(column(&done.out.join("dropped"), "filter_reason"), ["duplicate"]);
    assert_eq!(column(&done.out.join("dropped"), "filter_step"), ["dedup-exact"]);
    assert_eq!(done.outcome.metrics["rows_kept"].value, 6.0);
}

#[test]
fn plugin_crates_run_as_wasm_the_same_for_any_number_of_threads() {
    let mut bench = Bench::new();
    let rows: Vec<(&str, &str)> = ROWS.iter().copied().cycle().take(10_000).collect();
    dictionary(&mut bench, &rows);
    let with = json!({"steps": [
        {"plugin": format!("{}/word-shape", filters()), "config": {"min": 3, "max": 10}},
        {"plugin": format!("{}/phoneme-balance", filters()), "config": {"min": 0.5, "max": 1.2}},
        {"dedup": "exact", "on": ["word", "completion"]},
    ]});
    bench.threads = 1;
    let one = match bench.run(&FilterStage, &with) {
        Ok(done) => done,
        Err(error) if !wasm_target(Some(&error)) => return,
        Err(error) => panic!("{}", render(&error)),
    };
    assert_eq!(column(&one.out.join("kept"), "id"), ["id-0", "id-3", "id-5", "id-6"]);
    let reasons = column(&one.out.join("dropped"), "filter_reason");
    assert_eq!(reasons[..4], ["not-letters", "too-many-phonemes", "too-short", "duplicate"]);
    assert_eq!(reasons.len(), 9_996);
    bench.threads = 3;
    let three = bench.run(&FilterStage, &with).unwrap();
    for output in ["kept", "dropped"] {
        let digest = |out: &Utf8Path| luthier_core::digest_path(&out.join(output)).unwrap().0;
        assert_eq!(digest(&one.out), digest(&three.out));
    }
    assert_eq!(one.outcome, three.outcome);
    let Section::Funnel { steps, .. } = &one.outcome.sections[0] else { panic!("a funnel") };
    let left: Vec<u64> = steps.iter().map(|(_, rows)| *rows).collect();
    assert_eq!(left, [10_000, 7_143, 5_714, 4]);
}
