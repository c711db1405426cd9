//! Blocks that stay on disk give the bits of blocks in memory, in the memory that the plan says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod common;

use std::sync::Arc;

use common::{Family, TinyModel, lora, spec, sub, tokens};
use luthier_formats::model_files::ModelFiles;
use luthier_kernels::device::{Component, CpuDevice, Device};
use luthier_model::adapter::{LoraSpec, Targets};
use luthier_model::memory::{MemoryPlan, RunShape, WeightTypes};
use luthier_model::train::{TrainSpec, Trainer};
use luthier_model::{BaseFormat, Decoder, LoadOptions, layer_file, rest_file, write_shards};

const POSITIONS: usize = 64;

fn device() -> Arc<dyn Device> {
    Arc::new(CpuDevice::new(2).unwrap())
}

fn resident(model: &TinyModel) -> Decoder {
    let files = ModelFiles::open(model.path()).unwrap();
    Decoder::load(&device(), &files, LoadOptions { base: BaseFormat::Nf4, positions: POSITIONS }).unwrap()
}

fn streamed(model: &TinyModel, device: &Arc<dyn Device>) -> Decoder {
    let files = ModelFiles::open(model.path()).unwrap();
    let directory = sub(model, "shards");
    write_shards(&files, &directory).unwrap();
    Decoder::stream(device, files.config(), &directory, POSITIONS).unwrap()
}

/// Losses, validation loss and the values after all steps, as bits.
fn run(decoder: &Decoder, spec: TrainSpec) -> (Vec<u64>, Vec<u32>) {
    let (data, validation) = (tokens(9, 1, 3), tokens(4, 1, 8));
    let mut trainer = Trainer::new(decoder, &data, Some(&validation), spec).unwrap();
    let mut losses = Vec::new();
    while trainer.step() < trainer.total() {
        losses.push(trainer.compute().unwrap().loss.to_bits());
        trainer.apply().unwrap();
        losses.push(trainer.evaluate(&validation).unwrap().to_bits());
    }
    (losses, trainer.values().iter().map(|value| value.to_bits()).collect())
}

#[test]
fn a_streamed_run_ends_in_the_bits_of_a_resident_one() {
    for family in [Family::LlamaTied, Family::LlamaUntied, Family::Qwen2, Family::Qwen3] {
        let model = TinyModel::new(family);
        for (checkpointing, dora, targets) in [
            (false, false, Targets::AllLinear),
            (true, false, Targets::AllLinear),
            (true, false, Targets::Pattern(r"model\.layers\.2\..*".to_owned())),
            (false, true, Targets::AllLinear),
        ] {
            let spec = TrainSpec { checkpointing, ..spec(LoraSpec { dora, ..lora(targets) }, 3, 3, 2) };
            let expected = run(&resident(&model), spec.clone());
            assert_eq!(run(&streamed(&model, &device()), spec), expected, "{family:?}, {checkpointing}, {dora}");
        }
    }
}

#[test]
fn two_blocks_are_resident_at_most_and_the_plan_knows() {
    for (layers, dora) in [(1, false), (2, false), (5, false), (5, true)] {
        let model = TinyModel::sized(Family::Qwen2, layers, 32, 48, 4, 2, 8);
        let (device, data) = (device(), tokens(9, 1, 3));
        let decoder = streamed(&model, &device);
        let spec = spec(LoraSpec { dora, ..lora(Targets::AllLinear) }, 2, 3, 1);
        let mut trainer = Trainer::new(&decoder, &data, None, spec.clone()).unwrap();
        for _ in 0..2 {
            trainer.compute().unwrap();
            trainer.apply().unwrap();
        }
        let files = ModelFiles::open(model.path()).unwrap();
        let types = WeightTypes::of_files(&files, BaseFormat::Nf4);
        let plan = MemoryPlan::new(files.config(), types, &spec, RunShape::of_data(&data, &spec)).unwrap();
        let whole = plan.weights;
        let plan = plan.streamed(files.config(), false);
        assert_eq!(whole - plan.weights, layers.saturating_sub(2) * plan.block);
        for component in Component::ALL.into_iter().filter(|component| *component != Component::Scratch) {
            assert_eq!(device.ledger().peak(component), plan.bytes(component), "{component}, {layers} layers");
        }
        drop(trainer);
        drop(decoder);
        assert_eq!(device.ledger().current(Component::Weights), 0);
    }
}

fn refusal(result: luthier_core::StageResult<Decoder>) -> luthier_core::StageError {
    result.err().expect("the shards were accepted")
}

#[test]
fn shards_that_are_damaged_or_of_another_model_are_refused() {
    let model = TinyModel::new(Family::LlamaUntied);
    let other = TinyModel::sized(Family::LlamaUntied, 3, 64, 48, 4, 2, 8);
    drop(streamed(&model, &device()));
    let directory = sub(&model, "shards");
    let config = ModelFiles::open(other.path()).unwrap().config().clone();
    let error = refusal(Decoder::stream(&device(), &config, &directory, POSITIONS));
    assert_eq!(error.code, "train::damaged_shard");
    assert!(error.message.contains("`model.embed_tokens.weight` does not have the shape"), "{error}");
    assert_eq!(error.hints, [format!("remove the directory, it is made again: rm -r '{directory}'")]);

    let config = ModelFiles::open(model.path()).unwrap().config().clone();
    for path in [layer_file(&directory, 1), rest_file(&directory)] {
        let whole = fs_err::read(&path).unwrap();
        for damaged in [&whole[..whole.len() / 2], &whole[..4], &b"not a shard at all"[..]] {
            fs_err::write(&path, damaged).unwrap();
            let error = refusal(Decoder::stream(&device(), &config, &directory, POSITIONS));
            assert_eq!(error.code, "train::damaged_shard");
            assert!(error.message.contains(path.as_str()), "{error}");
        }
        fs_err::write(&path, whole).unwrap();
    }
    fs_err::remove_file(layer_file(&directory, 2)).unwrap();
    assert!(Decoder::stream(&device(), &config, &directory, POSITIONS).is_err());
    // What is missing is made again, what is there is kept.
    drop(streamed(&model, &device()));
}

#[test]
fn tensors_that_are_stored_as_they_are_kept_stay_in_their_file() {
    let model = TinyModel::sized(Family::LlamaUntied, 1, 1024, 1024, 8, 8, 128);
    let files = ModelFiles::open(model.path()).unwrap();
    let (map, bytes) = files.mapped("model.layers.0.mlp.up_proj.weight").unwrap();
    let expected: Vec<u8> =
        model.tensors["model.layers.0.mlp.up_proj.weight"].1.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(bytes, expected);
    drop(map);
    let device = device();
    let options = LoadOptions { base: BaseFormat::Stored, positions: POSITIONS };
    let decoder = Decoder::load(&device, &files, options).unwrap();
    drop(files);
    let data = tokens(3, 1, 3);
    let spec = spec(lora(Targets::AllLinear), 1, 3, 1);
    let mut trainer = Trainer::new(&decoder, &data, None, spec.clone()).unwrap();
    let loss = trainer.compute().unwrap().loss;
    assert!(loss.is_finite());
    let files = ModelFiles::open(model.path()).unwrap();
    let types = WeightTypes::of_files(&files, BaseFormat::Stored);
    let plan = MemoryPlan::new(files.config(), types, &spec, RunShape::of_data(&data, &spec)).unwrap();
    assert_eq!(device.ledger().peak(Component::Weights), plan.weights);
    drop(trainer);
    drop(decoder);
    assert_eq!(device.ledger().current(Component::Weights), 0);

    let mut broken = model;
    broken.tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().1[77] = f32::NAN;
    broken.write();
    let files = ModelFiles::open(broken.path()).unwrap();
    let error = refusal(Decoder::load(&device, &files, options));
    assert_eq!(error.code, "model::not_finite");
    assert!(error.message.contains("`model.layers.0.mlp.up_proj.weight`"), "{error}");
}
