//! From a decontaminated dataset to the evaluation of what was trained on it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{ArtifactKind, StageOutcome, digest_path};
use luthier_formats::dataset::{DatasetShape, DatasetWriter};
use luthier_formats::decontaminated::Decontaminated;
use luthier_test::TinyModel;
use serde_json::json;

use super::EvalStage;
use crate::merge::MergeStage;
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

/// Tokenizes and trains in a directory where `train` lies; the adapter.
fn trained(root: &Utf8Path) -> Utf8PathBuf {
    let model = root.join("model");
    TinyModel::new(3).write_directory(&model);
    let mut bench = Bench::new();
    bench.input("model", ArtifactKind::Model, &model).input("data", ArtifactKind::Dataset, &root.join("train"));
    let tokens = bench.run(&TokenizeStage, &json!({"max_length": 200})).unwrap().out.join("tokens");
    let mut training = Bench::new();
    training.input("model", ArtifactKind::Model, &model).input("data", ArtifactKind::Tokens, &tokens);
    let with = json!({"rank": 2, "alpha": 4, "batch": 1, "steps": 1, "learning_rate": 1e-3});
    keep(&training.run(&TrainStage, &with).unwrap().out.join("adapter"), &root.join("adapter"))
}

/// Copies a flat directory over what was there.
fn keep(from: &Utf8Path, to: &Utf8Path) -> Utf8PathBuf {
    let _ = fs_err::remove_dir_all(to);
    fs_err::create_dir_all(to).unwrap();
    for name in luthier_core::fs::walk_files(from).unwrap() {
        fs_err::copy(from.join(&name), to.join(&name)).unwrap();
    }
    to.to_owned()
}

fn merged(root: &Utf8Path, model: &Utf8Path, adapters: &[&Utf8Path]) -> Utf8PathBuf {
    let mut bench = Bench::new();
    bench.input("model", ArtifactKind::Model, model);
    adapters.iter().for_each(|adapter| _ = bench.input("adapters", ArtifactKind::Adapter, adapter));
    let done = bench.run(&MergeStage, &json!({"dtype": "f32", "allow_other_base": true})).unwrap();
    keep(&done.out.join("model"), &root.join("merged"))
}

/// Evaluates with the rows in `test`.
fn evaluated(root: &Utf8Path, model: &Utf8Path, adapter: Option<&Utf8Path>) -> StageOutcome {
    let mut evaluation = Bench::new();
    evaluation.input("model", ArtifactKind::Model, model).input("data", ArtifactKind::Dataset, &root.join("test"));
    if let Some(adapter) = adapter {
        evaluation.input("adapter", ArtifactKind::Adapter, adapter);
    }
    evaluation
        .run(&EvalStage, &json!({"perplexity": {"window": 32}, "forgetting": {"enabled": false}}))
        .unwrap()
        .outcome
}

/// Tokenizes, trains and evaluates in a directory where `train` and `test` lie.
fn chain(root: &Utf8Path) -> StageOutcome {
    let adapter = trained(root);
    evaluated(root, &root.join("model"), Some(&adapter))
}

fn freed_of_test(root: &Utf8Path) -> Decontaminated {
    let mut record = Decontaminated::default();
    record.insert(digest_path(&root.join("test")).unwrap().0);
    record
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

    freed_of_test(root).write(&root.join("train")).unwrap();
    let known = chain(root);
    assert_eq!((known.metrics["decontaminated"].value, known.warnings.len()), (1.0, 0));

    // Another test set than the one it was freed of.
    fs_err::remove_dir_all(root.join("test")).unwrap();
    dataset(&root.join("test"), &[("say e", "E")]);
    assert_eq!(chain(root).metrics["decontaminated"].value, 0.0);
}

#[test]
fn a_merged_model_says_what_its_adapters_were_freed_of() {
    let directory = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(directory.path()).unwrap();
    let base = root.join("model");
    dataset(&root.join("train"), &[("say a", "A"), ("say b", "B")]);
    dataset(&root.join("test"), &[("say c", "C"), ("say d", "D")]);
    let freed = |outcome: &StageOutcome| outcome.metrics.get("decontaminated").map(|metric| metric.value);

    let unfreed = keep(&trained(root), &root.join("unfreed"));
    let unknown = merged(root, &base, &[&unfreed]);
    let files = luthier_core::fs::walk_files(&unknown).unwrap();
    assert!(!files.iter().any(|name| name.contains("decontaminated")), "nothing is known: {files:?}");
    assert_eq!(freed(&evaluated(root, &unknown, None)), None);

    freed_of_test(root).write(&root.join("train")).unwrap();
    let adapter = trained(root);
    let model = merged(root, &base, &[&adapter]);
    let outcome = evaluated(root, &model, None);
    assert_eq!((freed(&outcome), outcome.warnings.len()), (Some(1.0), 0));
    assert_eq!(freed(&evaluated(root, &model, Some(&unfreed))), Some(0.0), "of an adapter on top of it");
    assert_eq!(freed(&evaluated(root, &model, Some(&adapter))), Some(1.0));
    let again = keep(&model, &root.join("first"));
    assert_eq!(freed(&evaluated(root, &merged(root, &again, &[&adapter]), None)), Some(1.0), "merged twice");

    // One part that was not freed of it spoils the whole.
    for (base, adapters) in [(&base, &[&*adapter, &*unfreed][..]), (&again, &[&*unfreed][..])] {
        let outcome = evaluated(root, &merged(root, base, adapters), None);
        assert_eq!(freed(&outcome), Some(0.0));
        insta::allow_duplicates! {
            insta::assert_snapshot!(outcome.warnings.join("\n"), @"the training data of `model.model` was not decontaminated against `data.dataset`, so its scores may show memory (hint: before `tokenize`, add a `filter` stage with `in: {data: …, against: [data.dataset]}` and the step `decontaminate: {}`)");
        }
        assert_eq!(freed(&evaluated(root, &merged(root, base, adapters), Some(&adapter))), Some(0.0));
    }
}
