//! Trainings of a tiny model through the stage interface.

use std::sync::Mutex;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{CancelToken, Digest, ErrorClass, EventSink, StageError, StageEvent, digest_path};
use luthier_test::{TinyModel, token_set};
use serde_json::json;

use super::*;
use crate::testing::{Bench, Done};

pub(crate) fn bench(samples: usize) -> Bench {
    let mut bench = Bench::new();
    let model = TinyModel::new(3);
    let base = bench.path("base");
    model.write_directory(&base);
    bench.input("model", ArtifactKind::Model, &base);
    let data = bench.path("tokens");
    token_set(samples, model.config.vocab_size).write(&data).expect("tokens");
    bench.input("data", ArtifactKind::Tokens, &data);
    bench
}

/// Eight samples for the model in `base`.
pub(crate) fn bench_on(base: &Utf8Path) -> Bench {
    let mut bench = Bench::new();
    bench.input("model", ArtifactKind::Model, base);
    let data = bench.path("tokens");
    let vocabulary = luthier_formats::model_files::read_model_config(base).expect("a model").vocab_size;
    token_set(8, vocabulary).write(&data).expect("tokens");
    bench.input("data", ArtifactKind::Tokens, &data);
    bench
}

fn with() -> Value {
    json!({"rank": 4, "alpha": 8, "batch": 4, "steps": 6, "learning_rate": 1e-2, "seed": 5, "checkpoint_seconds": 0})
}

fn adapter(done: &Done) -> Digest {
    digest_path(&done.out.join("adapter")).expect("an adapter").0
}

fn show(error: &StageError) -> String {
    format!("{}: {error}\n  hint: {}", error.code, error.hints.join("; "))
}

#[test]
fn the_adapter_is_the_same_for_any_number_of_threads() {
    let mut bench = bench(10);
    let mut digests = Vec::new();
    for threads in [1, 2, 3] {
        bench.threads = threads;
        let done = bench.run(&TrainStage, &with()).expect("trained");
        let (first, last) = (done.outcome.metrics["loss_first"].value, done.outcome.metrics["loss"].value);
        assert!(last < first, "{last} is not below {first}");
        assert!(done.outcome.metrics["loss"].deterministic && !done.outcome.metrics["tokens_per_second"].deterministic);
        digests.push(adapter(&done));
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    let files = luthier_core::fs::walk_files(&bench.root().join("scratch-1/out/adapter")).expect("files");
    assert_eq!(files, ["adapter_config.json", "adapter_model.safetensors"]);
}

#[test]
fn devices_that_are_not_there_are_refused_with_the_way_out() {
    let bench = bench(2);
    let issues = |name: &str| {
        let mut with = with();
        with["device"] = json!(name);
        bench.issues(&TrainStage, &with)
    };
    assert_eq!(issues("gpu"), ["device | there is no device `gpu` | write `auto`, `cpu`, `cuda` or `cuda:1`"]);
    let [issue] = issues("cuda:200").try_into().expect("one issue");
    assert!(issue.starts_with("device | the device `cuda:200` is not available: "), "{issue}");
    assert!(issue.ends_with(" | run `luthier doctor`, or set `device: auto`"), "{issue}");
    // What is prepared names what this machine has; the key does not.
    let mut with = with();
    let expected = bench.prepare(&TrainStage, &with).expect("valid").key;
    with["device"] = json!("auto");
    let prepared = bench.prepare(&TrainStage, &with).expect("valid");
    assert_eq!(prepared.key, expected);
    assert_ne!(prepared.config["device"], json!("auto"));
}

#[test]
fn every_key_that_changes_bytes_is_in_the_key() {
    let bench = bench(2);
    let key = |with: Value| bench.prepare(&TrainStage, &with).expect("valid").key;
    let base = key(with());
    for (name, value) in
        [("rank", json!(8)), ("seed", json!(6)), ("method", json!("lora")), ("checkpointing", json!(true))]
    {
        let mut with = with();
        with[name] = value;
        assert_ne!(key(with), base, "{name}");
    }
    for (name, value) in [("checkpoint_every", json!(3)), ("checkpoint_seconds", json!(9)), ("stream", json!("layers"))]
    {
        let mut with = with();
        with[name] = value;
        assert_eq!(key(with), base, "{name}");
    }
    let mut with = with();
    with["checkpointing"] = json!(true);
    let base = key(with.clone());
    with["offload"] = json!("block-inputs");
    assert_eq!(key(with), base, "offload");
}

#[test]
fn block_inputs_are_moved_where_they_alone_are_kept_and_the_cpu_leaves_them() {
    let mut bench = bench(10);
    let mut with = with();
    with["offload"] = json!("block-inputs");
    assert_eq!(
        bench.issues(&TrainStage, &with),
        [
            "offload | block inputs are kept with all else that backward needs | set `checkpointing: true`, or remove `offload`"
        ]
    );
    with["checkpointing"] = json!(true);
    let moved = bench.run(&TrainStage, &with).expect("trained").out;
    with["offload"] = json!("none");
    let kept = bench.run(&TrainStage, &with).expect("trained").out;
    let digest = |path: Utf8PathBuf| digest_path(&path.join("adapter")).expect("an adapter").0;
    assert_eq!(digest(moved), digest(kept));
}

/// Asks to stop once `after` steps are done.
struct StopAfter {
    after: usize,
    seen: Mutex<usize>,
    cancel: CancelToken,
}

impl EventSink for StopAfter {
    fn emit(&self, event: StageEvent) {
        if matches!(event, StageEvent::Point { series, .. } if series == "loss") {
            let mut seen = self.seen.lock().expect("no panic");
            *seen += 1;
            if *seen == self.after {
                self.cancel.cancel();
            }
        }
    }
}

pub(super) fn scratch(bench: &Bench, name: &str) -> Utf8PathBuf {
    let scratch = bench.root().join(name);
    for part in ["out", "tmp", "checkpoint"] {
        fs_err::create_dir_all(scratch.join(part)).expect("a directory");
    }
    scratch
}

fn attempt(bench: &Bench, with: &Value, scratch: &Utf8Path, after: usize) -> StageResult<StageOutcome> {
    let cancel = CancelToken::new();
    let sink = StopAfter { after, seen: Mutex::new(0), cancel: cancel.clone() };
    let request = bench.request(&TrainStage, with, scratch);
    TrainStage.run(&mut StageContext::new(request, &sink, cancel))
}

#[test]
fn an_interrupted_training_goes_on_to_the_same_bytes_and_curves() {
    let mut bench = bench(9);
    let straight = bench.run(&TrainStage, &with()).expect("trained");
    let scratch = scratch(&bench, "interrupted");
    for stop in [2, 1, 2] {
        let error = attempt(&bench, &with(), &scratch, stop).expect_err("interrupted");
        assert_eq!(error.class, ErrorClass::Interrupted);
        assert!(!scratch.join("out/adapter").exists());
    }
    let outcome = attempt(&bench, &with(), &scratch, 99).expect("trained");
    assert_eq!(outcome.metrics["resumed_from"].value, 5.0);
    assert_eq!(adapter(&straight), digest_path(&scratch.join("out/adapter")).expect("an adapter").0);
    assert_eq!(outcome.metrics["loss"], straight.outcome.metrics["loss"]);
    assert_eq!(outcome.sections[..3], straight.outcome.sections[..3]);
}

#[test]
fn more_steps_go_on_from_the_finished_run_where_that_is_exact() {
    let with = |steps: u64, schedule: &str| {
        let mut with = with();
        with["steps"] = json!(steps);
        with["schedule"] = json!(schedule);
        with["warmup"] = json!(2);
        with
    };
    let mut bench = bench(9);
    bench.run(&TrainStage, &with(3, "constant")).expect("trained");
    let longer = bench.run(&TrainStage, &with(7, "constant")).expect("trained");
    assert_eq!(longer.outcome.metrics["resumed_from"].value, 3.0);
    let mut fresh = self::bench(9);
    let straight = fresh.run(&TrainStage, &with(7, "constant")).expect("trained");
    assert!(!straight.outcome.metrics.contains_key("resumed_from"));
    assert_eq!(adapter(&longer), adapter(&straight));
    assert_eq!(longer.outcome.sections[..3], straight.outcome.sections[..3]);
    bench.fresh = true;
    let anew = bench.run(&TrainStage, &with(7, "constant")).expect("trained");
    assert!(!anew.outcome.metrics.contains_key("resumed_from"), "a forced run makes every step itself");
    assert_eq!(adapter(&longer), adapter(&anew));
    bench.fresh = false;
    // A shorter run cannot use a longer one's state, and a decaying rate depends on the number of steps.
    let shorter = bench.run(&TrainStage, &with(5, "constant")).expect("trained");
    assert!(!shorter.outcome.metrics.contains_key("resumed_from"));
    bench.run(&TrainStage, &with(3, "linear")).expect("trained");
    let linear = bench.run(&TrainStage, &with(7, "linear")).expect("trained");
    assert!(!linear.outcome.metrics.contains_key("resumed_from"));
    // Unless it is said where the schedule ends.
    for schedule in ["linear", "cosine"] {
        let with = |steps: u64| {
            let mut with = with(steps, schedule);
            with["decay_steps"] = json!(9);
            with["warmup"] = json!(0.3);
            with
        };
        bench.run(&TrainStage, &with(4)).expect("trained");
        let longer = bench.run(&TrainStage, &with(9)).expect("trained");
        assert_eq!(longer.outcome.metrics["resumed_from"].value, 4.0);
        let mut fresh = self::bench(9);
        let straight = fresh.run(&TrainStage, &with(9)).expect("trained");
        assert_eq!(adapter(&longer), adapter(&straight));
        let mut plain = with(9);
        plain.as_object_mut().expect("an object").remove("decay_steps");
        assert_eq!(adapter(&fresh.run(&TrainStage, &plain).expect("trained")), adapter(&straight));
    }
}

#[test]
fn more_epochs_go_on_where_the_last_step_was_a_whole_one() {
    let with =
        |epochs: f64| json!({"rank": 4, "batch": 4, "epochs": epochs, "schedule": "constant", "checkpoint_seconds": 0});
    let mut bench = bench(8);
    bench.run(&TrainStage, &with(1.0)).expect("trained");
    let longer = bench.run(&TrainStage, &with(2.0)).expect("trained");
    assert_eq!(longer.outcome.metrics["resumed_from"].value, 2.0);
    let mut fresh = self::bench(8);
    assert_eq!(adapter(&longer), adapter(&fresh.run(&TrainStage, &with(2.0)).expect("trained")));
    let mut ragged = self::bench(6);
    ragged.run(&TrainStage, &with(1.0)).expect("trained");
    assert!(!ragged.run(&TrainStage, &with(2.0)).expect("trained").outcome.metrics.contains_key("resumed_from"));
}

#[test]
fn a_foreign_checkpoint_is_refused_and_a_damaged_one_is_left_behind() {
    let bench = bench(9);
    let scratch = scratch(&bench, "foreign");
    attempt(&bench, &with(), &scratch, 2).expect_err("interrupted");
    let mut other = with();
    other["seed"] = json!(99);
    let error = attempt(&bench, &other, &scratch, 99).expect_err("foreign");
    assert_eq!(error.code, "train::foreign_checkpoint");
    assert!(error.hints[0].contains("rm '"), "{}", show(&error));
    let path = scratch.join("checkpoint/state.checkpoint");
    let mut bytes = fs_err::read(&path).expect("a checkpoint");
    bytes.truncate(100);
    fs_err::write(&path, bytes).expect("written");
    let outcome = attempt(&bench, &with(), &scratch, 99).expect("trained from the start");
    assert!(!outcome.metrics.contains_key("resumed_from"));
}

#[test]
fn validation_is_watched_and_stops_early() {
    let mut bench = bench(10);
    let path = bench.path("validation");
    let mut set = token_set(4, TinyModel::new(3).config.vocab_size);
    // Random targets: the training cannot help, so the loss soon rises.
    for (index, sample) in set.samples.iter_mut().enumerate() {
        sample
            .ids
            .iter_mut()
            .enumerate()
            .for_each(|(place, id)| *id = ((index * 31 + place * place * 17) % 200) as u32);
    }
    set.write(&path).expect("tokens");
    let mut with = with();
    with["validate_every"] = json!(2);
    with["early_stopping"] = json!(2);
    with["steps"] = json!(60);
    with["learning_rate"] = json!(0.05);
    let error = bench.run(&TrainStage, &with).expect_err("no validation input");
    assert_eq!(
        show(&error),
        "train::no_validation: `validate_every` is set, but input `validation` is not connected\n  hint: add \
         `validation: STAGE` under `in:`, or remove `validate_every`"
    );
    bench.input("validation", ArtifactKind::Tokens, &path);
    let done = bench.run(&TrainStage, &with).expect("trained");
    let steps = done.outcome.metrics["steps"].value;
    assert!(steps < 60.0, "{steps}");
    let best = done.outcome.metrics["validation_best_step"].value;
    assert_eq!(best, steps - 4.0);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_its_samples() {
    let mut bench = bench(3);
    let mut with = with();
    with["learning_rate"] = json!(1e38);
    with["max_grad_norm"] = json!(0);
    with["batch"] = json!(2);
    let error = bench.run(&TrainStage, &with).expect_err("a NaN");
    assert_eq!(error.code, "train::not_finite");
    assert!(error.message.contains("(samples [`row-"), "{}", show(&error));
    assert!(error.message.ends_with("no checkpoint was written yet"), "{}", show(&error));
}

#[test]
fn a_checkpoint_is_kept_only_if_the_step_after_it_computes() {
    let bench = bench(8);
    let scratch = scratch(&bench, "diverging");
    let mut with = with();
    // The rate rises with each step of the warm-up until a step overflows.
    with["steps"] = json!(400);
    with["max_grad_norm"] = json!(0);
    with["checkpoint_every"] = json!(1);
    with["warmup"] = json!(1000);
    with["learning_rate"] = json!(1e37);
    let error = attempt(&bench, &with, &scratch, 999).expect_err("a NaN");
    assert!(["train::not_finite", "train::diverged"].contains(&error.code), "{}", show(&error));
    let again = attempt(&bench, &with, &scratch, 999).expect_err("again");
    assert_eq!(
        (&again.code, &again.message),
        (&error.code, &error.message),
        "the last good state leads to the same step"
    );
}

#[test]
fn configuration_errors_name_the_key_and_the_remedy() {
    let bench = Bench::new();
    let issues = bench.issues(&TrainStage, &json!({"rank": 0, "metod": "lora", "schedule": "cosinus", "dropout": 1.5}));
    assert_eq!(
        issues,
        [
            "rank | 0 is out of range: expected at least 1 | -",
            "metod | unknown key `metod` | did you mean `method`?",
            "schedule | `cosinus` is not one of `constant`, `linear`, `cosine` | did you mean `cosine`?",
            "dropout | 1.5 is out of range: expected at most 0.99 | -",
        ]
    );
    let issues = bench.issues(
        &TrainStage,
        &json!({"dora": true, "dropout": 0.1, "layers_to_transform": [], "decay_steps": 5, "steps": 8}),
    );
    assert_eq!(
        issues,
        [
            "layers_to_transform | no layers are named: expected at least one | -",
            "decay_steps | the learning rate would be 0 for the last 3 of 8 steps | set it to 8 or more",
        ]
    );
    let issues =
        bench.issues(&TrainStage, &json!({"schedule": "constant", "decay_steps": 5, "optimizer": "adamw8bit"}));
    assert_eq!(
        issues,
        ["optimizer | `adamw8bit` is not one of `adamw`, `adamw_8bit`, `paged_adamw`, `paged_adamw_8bit` | did you \
             mean `adamw_8bit`?",]
    );
    let issues = bench.issues(
        &TrainStage,
        &json!({"steps": 5, "epochs": 2, "early_stopping": 2, "targets": ["all-linear", "q_proj"], "learning_rate": 0}),
    );
    assert_eq!(
        issues,
        [
            "epochs | `steps` and `epochs` exclude each other | keep one of them",
            "learning_rate | 0 would train nothing: expected more than 0 | -",
            "targets | `all-linear` stands for every module, so it cannot be in a list | write `targets: all-linear`",
            "early_stopping | there is no validation to stop by | set `validate_every`, and connect a tokens artifact to \
             the input `validation`",
        ]
    );
}

#[test]
fn targets_are_told_apart() {
    use luthier_model::adapter::Targets;
    let read = |value: Value| {
        let config: TrainConfig = parse_config(&json!({"targets": value})).expect("valid");
        config.lora().targets
    };
    assert_eq!(read(json!("all-linear")), Targets::AllLinear);
    assert_eq!(read(json!("q_proj")), Targets::Names(vec!["q_proj".to_owned()]));
    assert_eq!(read(json!(["q_proj", "v_proj"])), Targets::Names(vec!["q_proj".to_owned(), "v_proj".to_owned()]));
    assert_eq!(read(json!(r".*\.[qv]_proj")), Targets::Pattern(r".*\.[qv]_proj".to_owned()));
}

#[test]
fn another_models_tokens_are_refused() {
    let mut bench = Bench::new();
    let base = bench.path("base");
    TinyModel::new(3).write_directory(&base);
    bench.input("model", ArtifactKind::Model, &base);
    let data = bench.path("tokens");
    let mut set = token_set(4, 5000);
    // All ids are in range, and yet they mean other things.
    set.samples.iter_mut().for_each(|sample| sample.ids.iter_mut().for_each(|id| *id %= 200));
    set.write(&data).expect("tokens");
    bench.input("data", ArtifactKind::Tokens, &data);
    let error = bench.run(&TrainStage, &with()).expect_err("refused");
    assert_eq!(
        show(&error).replace(base.as_str(), "BASE"),
        format!(
            "train::other_tokenizer: the tokens of input `data` were made with a tokenizer of 5000 tokens, but that of \
             `BASE` has {}\n  hint: connect the same `model` to the tokenize stage and to this one",
            TinyModel::new(3).config.vocab_size
        )
    );
}
