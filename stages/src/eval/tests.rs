//! Metrics against other programs' numbers; evaluations of a tiny model through the stage interface.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Digest, ErrorClass, StageError, digest_path};
use luthier_formats::dataset::{DatasetShape, DatasetWriter};
use luthier_test::{TinyAdapter, TinyModel};
use serde_json::{Value, json};

use super::compare::mcnemar;
use super::config::GenerationConfig;
use super::metrics::{Comparison, Estimate, Part, choice_parts, edit_distance, ratio};
use super::*;
use crate::testing::{Bench, Done};

const GOLDEN: &str = include_str!("../../../tests/golden/eval/cases.json");

fn golden() -> Value {
    serde_json::from_str(GOLDEN).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn near(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-12 * expected.abs().max(1.0)
}

#[test]
fn choices_score_as_in_the_harness() {
    let golden = golden();
    let mut columns: [Vec<Part>; 3] = Default::default();
    for item in list(&golden["multiple_choice"]["items"]) {
        let scores: Vec<f64> = list(&item["log_likelihoods"]).iter().map(number).collect();
        let gold = item["gold"].as_u64().expect("an index") as usize;
        let parts = choice_parts(&texts(&item["choices"]), &scores, gold);
        for ((column, part), name) in columns.iter_mut().zip(parts).zip(["acc", "acc_norm", "acc_bytes"]) {
            assert_eq!(part.value, number(&item[name]), "{name} of {item}");
            column.push(part);
        }
    }
    for (column, name) in columns.iter().zip(["acc", "acc_norm", "acc_bytes"]) {
        let total = &golden["multiple_choice"]["totals"][name];
        let estimate = Estimate::of(column);
        assert!(near(estimate.value, number(&total["mean"])), "{name}");
        assert!(near(estimate.stderr.expect("many items"), number(&total["stderr"])), "{name}");
    }
}

#[test]
fn means_and_errors_are_the_harness_s() {
    for case in list(&golden()["mean_stderr"]) {
        let parts: Vec<Part> = list(&case["values"]).iter().map(|value| Part::of(number(value))).collect();
        let estimate = Estimate::of(&parts);
        assert!(near(estimate.value, number(&case["mean"])), "{case}");
        let (found, expected) = (estimate.stderr.expect("two items"), number(&case["stderr"]));
        assert!((found - expected).abs() <= 1e-9 * expected.max(1.0), "{found} against {expected}");
    }
}

#[test]
fn likelihoods_become_the_harness_s_perplexities() {
    let golden = golden();
    let rolling = &golden["rolling"];
    let items: Vec<(f64, f64)> =
        list(&rolling["items"]).iter().map(|pair| (number(&pair[0]), number(&pair[1]))).collect();
    let nats = ratio(items.iter().map(|(value, weight)| Part { value: -value, weight: *weight }));
    assert!(near(luthier_model::scalar::exp(nats), number(&rolling["weighted_perplexity"])));
    let bits = nats / luthier_model::scalar::ln(2.0);
    assert!(near(bits, number(&rolling["bits_per_byte"])));
    let plain = ratio(list(&rolling["perplexity_items"]).iter().map(|value| Part::of(-number(value))));
    let expected = number(&rolling["perplexity"]);
    assert!((luthier_model::scalar::exp(plain) - expected).abs() < 1e-11 * expected);
}

#[test]
fn exact_match_takes_the_harness_s_options() {
    let golden = golden();
    let cases = &golden["exact_match"];
    let (predictions, references) = (texts(&cases["predictions"]), texts(&cases["references"]));
    for case in list(&cases["results"]) {
        let mut config = json!({});
        for (name, value) in case["options"].as_object().expect("options") {
            config[name] = value.clone();
        }
        let config: GenerationConfig = serde_json::from_value(config).expect("a configuration");
        let comparison = Comparison::new(&config).expect("patterns");
        for ((prediction, reference), expected) in predictions.iter().zip(&references).zip(list(&case["each"])) {
            let found = comparison.exact_match(prediction, reference);
            assert_eq!(f64::from(found), number(expected), "{prediction:?} {reference:?} {}", case["options"]);
        }
    }
}

#[test]
fn distances_and_error_rates_are_those_of_rapidfuzz_and_jiwer() {
    let golden = golden();
    for case in list(&golden["distance"]) {
        let (reference, hypothesis) = (texts(&case["reference"]), texts(&case["hypothesis"]));
        let expected = case["distance"].as_u64().expect("a count") as usize;
        assert_eq!(edit_distance(&hypothesis, &reference), expected, "{case}");
        assert_eq!(edit_distance(&reference, &hypothesis), expected, "{case}");
    }
    let config: GenerationConfig = serde_json::from_value(json!({})).expect("defaults");
    let comparison = Comparison::new(&config).expect("no patterns");
    for case in list(&golden["error_rate"]) {
        let pairs = texts(&case["references"]).into_iter().zip(texts(&case["hypotheses"]));
        let metric = config::GenerationMetric::WordErrorRate;
        let parts: Vec<Part> =
            pairs.map(|(reference, hypothesis)| comparison.part(metric, &hypothesis, &reference)).collect();
        assert!(near(Estimate::of(&parts).value, number(&case["rate"])));
        assert_eq!(parts.iter().map(|part| part.weight).sum::<f64>(), number(&case["reference_words"]));
    }
}

#[test]
fn mcnemar_is_the_exact_binomial() {
    // scipy.stats.binomtest(k, n).pvalue
    for (wins, losses, expected) in
        [(0, 0, 1.0), (5, 0, 0.0625), (8, 2, 0.109375), (3, 3, 1.0), (15, 3, 0.007537841796875)]
    {
        assert!(near(mcnemar(wins, losses), expected), "{wins} {losses}: {}", mcnemar(wins, losses));
        assert!(near(mcnemar(losses, wins), expected));
    }
    assert!(mcnemar(900, 300) < 1e-6 && mcnemar(600, 600) > 0.9);
}

#[test]
fn conditions_parse_and_judge() {
    use super::expect::Expectation;
    let scores = [("base.wer".to_owned(), 2.0), ("tuned.wer".to_owned(), 0.9), ("change.wer".to_owned(), -1.1)].into();
    for (name, condition, holds) in [
        ("tuned.wer", "< 0.5 * base", true),
        ("tuned.wer", "<0.4*base", false),
        ("tuned.wer", "<= base - 1", true),
        ("tuned.wer", ">= 90%", true),
        ("tuned.wer", "> 0.5 and < 0.8", false),
        ("change.wer", "< 0", true),
        ("base.wer", "== 2", true),
    ] {
        let verdict = Expectation::parse(name, condition).expect("valid").judge(&scores).expect("known");
        assert_eq!(verdict.holds, holds, "{verdict:?}");
    }
    for condition in ["0.5", "< ", "< half", "< 2 base", "< base * 2", "=> 1"] {
        let issue = Expectation::parse("tuned.wer", condition).expect_err(condition);
        assert_eq!(issue.message, format!("`{condition}` is not a condition"));
    }
    assert!(Expectation::parse("tuned.other", "> 1").expect("valid").judge(&scores).is_none());
    assert!(Expectation::parse("wer", "> 1").is_err());
}

struct Setup {
    bench: Bench,
    model: TinyModel,
}

impl Setup {
    fn new() -> Self {
        let mut bench = Bench::new();
        let model = TinyModel::new(3);
        let base = bench.path("base");
        model.write_directory(&base);
        bench.input("model", ArtifactKind::Model, &base);
        Self { bench, model }
    }

    fn adapter(mut self) -> Self {
        let path = self.bench.path("adapter");
        TinyAdapter::new(4).write(&self.model, &path);
        self.bench.input("adapter", ArtifactKind::Adapter, &path);
        self
    }

    fn data(mut self, shape: DatasetShape, extra: &[&str], rows: &[&[&str]]) -> Self {
        let path = self.bench.path("data");
        write_rows(&path, shape, extra, rows);
        self.bench.input("data", ArtifactKind::Dataset, &path);
        self
    }

    fn words(self) -> Self {
        self.data(
            DatasetShape::PromptCompletion,
            &[],
            &[&["say a", "A B C"], &["say b", "B"], &["say nothing", ""], &["say a", "a b c d e f"]],
        )
    }

    fn run(&mut self, with: &Value) -> StageResult<Done> {
        self.bench.run(&EvalStage, with)
    }

    fn scores(&mut self, with: &Value) -> Value {
        let done = self.run(with).expect("an evaluation");
        serde_json::from_slice(&fs_err::read(done.out.join("scores")).expect("a file")).expect("JSON")
    }

    fn text(&mut self, with: &Value) -> String {
        let error = self.run(with).expect_err("a refusal");
        assert!(!error.hints.is_empty(), "{error}");
        show(&error)
    }
}

fn show(error: &StageError) -> String {
    format!("{}: {error}\n  hint: {}", error.code, error.hints.join("; "))
}

fn write_rows(path: &Utf8Path, shape: DatasetShape, extra: &[&str], rows: &[&[&str]]) {
    let fields = extra.iter().map(|name| Field::new(*name, DataType::Utf8, false));
    let schema = Arc::new(shape.schema(fields));
    let mut writer = DatasetWriter::create(path, schema.clone(), shape).expect("a dataset");
    let ids: Vec<String> = (0..rows.len()).map(|index| format!("row-{index}")).collect();
    let mut columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(ids))];
    for column in 0..schema.fields().len() - 1 {
        columns.push(Arc::new(StringArray::from(rows.iter().map(|row| row[column]).collect::<Vec<_>>())));
    }
    writer.write(&RecordBatch::try_new(schema, columns).expect("columns")).expect("written");
    writer.finish().expect("finished");
}

fn everything() -> Value {
    json!({
        "generation": {"max_new_tokens": 5, "metrics": ["exact_match", "phoneme_error_rate", "character_error_rate"]},
        "perplexity": {},
        "forgetting": {"window": 40},
    })
}

fn metric<'a>(scores: &'a Value, name: &str) -> &'a Value {
    list(&scores["metrics"]).iter().find(|metric| metric["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn the_file_is_the_same_for_any_number_of_threads() {
    let mut setup = Setup::new().adapter().words();
    let mut digests: Vec<Digest> = Vec::new();
    for threads in [1, 2, 3] {
        setup.bench.threads = threads;
        let done = setup.run(&everything()).expect("an evaluation");
        assert!(done.outcome.metrics.values().all(|metric| metric.deterministic));
        digests.push(digest_path(&done.out.join("scores")).expect("a file").0);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

#[test]
fn base_and_tuned_stand_side_by_side() {
    let mut setup = Setup::new().adapter().words();
    let both = setup.scores(&everything());
    assert_eq!((both["items"].as_u64(), both["template"].as_bool()), (Some(4), Some(true)));
    assert_eq!(list(&both["answers"]).len(), 4);
    for name in ["exact_match", "phoneme_error_rate", "perplexity", "bits_per_byte", "general_bits_per_byte"] {
        let metric = metric(&both, name);
        let (base, tuned) = (number(&metric["base"]["value"]), number(&metric["tuned"]["value"]));
        assert!((number(&metric["change"]["difference"]) - (tuned - base)).abs() < 1e-9, "{metric}");
        let ends = [number(&metric["change"]["interval"][0]), number(&metric["change"]["interval"][1])];
        assert!(ends[0] <= ends[1], "{metric}");
    }
    let perplexity = metric(&both, "perplexity");
    assert_ne!(perplexity["base"]["value"], perplexity["tuned"]["value"], "the adapter must change something");
    assert!(number(&metric(&both, "general_kl")["tuned"]["value"]) > 0.0);

    let alone = Setup::new().words().scores(&everything());
    for name in ["exact_match", "perplexity", "bits_per_byte", "phoneme_error_rate"] {
        assert_eq!(metric(&alone, name)["base"], metric(&both, name)["base"], "{name}");
        assert!(metric(&alone, name).get("tuned").is_none());
    }
    // Logits of all positions, and the loss kernel: two roads to one number.
    let (one, other) = (metric(&alone, "general_bits_per_byte"), metric(&both, "general_bits_per_byte"));
    assert!((number(&one["base"]["value"]) - number(&other["base"]["value"])).abs() < 1e-5);
}

#[test]
fn an_adapter_of_zeros_changes_nothing() {
    let mut setup = Setup::new();
    let path = setup.bench.path("zeros");
    let adapter = TinyAdapter::new(4);
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = adapter
        .tensors(&setup.model)
        .into_iter()
        .map(|(name, shape, values)| {
            let zero = name.contains("lora_B");
            (name, shape, values.into_iter().map(|value| if zero { 0.0 } else { value }).collect())
        })
        .collect();
    adapter.write(&setup.model, &path);
    luthier_test::write_safetensors(&path.join("adapter_model.safetensors"), &tensors);
    setup.bench.input("adapter", ArtifactKind::Adapter, &path);
    let scores = setup.words().scores(&everything());
    for metric in list(&scores["metrics"]) {
        if metric["name"] == "general_kl" {
            assert!(number(&metric["tuned"]["value"]).abs() < 1e-6);
            continue;
        }
        assert_eq!(metric["base"], metric["tuned"]);
        assert_eq!((number(&metric["change"]["difference"]), metric["change"]["wins"].as_u64()), (0.0, Some(0)));
    }
}

#[test]
fn plain_text_is_scored_in_windows() {
    let texts: Vec<Vec<&str>> = vec![vec!["one two three four five six seven eight nine ten"], vec!["eleven"]];
    let rows: Vec<&[&str]> = texts.iter().map(Vec::as_slice).collect();
    let with = |window: u32| json!({"perplexity": {"window": window}, "forgetting": {"enabled": false}});
    let mut setup = Setup::new().data(DatasetShape::Text, &[], &rows);
    let (wide, narrow) = (setup.scores(&with(60)), setup.scores(&with(3)));
    assert_ne!(metric(&wide, "perplexity")["base"], metric(&narrow, "perplexity")["base"]);
    assert_eq!(wide["template"], json!(false));
    assert_eq!(
        setup.text(&json!({"generation": {}})),
        "eval::no_prompts: the rows of `data` are plain text: there is nothing to answer\n  \
         hint: give prompt/completion or chat rows, or measure `perplexity: {}` instead of `generation`"
    );
}

#[test]
fn choices_are_ranked_by_likelihood() {
    let rows: [&[&str]; 3] = [
        &["pick", "x", r#"["aa","b","cc d"]"#, "b"],
        &["pick", "x", r#"["aa","b"]"#, "0"],
        &["p", "x", r#"["u","v","w"]"#, "C"],
    ];
    let with = json!({"multiple_choice": {}, "forgetting": {"enabled": false}});
    let mut setup = Setup::new().adapter().data(DatasetShape::PromptCompletion, &["choices", "answer"], &rows);
    let scores = setup.scores(&with);
    assert!(number(&metric(&scores, "acc")["base"]["value"]) <= 1.0);
    assert_eq!(metric(&scores, "acc_norm")["items"], json!(3));

    let rows: [&[&str]; 1] = [&["pick", "x", r#"["aa","b"]"#, "z"]];
    let mut setup = Setup::new().data(DatasetShape::PromptCompletion, &["choices", "answer"], &rows);
    assert_eq!(
        setup.text(&with),
        "eval::choices: row `row-0`: the answer `z` is none of 2 choices\n  hint: choices are a JSON list of texts; the \
         answer is an index from 0, a letter from A, or the text itself"
    );
    let mut setup = Setup::new().words();
    assert_eq!(
        setup.text(&with),
        "eval::missing_column: the dataset has no column `choices`; its columns are [`id`, `prompt`, `completion`]\n  \
         hint: keep the column with `keep:` where the dataset is ingested"
    );
}

#[test]
fn gates_fail_the_run_with_their_own_class() {
    let mut setup = Setup::new().adapter().words();
    let mut with = everything();
    with["expect"] = json!({"tuned.exact_match": ">= 0", "tuned.general_kl": "< 1e9"});
    let scores = setup.scores(&with);
    assert!(list(&scores["expectations"]).iter().all(|verdict| verdict["holds"] == json!(true)));
    with["expect"] = json!({"tuned.exact_match": "> 2", "base.exact_match": ">= 0"});
    let error = setup.run(&with).expect_err("a gate");
    assert_eq!(error.class, ErrorClass::Expectation);
    assert_eq!(
        show(&error),
        "eval::expectation_failed: `tuned.exact_match` is 0, expected > 2 (`> 2`)\n  hint: look at the answers in the \
         run's report, then train longer or lower the bar under `expect:`"
    );
    with["expect"] = json!({"tuned.exct_match": "> 2"});
    assert!(
        setup
            .text(&with)
            .starts_with("eval::expectation: there is no score `tuned.exct_match` to expect anything of\n")
    );
    with["expect"] = json!({"tuned.exact_match": "> 2"});
    assert_eq!(
        Setup::new().words().text(&with),
        "eval::expectation: `expect.tuned.exact_match` asks for a tuned score, but no adapter is connected\n  hint: add \
         `adapter: STAGE` under `in:`, or expect `base.METRIC`"
    );
}

#[test]
fn bad_configurations_say_what_is_wrong() {
    let bench = Bench::new();
    assert_eq!(
        bench.issues(
            &EvalStage,
            &json!({"generation": {"extract": "(", "metrics": ["exact_match", "exact_match"]}, "expect": {"wer": "< 1", "tuned.x": "low"}})
        ),
        [
            "generation.extract | `(` is not a regular expression: unclosed group | quote it with single quotes in YAML, so that backslashes stay",
            "generation.metrics[1] | `exact_match` is listed twice | -",
            "expect.tuned.x | `low` is not a condition | write a comparison such as `>= 0.3`, `< 0.5 * base` or `<= base + 0.01`",
            "expect.wer | `wer` does not name a score, expected `tuned.METRIC`, `base.METRIC` or `change.METRIC` | for example `tuned.exact_match: \">= 0.3\"`",
        ]
    );
    assert_eq!(
        bench.issues(&EvalStage, &json!({"generation": {"metrics": ["exact_mach"]}})),
        [
            "generation.metrics[0] | `exact_mach` is not one of `exact_match`, `contains`, `word_error_rate`, `phoneme_error_rate`, `character_error_rate` | did you mean `exact_match`?"
        ]
    );
    assert_eq!(
        bench.issues(&EvalStage, &json!({"forgetting": {"enabled": false}})),
        [" | nothing to measure | add `generation: {}`, `perplexity: {}` or `multiple_choice: {}`"]
    );
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let long = "word ".repeat(400);
    let mut setup = Setup::new().data(DatasetShape::PromptCompletion, &[], &[&["short", "a"], &[&long, "b"]]);
    let text = setup.text(&json!({"generation": {"max_new_tokens": 4}}));
    assert!(text.starts_with("eval::too_long: row `row-1` needs "), "{text}");
    let chat: [&[&str]; 1] = [&[r#"[{"role": "user", "content": "a"}]"#]];
    let mut setup = Setup::new().data(DatasetShape::Chat, &[], &chat);
    assert_eq!(
        setup.text(&json!({"generation": {}})),
        "eval::chat: row `row-0`: the last message is by `user`, expected `assistant`\n  hint: end each conversation with \
         the assistant's answer; it is the reference"
    );
    let mut setup = Setup::new().data(DatasetShape::PromptCompletion, &[], &[]);
    assert!(setup.text(&json!({"generation": {}})).starts_with("eval::no_rows"));
}

#[test]
fn a_cancelled_run_stops() {
    let mut setup = Setup::new().words();
    setup.bench.cancel.cancel();
    assert_eq!(setup.run(&everything()).expect_err("cancelled").class, ErrorClass::Interrupted);
}

#[test]
fn every_field_is_in_the_key() {
    let bench = Bench::new();
    let plain = bench.prepare(&EvalStage, &everything()).expect("valid").key;
    for (field, value) in [
        ("/generation/max_new_tokens", json!(6)),
        ("/generation/metrics", json!(["exact_match"])),
        ("/perplexity/window", json!(100)),
        ("/forgetting/window", json!(41)),
        ("/forgetting/enabled", json!(false)),
        ("/seed", json!(1)),
        ("/precision", json!("stored")),
        ("/template", json!("none")),
    ] {
        let mut with = bench.prepare(&EvalStage, &everything()).expect("valid").config;
        *with.pointer_mut(field).unwrap_or_else(|| panic!("{field}")) = value;
        assert_ne!(bench.prepare(&EvalStage, &with).expect("valid").key, plain, "{field}");
    }
}

#[test]
fn a_general_file_takes_the_place_of_the_built_in_text() {
    let mut setup = Setup::new().adapter();
    let path: Utf8PathBuf =
        setup.bench.write("general.txt", "One paragraph.\n\nAnother one,\nof two lines.\n\nshort\n\nA last one here\n");
    setup.bench.input("general", ArtifactKind::File, &path);
    let count = |scores: &Value| metric(scores, "general_kl")["items"].clone();
    let scores = setup.scores(&json!({"forgetting": {"min_bytes": 6}}));
    assert_eq!((count(&scores), &scores["general"]), (json!(3), &json!("general.file")));
    let scores = setup.scores(&json!({"forgetting": {"min_bytes": 6, "documents": 2}}));
    assert_eq!(count(&scores), json!(2));
    assert_eq!(
        setup.text(&json!({})),
        "eval::general: `general.file` holds 4 documents, none of at least 100 bytes\n  hint: give longer text, or lower \
         `forgetting.min_bytes`; documents are separated by blank lines"
    );
}
