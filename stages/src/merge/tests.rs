//! Merges of the tiny model against plain arithmetic in `f64`, and everything that must be refused.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, digest_path};
use luthier_formats::quant::TensorType;
use luthier_formats::tokenizer::Tokenizer;
use luthier_formats::tokens::{TokenSample, TokenSet, TokensMeta};
use luthier_test::{TinyAdapter, TinyModel, write_safetensors};

use super::*;
use crate::testing::{Bench, Done};

pub(super) type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

pub(super) struct Setup {
    bench: Bench,
    model: TinyModel,
    base: Utf8PathBuf,
}

impl Setup {
    pub(super) fn new(model: TinyModel) -> Self {
        let mut bench = Bench::new();
        let base = bench.path("base");
        model.write_directory(&base);
        bench.input("model", ArtifactKind::Model, &base);
        Self { bench, model, base }
    }

    pub(super) fn adapter(mut self, name: &str, adapter: &TinyAdapter) -> Self {
        let path = self.bench.path(name);
        adapter.write(&self.model, &path);
        self.bench.input("adapters", ArtifactKind::Adapter, &path);
        self
    }

    pub(super) fn run(&mut self, with: &Value) -> StageResult<Done> {
        self.bench.run(&MergeStage, with)
    }

    fn error(&mut self, with: &Value) -> StageError {
        let error = self.run(with).expect_err("a refusal");
        assert!(!error.hints.is_empty(), "{error}");
        error
    }

    fn text(&mut self, with: &Value) -> String {
        let error = self.error(with);
        let place = self.bench.root().as_str().to_owned();
        format!("{}: {}\n  hint: {}", error.code, error.to_string().replace(&place, "DIR"), error.hints.join("; "))
    }
}

pub(super) fn read_all(path: &Utf8Path) -> Tensors {
    let files = ModelFiles::open(path).expect("a model");
    let read = |(name, spec): (&String, &TensorSpec)| {
        let mut values = vec![0.0; spec.shape.iter().product()];
        files.read_f32(name, &mut values).expect("readable");
        (name.clone(), spec.shape.clone(), values)
    };
    files.specs().iter().map(read).collect()
}

fn find<'a>(tensors: &'a Tensors, name: &str) -> &'a (String, Vec<usize>, Vec<f32>) {
    tensors.iter().find(|tensor| tensor.0 == name).unwrap_or_else(|| panic!("no tensor {name}"))
}

/// `scale · B · A` of a module in `f64`, or nothing if the adapter leaves it alone.
fn delta(adapter: &TinyAdapter, model: &TinyModel, weight: &str, scale: f64) -> Option<Vec<f64>> {
    let tensors = adapter.tensors(model);
    let module = weight.strip_suffix(".weight")?;
    let part =
        |factor: &str| tensors.iter().find(|tensor| tensor.0 == format!("base_model.model.{module}.{factor}.weight"));
    let ((_, a_shape, a), (_, b_shape, b)) = (part("lora_A")?, part("lora_B")?);
    let (rank, columns, rows) = (a_shape[0], a_shape[1], b_shape[0]);
    let mut out = vec![0.0; rows * columns];
    for row in 0..rows {
        for column in 0..columns {
            let sum: f64 = (0..rank).map(|r| f64::from(b[row * rank + r]) * f64::from(a[r * columns + column])).sum();
            out[row * columns + column] = scale * sum;
        }
    }
    Some(out)
}

/// Every tensor of `merged` is the base's plus `change`, within `tolerance` of the expected value's size.
fn assert_merged(base: &Tensors, merged: &Tensors, tolerance: f64, change: impl Fn(&str) -> Option<Vec<f64>>) -> usize {
    let mut changed = 0;
    assert_eq!(base.len(), merged.len());
    for ((name, shape, before), (other, other_shape, after)) in base.iter().zip(merged) {
        assert_eq!((name, shape), (other, other_shape));
        let delta = change(name);
        changed += usize::from(delta.is_some());
        for (index, (before, after)) in before.iter().zip(after).enumerate() {
            let expected = f64::from(*before) + delta.as_ref().map_or(0.0, |delta| delta[index]);
            let error = (f64::from(*after) - expected).abs();
            assert!(error <= tolerance * expected.abs().max(0.05), "{name}[{index}]: {after} against {expected}");
        }
    }
    changed
}

/// A sum of a few products in single precision, rounded to the value.
const F32: f64 = 1e-6;
/// Half a unit in the last place of bfloat16.
const BF16: f64 = 0.004;

#[test]
fn one_adapter_is_added_with_its_scale() {
    let adapter = TinyAdapter::new(5);
    for (dtype, tolerance) in [("f32", F32), ("bf16", BF16), ("f16", 0.0006)] {
        let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &adapter);
        let done = setup.run(&json!({"dtype": dtype})).expect("a merge");
        let (base, merged) = (read_all(&setup.base), read_all(&done.out.join("model")));
        let changed = assert_merged(&base, &merged, tolerance, |name| delta(&adapter, &setup.model, name, 2.0));
        assert_eq!(changed, 6, "three targets in two layers");
        let metrics = &done.outcome.metrics;
        assert_eq!(metrics["changed_tensors"].value, 6.0);
        assert!(metrics["changed_share"].value > 0.9, "{metrics:?}");
        assert!(done.outcome.warnings.is_empty());
    }
}

#[test]
fn scales_follow_patterns_and_rslora() {
    let model = TinyModel::new(2);
    let adapter = TinyAdapter {
        config: json!({"use_rslora": true, "alpha_pattern": {"layers.1.self_attn.v_proj": 3.0, "down_proj": 5.0}}),
        ..TinyAdapter::new(6)
    };
    let mut setup = Setup::new(model).adapter("adapter", &adapter);
    let done = setup.run(&json!({"dtype": "f32"})).expect("a merge");
    let merged = read_all(&done.out.join("model"));
    assert_merged(&read_all(&setup.base), &merged, F32, |name| {
        let alpha = match name {
            "model.layers.1.self_attn.v_proj.weight" => 3.0,
            name if name.contains("down_proj") => 5.0,
            _ => 8.0,
        };
        delta(&adapter, &setup.model, name, alpha / 2.0)
    });
}

#[test]
fn several_adapters_are_a_weighted_sum() {
    let (one, two) = (TinyAdapter::new(7), TinyAdapter { targets: vec!["q_proj", "up_proj"], ..TinyAdapter::new(8) });
    let mut setup = Setup::new(TinyModel::new(3)).adapter("one", &one).adapter("two", &two);
    let done = setup.run(&json!({"dtype": "f32", "weights": [0.75, -0.5]})).expect("a merge");
    let merged = read_all(&done.out.join("model"));
    assert_merged(&read_all(&setup.base), &merged, F32, |name| {
        let parts = [delta(&one, &setup.model, name, 1.5), delta(&two, &setup.model, name, -1.0)];
        let mut parts = parts.into_iter().flatten();
        let first = parts.next()?;
        Some(parts.fold(first, |sum, part| sum.iter().zip(&part).map(|(a, b)| a + b).collect()))
    });
}

#[test]
fn ties_keeps_agreeing_signs_and_dare_drops_at_random() {
    let (one, two) = (TinyAdapter::new(7), TinyAdapter::new(8));
    let name = "model.layers.0.self_attn.q_proj.weight";
    let mut setup = Setup::new(TinyModel::new(3)).adapter("one", &one).adapter("two", &two);
    let base = read_all(&setup.base);
    let before = &find(&base, name).2;
    let deltas = [delta(&one, &setup.model, name, 2.0).unwrap(), delta(&two, &setup.model, name, 2.0).unwrap()];

    let done = setup.run(&json!({"dtype": "f32", "method": "ties", "density": 1.0})).expect("a merge");
    let merged = read_all(&done.out.join("model"));
    for (index, after) in find(&merged, name).2.iter().enumerate() {
        let (a, b) = (deltas[0][index], deltas[1][index]);
        let expected = match (a * b > 0.0, a.abs() > b.abs()) {
            (true, _) => (a + b) / 2.0,
            (false, true) => a,
            (false, false) => b,
        };
        assert!((f64::from(after - before[index]) - expected).abs() < 1e-6, "{index}");
    }

    let done = setup.run(&json!({"dtype": "f32", "method": "ties", "density": 0.25})).expect("a merge");
    let merged = read_all(&done.out.join("model"));
    let kept = find(&merged, name).2.iter().zip(before).filter(|(after, before)| after != before).count();
    assert!((before.len() / 4..=before.len() / 2).contains(&kept), "{kept} of {}", before.len());

    let with = json!({"dtype": "f32", "method": "dare", "density": 0.5, "seed": 4});
    let done = setup.run(&with).expect("a merge");
    let merged = read_all(&done.out.join("model"));
    let mut kept = 0;
    for (index, after) in find(&merged, name).2.iter().enumerate() {
        let found = f64::from(after - before[index]);
        // Each adapter's change is there doubled or not at all; both weigh one half.
        let options = [0.0, deltas[0][index], deltas[1][index], deltas[0][index] + deltas[1][index]];
        assert!(options.iter().any(|option| (option - found).abs() < 1e-6), "{index}: {found} of {options:?}");
        kept += usize::from(found == 0.0);
    }
    let share = kept as f64 / before.len() as f64;
    assert!((0.2..0.3).contains(&share), "a quarter keeps neither, found {share}");
    let again = setup.run(&with).expect("a merge");
    assert_eq!(digest_path(&done.out.join("model")).unwrap().0, digest_path(&again.out.join("model")).unwrap().0);
    let other = setup.run(&json!({"dtype": "f32", "method": "dare", "density": 0.5, "seed": 5})).expect("a merge");
    assert_ne!(digest_path(&done.out.join("model")).unwrap().0, digest_path(&other.out.join("model")).unwrap().0);
}

#[test]
fn dequantized_base_is_what_qlora_trained_against() {
    let adapter = TinyAdapter::new(5);
    let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &adapter);
    let done = setup.run(&json!({"dtype": "f32", "base": "dequantized"})).expect("a merge");
    assert_eq!(done.outcome.warnings.len(), 1, "the adapter has no stamp");
    let mut base = read_all(&setup.base);
    for (name, shape, values) in &mut base {
        if name.contains("_proj") {
            let quantized = nf4::quantize(values, shape[0], shape[1], true);
            nf4::dequantize(&quantized.view(), 0..shape[0], values);
        }
    }
    let merged = read_all(&done.out.join("model"));
    assert_merged(&base, &merged, F32, |name| delta(&adapter, &setup.model, name, 2.0));
    // Tensors that the adapter leaves alone are the same bits.
    let name = "model.layers.0.mlp.up_proj.weight";
    assert_eq!(find(&base, name).2, find(&merged, name).2);
    assert_ne!(find(&read_all(&setup.base), name).2, find(&merged, name).2);
}

#[test]
fn dora_scales_rows_to_their_magnitudes() {
    let model = TinyModel::new(4);
    let adapter = TinyAdapter { config: json!({"use_dora": true}), targets: vec!["o_proj"], ..TinyAdapter::new(9) };
    let mut setup = Setup::new(model).adapter("adapter", &adapter);
    let mut tensors = adapter.tensors(&setup.model);
    for layer in 0..2 {
        let name = format!("base_model.model.model.layers.{layer}.self_attn.o_proj.lora_magnitude_vector");
        tensors.push((name, vec![64], (0..64).map(|row| 0.5 + row as f32 * 0.01).collect()));
    }
    write_safetensors(&setup.bench.path("adapter").join("adapter_model.safetensors"), &tensors);
    let done = setup.run(&json!({"dtype": "f32"})).expect("a merge");
    let (base, merged) = (read_all(&setup.base), read_all(&done.out.join("model")));
    let name = "model.layers.1.self_attn.o_proj.weight";
    let change = delta(&adapter, &setup.model, name, 2.0).unwrap();
    let (before, after) = (&find(&base, name).2, &find(&merged, name).2);
    for row in 0..64 {
        let direction: Vec<f64> = (row * 64..(row + 1) * 64).map(|i| f64::from(before[i]) + change[i]).collect();
        let norm = direction.iter().map(|value| value * value).sum::<f64>().sqrt();
        for (column, value) in direction.iter().enumerate() {
            let expected = (0.5 + row as f64 * 0.01) * value / norm;
            assert!((f64::from(after[row * 64 + column]) - expected).abs() < 1e-6);
        }
    }
}

#[test]
fn a_gguf_base_becomes_a_directory_with_its_tokenizer() {
    let model = TinyModel::new(1).tied();
    let mut bench = Bench::new();
    let base = bench.path("base.gguf");
    model.write_gguf(&base, TensorType::Q8_0);
    let adapter = TinyAdapter::new(5);
    adapter.write(&model, &bench.path("adapter"));
    let path = bench.path("adapter");
    bench.input("model", ArtifactKind::Model, &base).input("adapters", ArtifactKind::Adapter, &path);
    let done = bench.run(&MergeStage, &json!({"dtype": "f32", "max_shard": 60_000})).expect("a merge");
    let out = done.out.join("model");
    assert_merged(&read_all(&base), &read_all(&out), F32, |name| delta(&adapter, &model, name, 2.0));
    let names = luthier_core::fs::walk_files(&out).unwrap();
    for name in
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    {
        assert!(names.iter().any(|found| found == name), "{name} of {names:?}");
    }
    assert!(names.iter().filter(|name| name.ends_with(".safetensors")).count() > 2, "{names:?}");
    // The tokenizer written from the GGUF header is the one of the same model's directory.
    let directory = bench.path("directory");
    model.write_directory(&directory);
    let read = |path: &Utf8Path| -> Value { serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap() };
    let [gguf, written, original] =
        [&base, &out, &directory].map(|path| Tokenizer::from_model(path).expect("a tokenizer"));
    for text in
        ["The quick brown fox is 1234 years old.", "<|im_start|>user\nhé 🎻\t  x<|im_end|>\n", "", "   ", "\r\n12a"]
    {
        let ids = gguf.encode(text, true).unwrap();
        assert_eq!(written.encode(text, true).unwrap(), ids, "{text}");
        assert_eq!(original.encode(text, true).unwrap(), ids, "{text}");
    }
    assert_eq!((written.bos_id(), written.eos_ids()), (original.bos_id(), original.eos_ids()));
    assert_eq!(
        read(&out.join("tokenizer_config.json"))["chat_template"],
        read(&directory.join("tokenizer_config.json"))["chat_template"]
    );
}

#[test]
fn companions_of_a_directory_are_copied_verbatim() {
    let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &TinyAdapter::new(5));
    let done = setup.run(&json!({})).expect("a merge");
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let (from, to) = (setup.base.join(name), done.out.join("model").join(name));
        assert_eq!(fs_err::read(from).unwrap(), fs_err::read(to).unwrap(), "{name}");
    }
    let (config, _) = read_config_json(&done.out.join("model")).unwrap();
    assert_eq!(config["torch_dtype"], "bfloat16");
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let digest = |threads: usize| {
        let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &TinyAdapter::new(5));
        setup.bench.threads = threads;
        digest_path(&setup.run(&json!({})).expect("a merge").out.join("model")).unwrap().0
    };
    assert_eq!(digest(1), digest(3));
}

#[test]
fn a_tied_head_is_refused_or_untied() {
    let mut setup = Setup::new(TinyModel::new(1).tied()).adapter("adapter", &TinyAdapter::new(5));
    let tensors: Tensors = [("lora_A", vec![4, 64], 0.1), ("lora_B", vec![304, 4], 0.2)]
        .into_iter()
        .map(|(factor, shape, value)| {
            let count = shape.iter().product();
            (format!("base_model.model.lm_head.{factor}.weight"), shape, vec![value; count])
        })
        .collect();
    write_safetensors(&setup.bench.path("adapter").join("adapter_model.safetensors"), &tensors);
    let refusal = setup.text(&json!({"dtype": "f32"}));
    let done = setup.run(&json!({"dtype": "f32", "untie": true})).expect("a merge");
    let (base, merged) = (read_all(&setup.base), read_all(&done.out.join("model")));
    assert_eq!(merged.len(), base.len() + 1);
    assert_eq!(find(&merged, EMBEDDING).2, find(&base, EMBEDDING).2);
    for (after, before) in find(&merged, HEAD).2.iter().zip(&find(&base, EMBEDDING).2) {
        assert!((after - before - 2.0 * 4.0 * 0.02).abs() < 1e-6);
    }
    insta::assert_snapshot!(refusal, @r##"
merge::tied: adapter `adapters.adapter` changes `lm_head.weight`, but the model ties its head to its embedding: the merged model would lose the change or make it twice
  hint: set `untie: true` to give the merged model a head of its own
"##);
}

#[test]
fn a_tensor_saved_whole_replaces_the_weight() {
    let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &TinyAdapter::new(5));
    let mut tensors = TinyAdapter::new(5).tensors(&setup.model);
    tensors.push(("base_model.model.lm_head.weight".to_owned(), vec![304, 64], vec![0.25; 304 * 64]));
    write_safetensors(&setup.bench.path("adapter").join("adapter_model.safetensors"), &tensors);
    let done = setup.run(&json!({"dtype": "f32"})).expect("a merge");
    assert!(find(&read_all(&done.out.join("model")), HEAD).2.iter().all(|value| *value == 0.25));
}

/// The refusal of an adapter with this configuration.
fn refused_config(config: Value) -> String {
    let adapter = TinyAdapter { config, ..TinyAdapter::new(5) };
    Setup::new(TinyModel::new(1)).adapter("adapter", &adapter).text(&json!({}))
}

/// The refusal of an adapter with these tensors besides its own.
fn refused_tensor(name: &str, shape: &[usize]) -> String {
    let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &TinyAdapter::new(5));
    let mut tensors = TinyAdapter::new(5).tensors(&setup.model);
    tensors.push((name.to_owned(), shape.to_vec(), vec![0.5; shape.iter().product()]));
    write_safetensors(&setup.bench.path("adapter").join("adapter_model.safetensors"), &tensors);
    setup.text(&json!({}))
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let two = |with: Value, stamp: Option<Value>| {
        let second = TinyAdapter { stamp, ..TinyAdapter::new(6) };
        Setup::new(TinyModel::new(1)).adapter("one", &TinyAdapter::new(5)).adapter("two", &second).text(&with)
    };
    let texts = [
        refused_config(json!({"peft_type": "IA3"})),
        refused_config(json!({"bias": "all"})),
        refused_config(json!({"fan_in_fan_out": true})),
        refused_config(json!({"init_lora_weights": "pissa_niter_4"})),
        refused_config(json!({"alora_invocation_tokens": [1, 2]})),
        refused_config(json!({"use_dora": true})),
        refused_config(json!({"r": 8})),
        refused_config(json!({"alpha_pattern": {"(?!q)": 1}})),
        refused_config(json!({"lora_alpha": null})),
        refused_tensor("base_model.model.model.layers.0.self_attn.k_proj.lora_A.default.weight", &[4, 64]),
        refused_tensor("base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight", &[4, 64]),
        refused_tensor("base_model.model.model.embed_tokens.weight", &[305, 64]),
        two(json!({"weights": [1.0]}), None),
        two(json!({}), Some(json!({"base": "0".repeat(64), "quantizer": "none"}))),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r##"
adapter::unsupported: the adapter `adapters.adapter` is of type `IA3`, expected `LORA`; used here it would give another model than was trained
  hint: merge it with PEFT's `merge_and_unload` and use the merged model
adapter::unsupported: the adapter `adapters.adapter` trains biases; used here it would give another model than was trained
  hint: merge it with PEFT's `merge_and_unload` and use the merged model
adapter::unsupported: the adapter `adapters.adapter` sets `fan_in_fan_out`; used here it would give another model than was trained
  hint: merge it with PEFT's `merge_and_unload` and use the merged model
adapter::unsupported: the adapter `adapters.adapter` was initialised by `pissa_niter_4`, which changes the base weights too; used here it would give another model than was trained
  hint: merge it with PEFT's `merge_and_unload` and use the merged model
adapter::unsupported: the adapter `adapters.adapter` acts only after its `alora_invocation_tokens`; used here it would give another model than was trained
  hint: merge it with PEFT's `merge_and_unload` and use the merged model
adapter::damaged: the adapter `adapters.adapter` uses DoRA but has no magnitudes for `model.layers.0.mlp.down_proj`
  hint: train or download the adapter again
merge::shape: the adapter `adapters.adapter` has `model.layers.0.mlp.down_proj.lora_A.weight` of shape [4, 128], expected [8, 128]
  hint: merge it into the model that it was trained on; resized vocabularies are not supported
adapter::damaged: the adapter `adapters.adapter` has the pattern `(?!q)`, which is not a regular expression that can be used here
  hint: write `rank_pattern` and `alpha_pattern` without look-around
adapter::damaged: DIR/pipeline/adapter/adapter_config.json:6:20: is not a PEFT configuration
  hint: an adapter's configuration has at least `peft_type`, `r` and `lora_alpha`
merge::unknown_tensor: the adapter `adapters.adapter` has the tensor `base_model.model.model.layers.0.self_attn.k_proj.lora_A.default.weight`; expected `base_model.model.….lora_A.weight`, `….lora_B.weight`, `….lora_magnitude_vector` or a weight of the model
  hint: save the adapter with PEFT's `save_pretrained`; LoRA on embeddings is not supported
adapter::damaged: the adapter `adapters.adapter` has only one of lora_A and lora_B for `model.layers.0.self_attn.k_proj`
  hint: train or download the adapter again
merge::shape: the adapter `adapters.adapter` has `base_model.model.model.embed_tokens.weight` of shape [305, 64], expected [304, 64]
  hint: merge it into the model that it was trained on; resized vocabularies are not supported
merge::weights: `weights` has 1 numbers for 2 adapters
  hint: give one number per adapter, in the order of `in.adapters`
merge::other_base: adapter `adapters.adapter` was trained on another base (000000000000) than `model.model` (1ff786a09645)
  hint: connect `model` to the stage that the adapter was trained on, or set `allow_other_base: true`
"##);
}

#[test]
fn another_base_is_merged_only_when_asked() {
    let stamp = Some(json!({"base": "0".repeat(64), "quantizer": "none"}));
    let adapter = TinyAdapter { stamp, ..TinyAdapter::new(5) };
    let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &adapter);
    assert_eq!(setup.error(&json!({})).code, "merge::other_base");
    let done = setup.run(&json!({"allow_other_base": true})).expect("a merge");
    assert_eq!(done.outcome.warnings.len(), 1);
    assert_eq!(setup.error(&json!({"allow_other_base": true, "base": "dequantized"})).code, "merge::other_quantizer");
}

#[test]
fn a_zero_adapter_is_reported() {
    let adapter = TinyAdapter { spread: 0.0, ..TinyAdapter::new(5) };
    let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &adapter);
    let done = setup.run(&json!({})).expect("a merge");
    assert!(done.outcome.warnings[0].starts_with("no weight changed"), "{:?}", done.outcome.warnings);
}

#[test]
fn the_gap_is_the_loss_after_less_the_loss_before() {
    let sample = |seed: u32| TokenSample {
        id: format!("row-{seed}"),
        ids: (0..24).map(|at| (seed * 31 + at * 7) % 300).collect(),
        mask: (0..24).map(|at| at > 8).collect(),
    };
    let samples: Vec<TokenSample> = (1..9).map(sample).collect();
    let meta = TokensMeta {
        version: TokensMeta::VERSION,
        max_length: 32,
        vocab_size: 304,
        tokenizer: luthier_core::Digest::of(b"tokenizer"),
        template: None,
        eos_ids: vec![2],
        packed: false,
        samples: samples.len(),
        bins: samples.len(),
        tokens: 24 * 8,
        trained_tokens: 15 * 8,
        longest: 24,
    };
    let set = TokenSet { bins: (0..8).map(|bin| vec![bin]).collect(), samples, meta };
    let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &TinyAdapter::new(5));
    let path = setup.bench.path("tokens");
    set.write(&path).expect("a token set");
    setup.bench.input("data", ArtifactKind::Tokens, &path);
    let done = setup.run(&json!({"dtype": "f32"})).expect("a merge");
    let metric = |done: &Done, name: &str| done.outcome.metrics[name].value;
    assert!((metric(&done, "loss_base") - metric(&done, "loss_merged")).abs() > 1e-3, "the adapter does something");
    // In f32 only the order of additions differs between applying an adapter and having merged it.
    assert!(metric(&done, "merge_gap").abs() < 1e-4, "{}", metric(&done, "merge_gap"));
    let gap = metric(&done, "loss_merged") - metric(&done, "loss_trained");
    assert_eq!(metric(&done, "merge_gap"), gap);
    let quantized = setup.run(&json!({"dtype": "f32", "base": "dequantized", "gap_samples": 4})).expect("a merge");
    assert!(metric(&quantized, "merge_gap").abs() < 1e-4, "{}", metric(&quantized, "merge_gap"));
    assert_ne!(metric(&quantized, "loss_trained"), metric(&done, "loss_trained"));
}

#[test]
fn configuration_issues_are_found_together() {
    let bench = Bench::new();
    let issues = bench.issues(&MergeStage, &json!({"base": "orignal", "dtype": "f64", "density": 2.0}));
    insta::assert_snapshot!(issues.join("\n"), @r##"
base | `orignal` is not one of `original`, `dequantized` | did you mean `original`?
dtype | `f64` is not one of `f32`, `f16`, `bf16`, `nf4` | -
density | 2.0 is out of range: expected at most 1 | -
"##);
    let issues = bench.issues(&MergeStage, &json!({"density": 0.5, "seed": 3}));
    assert_eq!(issues.len(), 2);
    let issues = bench.issues(&MergeStage, &json!({"method": "ties", "weights": [1.0, -1.0]}));
    insta::assert_snapshot!(issues.join("\n"), @r##"
weights[1] | `ties` needs positive weights | leave the adapter out, or use `method: linear`
"##);
}

#[test]
fn every_field_enters_the_key() {
    let bench = Bench::new();
    let key = |with: Value| bench.prepare(&MergeStage, &with).expect("valid").key;
    let default = key(json!({}));
    for with in [
        json!({"base": "dequantized"}),
        json!({"dtype": "f16"}),
        json!({"method": "ties"}),
        json!({"weights": [0.5]}),
        json!({"method": "dare", "density": 0.25}),
        json!({"method": "dare", "seed": 9}),
        json!({"max_shard": 10}),
        json!({"untie": true}),
        json!({"gap_samples": 3}),
        json!({"allow_other_base": true}),
    ] {
        assert_ne!(key(with.clone()), default, "{with}");
    }
}
