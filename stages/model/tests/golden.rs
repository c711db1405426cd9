//! The engine against transformers, PEFT, bitsandbytes and torch's AdamW (`tests/golden/llama`, `tests/golden/smollm2`).
//!
//! Both sides compute in f32 in different orders, so tensors agree within a relative error of their norms: 1e-4 for
//! gradients, as stated for this engine, and a tenth of it for what is one forward pass away.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use common::{relative_error, set};
use luthier_formats::model_files::{ModelConfig, ModelFiles};
use luthier_formats::tokens::{TokenSample, TokenSet};
use luthier_kernels::device::{CpuDevice, Device};
use luthier_model::adapter::{AdapterFiles, Initialization, LoraSpec, Slot, Targets};
use luthier_model::train::{Duration, OptimizerSpec, Schedule, StateFormat, TrainSpec, Trainer};
use luthier_model::{BaseFormat, Decoder, LanguageModel, LoadOptions, Projection};
use safetensors::SafeTensors;
use serde_json::Value;

const FORWARD: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;

struct Golden {
    tensors: BTreeMap<String, Vec<f64>>,
}

impl Golden {
    fn open(path: &Utf8Path) -> Self {
        let bytes = fs_err::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let floats = |four: &[u8]| f64::from(f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
            let whole = |four: &[u8]| f64::from(i32::from_le_bytes([four[0], four[1], four[2], four[3]]));
            let values = match view.dtype() {
                safetensors::Dtype::F32 => view.data().chunks_exact(4).map(floats).collect(),
                safetensors::Dtype::I32 => view.data().chunks_exact(4).map(whole).collect(),
                other => panic!("{name} is {other:?}"),
            };
            (name, values)
        });
        Self { tensors: tensors.collect() }
    }

    fn get(&self, name: &str) -> &[f64] {
        self.tensors.get(name).unwrap_or_else(|| panic!("no golden tensor `{name}`"))
    }
}

fn close(what: &str, found: &[f32], expected: &[f64], bound: f64) {
    let error = relative_error(found, expected);
    assert!(error < bound, "{what}: relative error {error:e}, bound {bound:e}");
}

fn golden_directory(name: &str) -> Utf8PathBuf {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn read_json(path: &Utf8Path) -> Value {
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}

fn samples(json: &Value) -> TokenSet {
    let sample = |(index, json): (usize, &Value)| TokenSample {
        id: format!("s{index}"),
        ids: serde_json::from_value(json["ids"].clone()).unwrap(),
        mask: serde_json::from_value(json["mask"].clone()).unwrap(),
    };
    set(json.as_array().unwrap().iter().enumerate().map(sample).collect(), 1)
}

fn decoder(path: &Utf8Path, base: BaseFormat) -> Decoder {
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(2).unwrap());
    let files = ModelFiles::open(path).unwrap();
    Decoder::load(&device, &files, LoadOptions { base, positions: 256 }).unwrap()
}

fn spec(lora: LoraSpec, learning_rate: f64, weight_decay: f64, batch: usize) -> TrainSpec {
    TrainSpec {
        lora,
        optimizer: OptimizerSpec {
            learning_rate,
            schedule: Schedule::Constant,
            decay_steps: None,
            warmup: 0.0,
            weight_decay,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 0.0,
            b_ratio: 1.0,
            states: StateFormat::F32,
        },
        batch,
        accumulate: 1,
        duration: Duration::Steps(3),
        seed: 0,
        checkpointing: false,
        share_prefix: true,
        neftune: 0.0,
        pages: None,
        offload: false,
    }
}

/// The adapter's shape as its PEFT configuration says.
fn lora_of(config: &Value) -> LoraSpec {
    LoraSpec {
        rank: config["r"].as_u64().unwrap() as usize,
        alpha: config["lora_alpha"].as_f64().unwrap(),
        dropout: config["lora_dropout"].as_f64().unwrap(),
        targets: Targets::Names(serde_json::from_value(config["target_modules"].clone()).unwrap()),
        layers: serde_json::from_value(config["layers_to_transform"].clone()).unwrap(),
        rank_pattern: serde_json::from_value(config["rank_pattern"].clone()).unwrap(),
        alpha_pattern: serde_json::from_value(config["alpha_pattern"].clone()).unwrap(),
        rslora: config["use_rslora"].as_bool().unwrap(),
        dora: config["use_dora"].as_bool().unwrap(),
        initialization: Initialization::Kaiming,
    }
}

/// Sets the trainer's parameters, tensor by tensor.
fn set_values(trainer: &mut Trainer<'_>, mut value: impl FnMut(&Slot, usize) -> Vec<f32>) {
    let mut state = trainer.checkpoint();
    for slot in trainer.adapters().slots() {
        state.params[slot.a_range()].copy_from_slice(&value(slot, 0));
        state.params[slot.b_range()].copy_from_slice(&value(slot, 1));
        if let Some(start) = slot.magnitude {
            state.params[start..start + slot.outputs].copy_from_slice(&value(slot, 2));
        }
    }
    trainer.restore(&state).unwrap();
}

fn check_forward(golden: &Golden, prefix: &str, model: &mut LanguageModel, data: &TokenSet) {
    for (index, sample) in data.samples.iter().enumerate() {
        let logits = model.logits(&sample.ids).unwrap();
        close(&format!("{prefix} logits {index}"), &logits, golden.get(&format!("{prefix}.logits.{index}")), FORWARD);
    }
    check_losses(golden, prefix, model, data, FORWARD);
}

fn check_losses(golden: &Golden, prefix: &str, model: &mut LanguageModel, data: &TokenSet, bound: f64) {
    let ids: Vec<&[u32]> = data.samples.iter().map(|sample| sample.ids.as_slice()).collect();
    let masks: Vec<&[bool]> = data.samples.iter().map(|sample| sample.mask.as_slice()).collect();
    let scored = model.masked_log_probs(&ids, &masks).unwrap();
    let losses: Vec<f32> = scored.iter().flatten().map(|value| -value).collect();
    close(&format!("{prefix} losses"), &losses, golden.get(&format!("{prefix}.losses")), bound);
    let mean = losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64;
    let expected = golden.get(&format!("{prefix}.loss"))[0];
    assert!((mean - expected).abs() < bound * expected, "{prefix} loss {mean} expected {expected}");
}

fn check_values(what: &str, golden: &Golden, prefix: &str, slots: &[Slot], values: &[f32], bound: f64) {
    for slot in slots {
        for (name, _, range) in slot.tensors() {
            close(&format!("{what} {name}"), &values[range], golden.get(&format!("{prefix}{name}")), bound);
        }
    }
}

fn check_model(name: &str, cases: &Value) {
    let directory = golden_directory("llama").join(name);
    let golden = Golden::open(&directory.join("expected.safetensors"));
    let data = samples(&cases["sequences"]);
    let adapter = directory.join("adapter");
    let lora = lora_of(&read_json(&adapter.join("adapter_config.json")));
    let bases: &[(BaseFormat, &str)] = if name == "llama" {
        &[(BaseFormat::Stored, ""), (BaseFormat::Nf4, "nf4.")]
    } else {
        &[(BaseFormat::Stored, "")]
    };
    for (base, prefix) in bases {
        let mut plain = LanguageModel::new(decoder(&directory, *base), None);
        check_forward(&golden, &format!("{prefix}base"), &mut plain, &data);
        let decoder = decoder(&directory, *base);
        let files = AdapterFiles::open(&adapter, decoder.config()).unwrap();

        let mut trainer =
            Trainer::new(&decoder, &data, None, spec(lora.clone(), 0.01, 0.1, data.samples.len())).unwrap();
        set_values(&mut trainer, |slot, side| value_of(&files, slot, side));
        let slots = trainer.adapters().slots().to_vec();
        let losses = golden.get(&format!("{prefix}lora.step_losses"));
        for (step, expected) in losses[..3].iter().enumerate() {
            let report = trainer.compute().unwrap();
            assert!(
                (report.loss - expected).abs() < 1e-4 * expected,
                "{name} step {step}: {} expected {expected}",
                report.loss
            );
            if step == 0 {
                let what = format!("{name} {prefix}gradient");
                check_values(
                    &what,
                    &golden,
                    &format!("{prefix}lora.gradient."),
                    &slots,
                    &trainer.gradients(),
                    GRADIENT,
                );
            }
            trainer.apply().unwrap();
            let kept = prefix.is_empty() && (step == 2 || step == 0 && name == "llama");
            if kept {
                // AdamW divides by the gradient's own size, so a tiny gradient's rounding becomes a whole step: after
                // three steps the parameters agree less closely than the gradients do.
                let what = format!("{name} after step {}", step + 1);
                check_values(&what, &golden, &format!("step{}.", step + 1), &slots, &trainer.values(), 1e-3);
            }
        }
        let last = trainer.evaluate(&data).unwrap();
        assert!((last - losses[3]).abs() < 1e-3 * losses[3], "{name} last loss {last} expected {}", losses[3]);
        drop(trainer);
        let adapters = files.load(decoder.device(), decoder.config()).unwrap();
        let mut tuned = LanguageModel::new(decoder, Some(adapters));
        check_forward(&golden, &format!("{prefix}lora"), &mut tuned, &data);
    }
    check_greedy(name, cases, &directory);
}

fn value_of(files: &AdapterFiles, slot: &Slot, side: usize) -> Vec<f32> {
    let same = |other: &&Slot| (other.layer, other.projection) == (slot.layer, slot.projection);
    let found = files.slots.iter().find(same).expect("an adapter for every slot");
    assert_eq!(found.scale, slot.scale, "the scale read from the file is that of the specification");
    let [(_, _, a), (_, _, b), magnitude @ ..] = &found.tensors()[..] else { unreachable!("two factors at least") };
    let range = match side {
        0 => a,
        1 => b,
        _ => &magnitude[0].2,
    };
    files.values[range.clone()].to_vec()
}

/// transformers' greedy continuations, which end with the stop token where there is one.
fn check_greedy(name: &str, cases: &Value, directory: &Utf8Path) {
    let mut model = LanguageModel::new(decoder(directory, BaseFormat::Stored), None);
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let greedy = cases["greedy"].as_array().unwrap();
    let prompts: Vec<Vec<u32>> = greedy.iter().map(|one| ids(&one["prompt"])).collect();
    let generated = model.generate_greedy(&prompts, 16, &[2]).unwrap();
    for (found, expected) in generated.iter().zip(greedy) {
        let expected: Vec<u32> = ids(&expected["tokens"]).into_iter().take_while(|id| *id != 2).collect();
        assert_eq!(found.tokens, expected, "{name}");
    }
}

#[test]
fn small_models_agree_with_transformers_and_peft() {
    let cases = read_json(&golden_directory("llama").join("cases.json"));
    for name in ["llama", "llama_tied", "llama_scaled_rope", "mistral", "qwen2", "qwen3"] {
        check_model(name, &cases[name]);
    }
}

/// DoRA, rsLoRA and patterns, on all seven projections, with and without biases (`tests/golden/methods`).
#[test]
fn methods_agree_with_peft() {
    let golden = |name: &str| read_json(&golden_directory("methods").join(name));
    for (name, base) in golden("cases.json").as_object().unwrap() {
        check_method(name, base.as_str().unwrap(), usize::MAX);
    }
}

/// PEFT's layers with Luthier's masks in them: LoRA and DoRA under dropout.
#[test]
fn dropout_agrees_with_peft() {
    for (name, base) in read_json(&golden_directory("methods").join("dropout.json")).as_object().unwrap() {
        check_method(name, base.as_str().unwrap(), 1);
    }
}

/// Trains on the first `sequences` and runs all of them.
fn check_method(name: &str, base: &str, sequences: usize) {
    let root = golden_directory("methods");
    let cases = read_json(&golden_directory("llama").join("cases.json"));
    let golden = Golden::open(&root.join(name).join("expected.safetensors"));
    let all = samples(&cases[base]["sequences"]);
    let data = set(all.samples.iter().take(sequences).cloned().collect(), 1);
    let adapter = root.join(name).join("adapter");
    let lora = lora_of(&read_json(&adapter.join("adapter_config.json")));
    let decoder = decoder(&golden_directory("llama").join(base), BaseFormat::Stored);
    let files = AdapterFiles::open(&adapter, decoder.config()).unwrap();
    let mut trainer = Trainer::new(&decoder, &data, None, spec(lora, 0.01, 0.1, data.samples.len())).unwrap();
    let slots = trainer.adapters().slots().to_vec();
    assert_eq!(files.slots.len(), slots.len(), "{name}");
    let initial = trainer.values();
    for slot in &slots {
        for (tensor, _, range) in slot.tensors().into_iter().skip(2) {
            let expected = golden.get(&format!("initial.{tensor}"));
            close(&format!("{name} initial {tensor}"), &initial[range], expected, 1e-6);
        }
    }
    trainer.check_gradients().unwrap();
    assert_eq!(trainer.values(), initial, "{name}: the probe leaves no trace");
    set_values(&mut trainer, |slot, side| value_of(&files, slot, side));
    let losses = golden.get("lora.step_losses");
    for (step, expected) in losses[..3].iter().enumerate() {
        let report = trainer.compute().unwrap();
        assert!((report.loss - expected).abs() < 1e-4 * expected, "{name} step {step}: {} {expected}", report.loss);
        if step == 0 {
            let gradients = trainer.gradients();
            check_values(&format!("{name} gradient"), &golden, "lora.gradient.", &slots, &gradients, GRADIENT);
        }
        trainer.apply().unwrap();
    }
    check_values(&format!("{name} after step 3"), &golden, "step3.", &slots, &trainer.values(), 1e-3);
    let last = trainer.evaluate(&data).unwrap();
    assert!((last - losses[3]).abs() < 1e-3 * losses[3], "{name} last loss {last} expected {}", losses[3]);
    drop(trainer);
    let adapters = files.load(decoder.device(), decoder.config()).unwrap();
    check_forward(&golden, "lora", &mut LanguageModel::new(decoder, Some(adapters)), &all);
}

/// Three steps of bitsandbytes' block-wise 8-bit AdamW: parameters, codes and scales.
#[test]
fn eight_bit_adamw_agrees_with_bitsandbytes() {
    use luthier_kernels::nf4::{dynamic_map, unsigned_dynamic_map};
    use luthier_kernels::optimizer::AdamW;
    use luthier_kernels::optimizer_8bit::{Moment8, adamw_8bit};

    let golden = Golden::open(&golden_directory("methods").join("adamw8bit.safetensors"));
    let floats = |name: &str| golden.get(name).iter().map(|value| *value as f32).collect::<Vec<f32>>();
    assert_eq!(dynamic_map().to_vec(), floats("signed"));
    assert_eq!(unsigned_dynamic_map().to_vec(), floats("unsigned"));
    let (mut codes, mut scales) = ([vec![0u8; 5000], vec![0u8; 5000]], [vec![0f32; 20], vec![0f32; 20]]);
    let mut params = floats("params.0");
    for step in 1..=3u64 {
        let config = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step };
        let ([c1, c2], [s1, s2]) = (&mut codes, &mut scales);
        let first = Moment8 { codes: c1, scales: s1 };
        adamw_8bit(
            &mut params,
            &floats(&format!("grads.{step}")),
            first,
            Moment8 { codes: c2, scales: s2 },
            &config.factors(),
        );
        close(&format!("step {step} params"), &params, golden.get(&format!("params.{step}")), 1e-6);
        for moment in 0..2 {
            let expected = golden.get(&format!("codes{}.{step}", moment + 1));
            let other = codes[moment].iter().zip(expected).filter(|(a, b)| (f64::from(**a) - **b).abs() > 0.5).count();
            // torch may fuse or reorder an operation, so a moment within an ulp of a midpoint can take the code beside.
            assert!(other <= 5, "step {step}: {other} codes of moment {} differ", moment + 1);
            close("scales", &scales[moment], golden.get(&format!("scales{}.{step}", moment + 1)), 1e-6);
        }
        // Each step starts from the same states, so a code beside is not carried on.
        for moment in 0..2 {
            codes[moment] = golden.get(&format!("codes{}.{step}", moment + 1)).iter().map(|code| *code as u8).collect();
            scales[moment] = floats(&format!("scales{}.{step}", moment + 1));
        }
        params = floats(&format!("params.{step}"));
    }
}

/// Models that transformers saved in bitsandbytes' 4-bit layout (`tests/golden/bnb4`).
#[test]
fn four_bit_checkpoints_are_read_as_they_are() {
    let root = golden_directory("bnb4");
    let golden = Golden::open(&root.join("expected.safetensors"));
    let data = samples(&read_json(&golden_directory("llama").join("cases.json"))["llama"]["sequences"]);
    for name in ["double", "plain"] {
        let files = ModelFiles::open(&root.join(name)).unwrap();
        let mut weights = 0;
        for (weight, spec) in files.specs().iter().filter(|(weight, _)| weight.starts_with("model.layers.1.")) {
            let Some(expected) = golden.tensors.get(&format!("{name}.{weight}")) else { continue };
            let mut values = vec![0f32; spec.shape.iter().product()];
            files.read_f32(weight, &mut values).unwrap();
            assert!(values.iter().zip(expected).all(|(a, b)| f64::from(*a) == *b), "{name} {weight}");
            weights += 1;
        }
        assert_eq!(weights, 7);
        for base in [BaseFormat::Stored, BaseFormat::Nf4] {
            let mut model = LanguageModel::new(decoder(&root.join(name), base), None);
            for (index, sample) in data.samples.iter().enumerate() {
                let logits = model.logits(&sample.ids).unwrap();
                let expected = golden.get(&format!("{name}.logits.{index}"));
                close(&format!("{name} logits {index}"), &logits, expected, FORWARD);
            }
        }
    }
}

/// The formula in `tests/golden/smollm2/make.py`.
fn formula(config: &ModelConfig, slot: &Slot, side: usize) -> Vec<f32> {
    let _ = config;
    let module = Projection::ALL.iter().position(|one| *one == slot.projection).unwrap();
    let number = ((slot.layer * 7 + module) * 2 + side) as f64;
    let len = if side == 0 { slot.a_range().len() } else { slot.b_range().len() };
    (0..len).map(|index| ((0.37 * index as f64 + number).sin() * 0.01) as f32).collect()
}

/// Runs where the quickstart's base model is at hand: set `LUTHIER_SMOLLM2` to the path of its GGUF file.
#[test]
fn smollm2_agrees_with_transformers_and_peft() {
    let Some(path) = std::env::var("LUTHIER_SMOLLM2").ok().map(Utf8PathBuf::from) else {
        println!("skipped: LUTHIER_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf");
        return;
    };
    let directory = golden_directory("smollm2");
    let golden = Golden::open(&directory.join("expected.safetensors"));
    let data = samples(&read_json(&directory.join("cases.json"))["samples"]);
    // The engine quantises as bitsandbytes does on a GPU; the golden file was made by its CPU code, which takes the codes of
    // 0.2 % of the scales from another rounding. That tells in the third decimal; the small models, with one block of
    // scales per matrix, agree to the bounds above through NF4 too.
    for (base, prefix, forward, gradient) in
        [(BaseFormat::Stored, "", FORWARD, GRADIENT), (BaseFormat::Nf4, "nf4.", 5e-3, 2e-2)]
    {
        let mut plain = LanguageModel::new(decoder(&path, base), None);
        check_losses(&golden, &format!("{prefix}base"), &mut plain, &data, forward);
        check_slices(&golden, &format!("{prefix}base"), &mut plain, &data, 10.0 * forward);
        drop(plain);
        let decoder = decoder(&path, base);
        let lora = LoraSpec {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: Targets::AllLinear,
            layers: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            rslora: false,
            dora: false,
            initialization: Initialization::Kaiming,
        };
        let mut trainer = Trainer::new(&decoder, &data, None, spec(lora, 1e-3, 0.0, data.samples.len())).unwrap();
        set_values(&mut trainer, |slot, side| formula(decoder.config(), slot, side));
        trainer.compute().unwrap();
        let gradients = trainer.gradients();
        let norms = golden.get(&format!("{prefix}lora.gradient_norms"));
        let heads = golden.get(&format!("{prefix}lora.gradient_heads"));
        for slot in trainer.adapters().slots() {
            let module = Projection::ALL.iter().position(|one| *one == slot.projection).unwrap();
            for (side, range) in [(0, slot.a_range()), (1, slot.b_range())] {
                let number = (slot.layer * 7 + module) * 2 + side;
                let values = &gradients[range];
                let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
                let what = format!("{prefix} gradient {number}");
                assert!((norm - norms[number]).abs() < gradient * norms[number], "{what}: {norm} {}", norms[number]);
                for place in 0..8 {
                    let found = f64::from(values[place * values.len() / 8]);
                    let expected = heads[number * 8 + place];
                    // One element against its tensor's norm: a relative bound on each would be one on its rounding.
                    assert!((found - expected).abs() < gradient * norms[number], "{what}[{place}]: {found} {expected}");
                }
            }
        }
        trainer.apply().unwrap();
        let loss = trainer.evaluate(&data).unwrap();
        let expected = golden.get(&format!("{prefix}lora.step_loss"))[0];
        assert!(
            (loss - expected).abs() < 1e-3_f64.max(forward) * expected,
            "{prefix} step loss {loss} expected {expected}"
        );
    }
}

fn check_slices(golden: &Golden, prefix: &str, model: &mut LanguageModel, data: &TokenSet, bound: f64) {
    let vocabulary = model.config().vocab_size;
    for (index, sample) in data.samples.iter().enumerate() {
        let logits = model.logits(&sample.ids).unwrap();
        let rows = sample.ids.len().min(4);
        let first = sample.ids.len() - rows;
        let slice: Vec<f32> = (first..sample.ids.len())
            .flat_map(|row| (0..64).map(move |k| row * vocabulary + k * 769 % 49152))
            .map(|place| logits[place])
            .collect();
        close(&format!("{prefix} slice {index}"), &slice, golden.get(&format!("{prefix}.slice.{index}")), bound);
        let last = &logits[(sample.ids.len() - 1) * vocabulary..];
        let ids = golden.get(&format!("{prefix}.top_ids.{index}"));
        let top: Vec<f32> = ids.iter().map(|id| last[*id as usize]).collect();
        close(&format!("{prefix} top {index}"), &top, golden.get(&format!("{prefix}.top.{index}")), bound);
        assert!(last.iter().all(|value| *value <= top[0]), "{prefix} {index}: another token is the most likely");
    }
}
