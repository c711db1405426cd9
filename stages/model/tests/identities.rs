//! What must be equal: to the bit where the order of operations is the same, closely where only the mathematics is.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{Family, TinyModel, lora, relative_error, set, spec, sub, tokens};
use luthier_core::Digest;
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokens::{TokenSample, TokenSet};
use luthier_kernels::device::{Component, CpuDevice, Device};
use luthier_model::adapter::{AdapterFiles, AdapterStamp, Targets, write_adapter};
use luthier_model::memory::{MemoryPlan, RunShape, WeightTypes};
use luthier_model::train::{Checkpoint, StateFormat, TrainSpec, Trainer};
use luthier_model::{BaseFormat, Decoder, LanguageModel, LoadOptions};

fn open(model: &TinyModel, base: BaseFormat, threads: usize) -> Decoder {
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(threads).unwrap());
    let files = ModelFiles::open(model.path()).unwrap();
    Decoder::load(&device, &files, LoadOptions { base, positions: 64 }).unwrap()
}

fn step(trainer: &mut Trainer<'_>) {
    trainer.compute().unwrap();
    trainer.apply().unwrap();
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Values after all steps.
fn run(decoder: &Decoder, data: &TokenSet, spec: TrainSpec) -> Vec<f32> {
    let mut trainer = Trainer::new(decoder, data, None, spec).unwrap();
    while trainer.step() < trainer.total() {
        step(&mut trainer);
    }
    trainer.values()
}

fn full_spec(steps: u64) -> TrainSpec {
    let mut spec = spec(lora(Targets::AllLinear), steps, 3, 2);
    spec.lora.dropout = 0.1;
    spec.optimizer.warmup = 2.0;
    spec
}

#[test]
fn threads_do_not_change_a_bit() {
    let (model, data) = (TinyModel::new(Family::LlamaTied), tokens(11, 1, 3));
    let results: Vec<Vec<u32>> =
        [1, 2, 3, 5].map(|threads| bits(&run(&open(&model, BaseFormat::Nf4, threads), &data, full_spec(4)))).to_vec();
    assert!(results.iter().all(|result| *result == results[0]));
    let rich: Vec<Vec<u32>> = [1, 2, 3, 5]
        .map(|threads| bits(&run(&open(&model, BaseFormat::Nf4, threads), &data, rich_spec(&model, 4))))
        .to_vec();
    assert!(rich.iter().all(|result| *result == rich[0]));
    let dropped: Vec<Vec<u32>> = [1, 3]
        .map(|threads| bits(&run(&open(&model, BaseFormat::Nf4, threads), &data, dropped_spec(&model, 3))))
        .to_vec();
    assert_eq!(dropped[0], dropped[1]);
}

/// DoRA, NEFTune, LoRA+ and 8-bit states in a mapped file; ranks that leave tensors on both sides of the 8-bit limit.
fn rich_spec(model: &TinyModel, steps: u64) -> TrainSpec {
    let mut spec = spec(lora(Targets::AllLinear), steps, 3, 2);
    spec.lora.dora = true;
    spec.lora.rank_pattern.insert("gate_proj".to_owned(), 130);
    spec.neftune = 5.0;
    spec.optimizer.b_ratio = 4.0;
    spec.optimizer.states = StateFormat::Blocks8;
    spec.pages = Some(sub(model, "pages"));
    spec
}

/// DoRA under dropout.
fn dropped_spec(model: &TinyModel, steps: u64) -> TrainSpec {
    let mut spec = rich_spec(model, steps);
    spec.lora.dropout = 0.2;
    spec
}

#[test]
fn checkpointing_does_not_change_a_bit() {
    for family in [Family::LlamaTied, Family::Qwen3] {
        let (model, data) = (TinyModel::new(family), tokens(11, 2, 4));
        let decoder = open(&model, BaseFormat::Stored, 2);
        let kept = run(&decoder, &data, full_spec(3));
        let recomputed = run(&decoder, &data, TrainSpec { checkpointing: true, ..full_spec(3) });
        assert_eq!(bits(&kept), bits(&recomputed));
        let kept = run(&decoder, &data, rich_spec(&model, 3));
        let recomputed = run(&decoder, &data, TrainSpec { checkpointing: true, ..rich_spec(&model, 3) });
        assert_eq!(bits(&kept), bits(&recomputed), "with magnitudes");
        let dropped = run(&decoder, &data, dropped_spec(&model, 3));
        let recomputed = run(&decoder, &data, TrainSpec { checkpointing: true, ..dropped_spec(&model, 3) });
        assert_eq!(bits(&dropped), bits(&recomputed), "with magnitudes and dropout");
        assert_ne!(bits(&dropped), bits(&kept));
    }
}

#[test]
fn noise_is_seeded_scaled_by_length_and_off_in_evaluation() {
    let (model, data) = (TinyModel::new(Family::LlamaTied), tokens(6, 1, 5));
    let decoder = open(&model, BaseFormat::Stored, 2);
    let losses = |neftune: f64, seed: u64| {
        let spec = TrainSpec { neftune, seed, ..spec(lora(Targets::AllLinear), 1, 6, 1) };
        let mut trainer = Trainer::new(&decoder, &data, None, spec).unwrap();
        (trainer.compute().unwrap().loss, trainer.evaluate(&data).unwrap())
    };
    let (plain, evaluated) = losses(0.0, 7);
    let (noisy, evaluated_noisy) = losses(5.0, 7);
    assert_ne!(plain.to_bits(), noisy.to_bits());
    assert!((plain - noisy).abs() < 0.5 * plain, "{plain} {noisy}");
    assert_eq!(evaluated.to_bits(), evaluated_noisy.to_bits());
    assert_eq!(noisy.to_bits(), losses(5.0, 7).0.to_bits());
    assert_ne!(noisy.to_bits(), losses(5.0, 8).0.to_bits());
}

#[test]
fn paged_states_change_no_bit() {
    let (model, data) = (TinyModel::new(Family::LlamaTied), tokens(7, 1, 5));
    let decoder = open(&model, BaseFormat::Stored, 2);
    for states in [StateFormat::F32, StateFormat::Blocks8] {
        let mut paged = rich_spec(&model, 4);
        paged.optimizer.states = states;
        let resident = TrainSpec { pages: None, ..paged.clone() };
        assert_eq!(bits(&run(&decoder, &data, paged)), bits(&run(&decoder, &data, resident)), "{states:?}");
    }
}

#[test]
fn gradients_are_checked_within_the_buffers_of_a_short_run() {
    let model = TinyModel::new(Family::LlamaTied);
    let decoder = open(&model, BaseFormat::Stored, 1);
    // The shortest samples have the most trained tokens, and a run of one step sees one sample.
    let sample = |number: u32, length: usize, trained: usize| TokenSample {
        id: number.to_string(),
        ids: (0..length as u32).map(|at| (3 + 5 * at + number) % 60).collect(),
        mask: (0..length).map(|at| at > 0 && at + trained >= length).collect(),
    };
    let samples = vec![sample(0, 12, 3), sample(1, 10, 9), sample(2, 12, 4), sample(3, 10, 8)];
    let data = set(samples, 1);
    for seed in 0..8 {
        let spec = TrainSpec { seed, ..spec(lora(Targets::AllLinear), 1, 1, 1) };
        Trainer::new(&decoder, &data, None, spec).unwrap().check_gradients().unwrap();
    }
}

#[test]
fn a_tensor_that_no_gradient_reaches_is_refused() {
    let mut model = TinyModel::new(Family::LlamaTied);
    let data = tokens(4, 1, 1);
    let check = |model: &TinyModel, targets: &[&str]| {
        let decoder = open(model, BaseFormat::Stored, 1);
        let names = targets.iter().map(|name| (*name).to_owned()).collect();
        let mut trainer = Trainer::new(&decoder, &data, None, spec(lora(Targets::Names(names)), 1, 2, 1)).unwrap();
        let before = trainer.values();
        let result = trainer.check_gradients();
        assert_eq!(bits(&before), bits(&trainer.values()));
        result
    };
    check(&model, &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]).unwrap();
    model.tensors.get_mut("model.layers.2.self_attn.o_proj.weight").unwrap().1.fill(0.0);
    model.write();
    check(&model, &["q_proj", "o_proj"]).unwrap();
    let error = check(&model, &["v_proj"]).unwrap_err();
    assert_eq!(
        format!("{}: {error} (hint: {})", error.code, error.hints.join("; ")),
        "train::no_gradient: no gradient reaches [`base_model.model.model.layers.2.self_attn.v_proj.lora_A.weight`, \
         `base_model.model.model.layers.2.self_attn.v_proj.lora_B.weight`]: the weights between them and the loss are \
         zero, so they could never be trained (hint: leave these modules out with `targets`, or use the model's original \
         weights)"
    );
}

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    let (model, data) = (TinyModel::new(Family::LlamaTied), tokens(7, 1, 5));
    let decoder = open(&model, BaseFormat::Nf4, 2);
    let (directory, digest) = (sub(&model, "checkpoint"), Digest::of(b"run"));
    let plain = (1..7).map(|stop| (full_spec(7), stop));
    let rich = [2, 5].map(|stop| (rich_spec(&model, 7), stop));
    for (spec, stop) in plain.chain(rich).chain([(dropped_spec(&model, 7), 3)]) {
        let straight = run(&decoder, &data, spec.clone());
        let mut first = Trainer::new(&decoder, &data, None, spec.clone()).unwrap();
        for _ in 0..stop {
            step(&mut first);
        }
        // What a kill in the middle of the next step loses.
        first.checkpoint().save(&directory, digest, &serde_json::Value::Null).unwrap();
        first.compute().unwrap();
        drop(first);
        let mut second = Trainer::new(&decoder, &data, None, spec).unwrap();
        let (checkpoint, _) = Checkpoint::load(&directory, digest).unwrap().unwrap();
        second.restore(&checkpoint).unwrap();
        assert_eq!(second.step(), stop);
        while second.step() < second.total() {
            step(&mut second);
        }
        assert_eq!(bits(&straight), bits(&second.values()), "stopped after {stop}");
        assert_eq!(second.history().len(), 7);
    }
}

/// The gradient and loss of the first step.
fn first_step(decoder: &Decoder, data: &TokenSet, batch: usize, accumulate: usize) -> (f64, Vec<f32>) {
    let mut trainer = Trainer::new(decoder, data, None, spec(lora(Targets::AllLinear), 1, batch, accumulate)).unwrap();
    let mut state = trainer.checkpoint();
    luthier_kernels::random::Stream::new(3, "values").fill_normal(0, 0.0, 0.15, &mut state.params);
    trainer.restore(&state).unwrap();
    let report = trainer.compute().unwrap();
    (report.loss, trainer.gradients())
}

#[test]
fn sixteen_at_once_equal_sixteen_accumulated() {
    let (model, data) = (TinyModel::new(Family::LlamaTied), tokens(16, 1, 6));
    let decoder = open(&model, BaseFormat::Stored, 2);
    let (loss, gradients) = first_step(&decoder, &data, 16, 1);
    let expected: Vec<f64> = gradients.iter().map(|value| f64::from(*value)).collect();
    for (batch, accumulate) in [(1, 16), (4, 4), (5, 4)] {
        if batch * accumulate == 16 {
            let (other_loss, other) = first_step(&decoder, &data, batch, accumulate);
            assert!((loss - other_loss).abs() < 1e-9 * loss, "{batch}×{accumulate}: {loss} and {other_loss}");
            let error = relative_error(&other, &expected);
            assert!(error < 1e-6, "{batch}×{accumulate}: {error:e}");
        }
    }
}

#[test]
fn packed_bins_equal_single_samples() {
    let (model, single) = (TinyModel::new(Family::LlamaTied), tokens(12, 1, 8));
    let packed = set(single.samples.clone(), 4);
    let decoder = open(&model, BaseFormat::Stored, 2);
    let (loss, gradients) = first_step(&decoder, &single, 12, 1);
    let (packed_loss, packed_gradients) = first_step(&decoder, &packed, 3, 1);
    assert!((loss - packed_loss).abs() < 1e-9 * loss);
    let expected: Vec<f64> = gradients.iter().map(|value| f64::from(*value)).collect();
    assert!(relative_error(&packed_gradients, &expected) < 1e-6);
}

#[test]
fn training_learns_a_fixed_mapping() {
    let (model, data) = (TinyModel::new(Family::LlamaTied), tokens(6, 1, 9));
    let decoder = open(&model, BaseFormat::Nf4, 2);
    let mut trainer = Trainer::new(&decoder, &data, None, spec(lora(Targets::AllLinear), 60, 6, 1)).unwrap();
    while trainer.step() < trainer.total() {
        step(&mut trainer);
    }
    let losses: Vec<f64> = trainer.history().iter().map(|record| record.loss).collect();
    assert!(losses[59] < 0.5 * losses[0], "{losses:?}");
    assert!((trainer.evaluate(&data).unwrap() - losses[59]).abs() < 0.2);
}

#[test]
fn adapters_survive_the_disk_and_name_their_base() {
    let (model, data) = (TinyModel::new(Family::LlamaUntied), tokens(5, 1, 10));
    let decoder = open(&model, BaseFormat::Nf4, 1);
    let mut spec = spec(lora(Targets::AllLinear), 2, 5, 1);
    spec.lora.rank_pattern.insert("v_proj".to_owned(), 2);
    spec.lora.alpha_pattern.insert("o_proj".to_owned(), 5.0);
    let mut trainer = Trainer::new(&decoder, &data, None, spec).unwrap();
    step(&mut trainer);
    let (values, slots) = (trainer.values(), trainer.adapters().slots());
    let stamp = AdapterStamp { base: Digest::of(b"base"), quantizer: BaseFormat::Nf4.quantizer_id().to_owned() };
    let files: Vec<Vec<Vec<u8>>> = ["one", "two"]
        .map(|name| {
            let directory = sub(&model, name);
            write_adapter(&directory, &trainer.spec().lora, slots, &values, Some("org/base"), &stamp).unwrap();
            ["adapter_config.json", "adapter_model.safetensors"]
                .map(|file| fs_err::read(directory.join(file)).unwrap())
                .to_vec()
        })
        .to_vec();
    assert_eq!(files[0], files[1]);
    let read = AdapterFiles::open(&sub(&model, "one"), decoder.config()).unwrap();
    assert_eq!((read.stamp, read.base_model.as_deref()), (Some(stamp), Some("org/base")));
    assert_eq!(read.slots.len(), slots.len());
    for (found, expected) in read.slots.iter().zip(slots) {
        assert_eq!((found.layer, found.projection, found.rank), (expected.layer, expected.projection, expected.rank));
        assert_eq!(found.scale, expected.scale);
        assert_eq!(bits(&read.values[found.a_range()]), bits(&values[expected.a_range()]));
        assert_eq!(bits(&read.values[found.b_range()]), bits(&values[expected.b_range()]));
    }
}

#[test]
fn magnitudes_survive_the_disk_and_answer_alike() {
    let (model, data) = (TinyModel::new(Family::Qwen2), tokens(6, 1, 10));
    let decoder = open(&model, BaseFormat::Stored, 1);
    let mut trainer = Trainer::new(&decoder, &data, None, rich_spec(&model, 3)).unwrap();
    while trainer.step() < trainer.total() {
        step(&mut trainer);
    }
    let evaluated = trainer.evaluate(&data).unwrap();
    let (values, slots) = (trainer.values(), trainer.adapters().slots());
    let stamp = AdapterStamp { base: Digest::of(b"base"), quantizer: BaseFormat::Stored.quantizer_id().to_owned() };
    let directory = sub(&model, "adapter");
    write_adapter(&directory, &trainer.spec().lora, slots, &values, None, &stamp).unwrap();
    let read = AdapterFiles::open(&directory, decoder.config()).unwrap();
    for (found, expected) in read.slots.iter().zip(slots) {
        for ((name, shape, range), (other, other_shape, place)) in found.tensors().iter().zip(expected.tensors()) {
            assert_eq!((name, shape), (&other, &other_shape));
            assert_eq!(bits(&read.values[range.clone()]), bits(&values[place]), "{name}");
        }
        assert_eq!(found.tensors().len(), 3);
    }
    let adapters = read.load(decoder.device(), decoder.config()).unwrap();
    let mut tuned = LanguageModel::new(open(&model, BaseFormat::Stored, 1), Some(adapters));
    let ids: Vec<&[u32]> = data.samples.iter().map(|sample| sample.ids.as_slice()).collect();
    let masks: Vec<&[bool]> = data.samples.iter().map(|sample| sample.mask.as_slice()).collect();
    let scored: Vec<f64> = tuned.masked_log_probs(&ids, &masks).unwrap().into_iter().flatten().map(f64::from).collect();
    let loss = -scored.iter().sum::<f64>() / scored.len() as f64;
    assert!((loss - evaluated).abs() < 1e-6 * evaluated, "{loss} {evaluated}");
}

#[test]
fn the_plan_is_what_the_engine_allocates() {
    for (family, base, checkpointing, per_bin) in [
        (Family::LlamaTied, BaseFormat::Nf4, false, 1),
        (Family::LlamaUntied, BaseFormat::Stored, true, 3),
        (Family::Qwen2, BaseFormat::Nf4, true, 2),
        (Family::Qwen3, BaseFormat::Stored, false, 1),
        (Family::Qwen2, BaseFormat::Stored, true, 1),
        (Family::Qwen2, BaseFormat::Nf4, false, 1),
    ] {
        let (model, data) = (TinyModel::new(family), tokens(9, per_bin, 12));
        let decoder = open(&model, base, 1);
        let rich = per_bin == 1 && family == Family::Qwen2;
        let mut spec = TrainSpec { checkpointing, ..if rich { dropped_spec(&model, 2) } else { full_spec(2) } };
        if checkpointing {
            spec.pages = None;
        }
        let files = ModelFiles::open(model.path()).unwrap();
        let types = WeightTypes::of_files(&files, base);
        let plan = MemoryPlan::new(decoder.config(), types, &spec, RunShape::of_data(&data, &spec)).unwrap();
        let mut trainer = Trainer::new(&decoder, &data, None, spec).unwrap();
        step(&mut trainer);
        let ledger = decoder.device().ledger();
        for component in Component::ALL {
            assert_eq!(plan.bytes(component), ledger.peak(component), "{family:?} {component}");
        }
        assert_eq!(plan.total(), ledger.total_peak());
        assert_eq!(plan.paged > 0, rich && !checkpointing);
    }
}

#[test]
fn bad_data_is_refused_before_the_first_step() {
    let model = TinyModel::new(Family::LlamaTied);
    let decoder = open(&model, BaseFormat::Stored, 1);
    let refused = |change: &dyn Fn(&mut TokenSet)| {
        let mut data = tokens(3, 1, 1);
        change(&mut data);
        match Trainer::new(&decoder, &data, None, spec(lora(Targets::AllLinear), 1, 1, 1)) {
            Ok(_) => panic!("accepted"),
            Err(error) => format!("{}: {error} (hint: {})", error.code, error.hints.join("; ")),
        }
    };
    assert_eq!(
        refused(&|data| data.samples.iter_mut().for_each(|sample| sample.mask.fill(false))),
        "train::nothing_to_train: none of the 3 samples has a trained token (hint: look at the loss mask with `luthier \
         data show`; a too small `max_length` can cut all answers away)"
    );
    assert_eq!(
        refused(&|data| data.samples[1].ids[2] = 67),
        "train::token_out_of_vocabulary: sample `s1` holds token id 67, but the model's vocabulary has 67 tokens (hint: \
         the tokens were made with another model's tokenizer; give tokenize the same `model`)"
    );
    let long = |data: &mut TokenSet| {
        data.samples[2].ids = vec![1; 65];
        data.samples[2].mask = vec![true; 65];
    };
    assert_eq!(
        refused(&long),
        "train::sequence_too_long: sample `s2` has 65 tokens, but the model has 64 positions (hint: set `max_length: 64` \
         or less on the tokenize stage)"
    );
}

#[test]
fn bad_targets_list_what_exists() {
    let model = TinyModel::new(Family::LlamaTied);
    let decoder = open(&model, BaseFormat::Stored, 1);
    let data = tokens(3, 1, 1);
    let refused = |targets: Targets| match Trainer::new(&decoder, &data, None, spec(lora(targets), 1, 1, 1)) {
        Ok(_) => panic!("accepted"),
        Err(error) => format!("{}: {error} (hint: {})", error.code, error.hints.join("; ")),
    };
    let exists = "matches no module; each of the 3 layers has [`q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, \
                  `up_proj`, `down_proj`], as in `model.layers.0.self_attn.q_proj`";
    assert_eq!(
        refused(Targets::Names(vec!["q_proj".to_owned(), "v_prj".to_owned()])),
        format!("train::target_matches_nothing: the target `v_prj` {exists} (hint: did you mean `v_proj`?)")
    );
    assert_eq!(
        refused(Targets::Pattern("transformer.*".to_owned())),
        format!(
            "train::target_matches_nothing: the target `transformer.*` {exists} (hint: write `targets: all-linear`, or a \
             list of those names)"
        )
    );
    assert!(refused(Targets::Pattern("(".to_owned())).starts_with("train::pattern: the target `^(?:()$`"));
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    let mut model = TinyModel::new(Family::LlamaTied);
    let name = "model.layers.1.mlp.up_proj.weight";
    model.tensors.get_mut(name).unwrap().1[5] = f32::NAN;
    model.write();
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(1).unwrap());
    let files = ModelFiles::open(model.path()).unwrap();
    for base in [BaseFormat::Stored, BaseFormat::Nf4] {
        let Err(error) = Decoder::load(&device, &files, LoadOptions { base, positions: 8 }) else { panic!("accepted") };
        assert_eq!(error.code, "model::not_finite");
        assert!(error.message.starts_with(&format!("tensor `{name}` of `")), "{error}");
    }
}

/// Samples that begin alike, some prompts longer than others.
fn with_prefix(count: usize, prefix: usize) -> TokenSet {
    let mut data = tokens(count, 1, 21);
    for sample in &mut data.samples {
        let mut ids: Vec<u32> = (0..prefix as u32).map(|index| (5 * index + 3) % 60).collect();
        let mut mask = vec![false; prefix + 1];
        ids.append(&mut sample.ids);
        mask.extend(&sample.mask[1..]);
        (sample.ids, sample.mask) = (ids, mask);
    }
    set(data.samples, 1)
}

#[test]
fn a_shared_prefix_changes_no_bit_of_the_loss_and_no_gradient() {
    for family in [Family::LlamaTied, Family::Qwen3] {
        for checkpointing in [false, true] {
            let (model, data) = (TinyModel::new(family), with_prefix(9, 13));
            let decoder = open(&model, BaseFormat::Stored, 2);
            let compute = |share_prefix: bool| {
                let spec = TrainSpec { share_prefix, checkpointing, ..spec(lora(Targets::AllLinear), 1, 9, 1) };
                let mut trainer = Trainer::new(&decoder, &data, None, spec).unwrap();
                let mut state = trainer.checkpoint();
                luthier_kernels::random::Stream::new(3, "values").fill_normal(0, 0.0, 0.15, &mut state.params);
                trainer.restore(&state).unwrap();
                (trainer.compute().unwrap(), trainer.gradients())
            };
            let ((shared, shared_gradients), (plain, gradients)) = (compute(true), compute(false));
            assert_eq!(shared.computed + 8 * 13, plain.computed);
            assert_eq!(shared.loss.to_bits(), plain.loss.to_bits(), "{family:?}");
            let expected: Vec<f64> = gradients.iter().map(|value| f64::from(*value)).collect();
            let error = relative_error(&shared_gradients, &expected);
            assert!(error < 1e-6, "{family:?}: {error:e}");
        }
    }
}

#[test]
fn the_plan_counts_shared_prefixes() {
    let (model, data) = (TinyModel::new(Family::LlamaTied), with_prefix(9, 13));
    let decoder = open(&model, BaseFormat::Nf4, 1);
    let spec = spec(lora(Targets::AllLinear), 3, 4, 1);
    let files = ModelFiles::open(model.path()).unwrap();
    let types = WeightTypes::of_files(&files, BaseFormat::Nf4);
    let plan = MemoryPlan::new(decoder.config(), types, &spec, RunShape::of_data(&data, &spec)).unwrap();
    let mut trainer = Trainer::new(&decoder, &data, None, spec).unwrap();
    while trainer.step() < trainer.total() {
        step(&mut trainer);
    }
    for component in Component::ALL {
        assert_eq!(plan.bytes(component), decoder.device().ledger().peak(component), "{component}");
    }
}
