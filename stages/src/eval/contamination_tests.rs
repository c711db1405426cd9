//! From a decontaminated dataset to the evaluation of what was trained on it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use camino::Utf8Path;
use luthier_core::{ArtifactKind, StageOutcome, digest_path};
use luthier_formats::dataset::{DatasetShape, DatasetWriter};
use luthier_formats::decontaminated::Decontaminated;
use luthier_test::TinyModel;
use serde_json::json;

use super::EvalStage;
use crate::testing::Bench;
use crate::tokenize::TokenizeStage;
use crate::train::TrainStage;

fn dataset(path: &Utf8Path, rows: &[(&str, &str)]) {
    let shape = DatasetShape::PromptCompletion;
    let schema = Arc::new(shape.schema([]));
    let mut writer = DatasetWriter::create(path, Arc::clone(&schema), shape).unwrap();
    let column = |make: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new((0..rows.len()).map(|row| Some(make(row))).collect::<StringArray>())
    };
    let columns = vec![
        column(&|row| format!("row-{row}")),
        column(&|row| rows[row].0.to_owned()),
        column(&|row| rows[row].1.to_owned()),
    ];
    writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    writer.finish().unwrap();
}

/// Tokenizes, trains and evaluates in a directory where `train` and `test` lie.
fn chain(root: &Utf8Path) -> StageOutcome {
    let model = root.join("model");
    TinyModel::new(3).write_directory(&model);
    let mut bench = Bench::new();
    bench.input("model", ArtifactKind::Model, &model).input("data", ArtifactKind::Dataset, &root.join("train"));
    let tokens = bench.run(&TokenizeStage, &json!({"max_length": 200})).unwrap().out.join("tokens");
    let mut training = Bench::new();
    training.input("model", ArtifactKind::Model, &model).input("data", ArtifactKind::Tokens, &tokens);
    let with = json!({"rank": 2, "alpha": 4, "batch": 1, "steps": 1, "learning_rate": 1e-3});
    let adapter = training.run(&TrainStage, &with).unwrap().out.join("adapter");
    let mut evaluation = Bench::new();
    evaluation.input("model", ArtifactKind::Model, &model).input("adapter", ArtifactKind::Adapter, &adapter).input(
        "data",
        ArtifactKind::Dataset,
        &root.join("test"),
    );
    evaluation
        .run(&EvalStage, &json!({"perplexity": {"window": 32}, "forgetting": {"enabled": false}}))
        .unwrap()
        .outcome
}

#[test]
fn an_evaluation_knows_what_the_training_data_was_freed_of() {
    let directory = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(directory.path()).unwrap();
    dataset(&root.join("train"), &[("say a", "A"), ("say b", "B")]);
    dataset(&root.join("test"), &[("say c", "C"), ("say d", "D")]);
    let warned = chain(root);
    assert_eq!(warned.metrics["decontaminated"].value, 0.0);
    insta::assert_snapshot!(warned.warnings.join("\n"), @"the training data of `adapter.adapter` was not decontaminated against `data.dataset`, so its scores may show memory (hint: before `tokenize`, add a `filter` stage with `in: {data: …, against: [data.dataset]}` and the step `decontaminate: {}`)");

    let mut record = Decontaminated::default();
    record.insert(digest_path(&root.join("test")).unwrap().0);
    record.write(&root.join("train")).unwrap();
    let known = chain(root);
    assert_eq!((known.metrics["decontaminated"].value, known.warnings.len()), (1.0, 0));

    // Another test set than the one it was freed of.
    fs_err::remove_dir_all(root.join("test")).unwrap();
    dataset(&root.join("test"), &[("say e", "E")]);
    assert_eq!(chain(root).metrics["decontaminated"].value, 0.0);
}
