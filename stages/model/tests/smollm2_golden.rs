//! The quickstart's base model against transformers, PEFT and bitsandbytes (tests/golden/smollm2). The model is 98 MB and
//! not in the repository: `LUTHIER_SMOLLM2=path/to/SmolLM2-135M-Instruct.Q4_1.gguf cargo test --release -p luthier-model
//! --test smollm2_golden -- --ignored`.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::Digest;
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokens::{TokenSample, TokenSet, TokensMeta};
use luthier_kernels::device::{CpuDevice, Device};
use luthier_model::adapter::{AdapterSet, Initialization, LoraSpec, Slot, Targets};
use luthier_model::train::{Checkpoint, Duration, OptimizerSpec, Schedule, TrainSpec, Trainer};
use luthier_model::{BaseFormat, Decoder, LanguageModel, LoadOptions, Projection};
use safetensors::SafeTensors;
use serde_json::Value;

const PROJECTIONS: [Projection; 7] = [
    Projection::Query,
    Projection::Key,
    Projection::Value,
    Projection::Output,
    Projection::Gate,
    Projection::Up,
    Projection::Down,
];

struct Golden {
    bytes: Vec<u8>,
    samples: Vec<TokenSample>,
    /// Prompts and their most likely continuations.
    greedy: Vec<[Vec<u32>; 2]>,
}

impl Golden {
    fn new() -> Self {
        let directory = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/smollm2");
        let cases: Value = serde_json::from_slice(&fs_err::read(directory.join("cases.json")).unwrap()).unwrap();
        let samples = cases["samples"].as_array().unwrap().iter().enumerate().map(|(index, sample)| TokenSample {
            id: format!("s{index}"),
            ids: sample["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect(),
            mask: sample["mask"].as_array().unwrap().iter().map(|kept| kept.as_bool().unwrap()).collect(),
        });
        let ids = |value: &Value| value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let greedy =
            cases["greedy"].as_array().unwrap().iter().map(|case| [ids(&case["prompt"]), ids(&case["tokens"])]);
        Self {
            greedy: greedy.collect(),
            samples: samples.collect(),
            bytes: fs_err::read(directory.join("expected.safetensors")).unwrap(),
        }
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let data = file.tensor(name).unwrap();
        data.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
    }

    fn tokens(&self) -> TokenSet {
        let samples = self.samples.clone();
        let meta = TokensMeta {
            version: TokensMeta::VERSION,
            max_length: 64,
            vocab_size: 49152,
            tokenizer: Digest::of(b"none"),
            template: None,
            eos_ids: vec![2],
            packed: false,
            samples: samples.len(),
            bins: samples.len(),
            tokens: samples.iter().map(|sample| sample.ids.len() as u64).sum(),
            trained_tokens: samples.iter().map(|sample| sample.trained() as u64).sum(),
            longest: samples.iter().map(|sample| sample.ids.len()).max().unwrap(),
        };
        TokenSet { bins: (0..samples.len() as u32).map(|index| vec![index]).collect(), samples, meta }
    }
}

fn spec(samples: usize) -> TrainSpec {
    TrainSpec {
        lora: LoraSpec {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: Targets::AllLinear,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            rslora: false,
            dora: false,
            initialization: Initialization::Kaiming,
        },
        optimizer: OptimizerSpec {
            learning_rate: 0.001,
            schedule: Schedule::Constant,
            warmup: 0.0,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 0.0,
            b_ratio: 1.0,
        },
        batch: samples,
        accumulate: 1,
        duration: Duration::Steps(2),
        seed: 1,
        checkpointing: false,
    }
}

/// The ranges of all tensors in the order that the golden file numbers them.
fn numbered(slots: &[Slot], layers: usize) -> Vec<std::ops::Range<usize>> {
    let mut out = Vec::new();
    for layer in 0..layers {
        for projection in PROJECTIONS {
            let slot = slots.iter().find(|slot| slot.layer == layer && slot.projection == projection).unwrap();
            out.extend([slot.a_range(), slot.b_range()]);
        }
    }
    out
}

fn difference(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

fn compare_logits(golden: &Golden, prefix: &str, model: &mut LanguageModel, limit: f64) {
    let mut losses = Vec::new();
    for (index, sample) in golden.samples.iter().enumerate() {
        let all = model.logits(&sample.ids).unwrap();
        let rows: Vec<&[f32]> = all.chunks_exact(49152).collect();
        let slice: Vec<f32> = rows[rows.len().saturating_sub(4)..]
            .iter()
            .flat_map(|row| (0..64usize).map(|k| row[k * 769 % 49152]))
            .collect();
        let seen = difference(&slice, &golden.expected(&format!("{prefix}.slice.{index}")));
        assert!(seen < limit, "{prefix}.slice.{index}: differs by {seen:e}");
        let mut last = rows[rows.len() - 1].to_vec();
        last.sort_by(|a, b| b.total_cmp(a));
        let seen = difference(&last[..20], &golden.expected(&format!("{prefix}.top.{index}")));
        assert!(seen < limit, "{prefix}.top.{index}: differs by {seen:e}");
        let scores = model.token_log_probs(&[&sample.ids]).unwrap().remove(0);
        losses.extend(scores.iter().zip(&sample.mask[1..]).filter(|(_, kept)| **kept).map(|(score, _)| -score));
    }
    let seen = difference(&losses, &golden.expected(&format!("{prefix}.losses")));
    assert!(seen < limit, "{prefix}.losses: differ by {seen:e}");
}

fn compare(path: &Utf8Path, base: BaseFormat, prefix: &str, limits: [f64; 3]) {
    let golden = Golden::new();
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(2).unwrap());
    let files = ModelFiles::open(path).unwrap();
    let load = || Decoder::load(&device, &files, LoadOptions { base, positions: 64 }).unwrap();

    let data = golden.tokens();
    let decoder = load();
    let layers = decoder.config().layers;
    let mut trainer = Trainer::new(&decoder, &data, None, spec(golden.samples.len())).unwrap();
    let ranges = numbered(trainer.adapters().slots(), layers);
    let slots = trainer.adapters().slots().to_vec();
    let mut state = trainer.checkpoint();
    for (number, range) in ranges.iter().enumerate() {
        for (index, value) in state.params[range.clone()].iter_mut().enumerate() {
            *value = ((0.37 * index as f64 + number as f64).sin() * 0.01) as f32;
        }
    }
    let values = state.params.clone();
    trainer.restore(&Checkpoint { step: 0, ..state }).unwrap();

    let first = trainer.compute().unwrap().loss;
    let expected = f64::from(golden.expected(&format!("{prefix}lora.loss"))[0]);
    assert!((first - expected).abs() < limits[1] * expected, "{prefix}lora.loss: {first} and {expected}");
    let gradients = trainer.gradients();
    let norms = golden.expected(&format!("{prefix}lora.gradient_norms"));
    let heads = golden.expected(&format!("{prefix}lora.gradient_heads"));
    assert_eq!(norms.len(), ranges.len());
    for (number, range) in ranges.iter().enumerate() {
        let ours = &gradients[range.clone()];
        let norm = ours.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let theirs = f64::from(norms[number]);
        assert!((norm - theirs).abs() < limits[2] * theirs, "{prefix}tensor {number}: norm {norm} and {theirs}");
        for part in 0..8 {
            let (a, b) = (ours[part * ours.len() / 8], heads[number * 8 + part]);
            assert!(f64::from((a - b).abs()) < limits[2] * theirs, "{prefix}tensor {number} part {part}: {a} and {b}");
        }
    }
    trainer.apply().unwrap();
    let second = trainer.compute().unwrap().loss;
    let expected = f64::from(golden.expected(&format!("{prefix}lora.step_loss"))[0]);
    assert!((second - expected).abs() < 10.0 * limits[1] * expected, "{prefix}lora.step_loss: {second} and {expected}");
    drop(trainer);

    let mut model = LanguageModel::new(decoder, None);
    compare_logits(&golden, &format!("{prefix}base"), &mut model, limits[0]);
    if base == BaseFormat::Stored {
        let prompts: Vec<&[u32]> = golden.greedy.iter().map(|[prompt, _]| prompt.as_slice()).collect();
        for (answer, [_, expected]) in model.generate_greedy(&prompts, 24, &[2]).unwrap().iter().zip(&golden.greedy) {
            let text: Vec<u32> = expected.iter().copied().filter(|id| *id != 2).collect();
            assert_eq!(answer.tokens, text);
        }
    }
    let adapter = AdapterSet::from_values(&device, layers, slots, &values).unwrap();
    model.set_adapter(Some(adapter));
    compare_logits(&golden, &format!("{prefix}lora"), &mut model, limits[0]);
}

fn model() -> Utf8PathBuf {
    std::env::var("LUTHIER_SMOLLM2").expect("LUTHIER_SMOLLM2 names the model").into()
}

#[test]
#[ignore = "needs a 98 MB model: see the module's first lines"]
fn smollm2_as_stored() {
    // Only the order of additions differs, through thirty layers: 5e-5 in logits, 2e-6 in losses, 9e-5 in gradient norms.
    compare(&model(), BaseFormat::Stored, "", [3e-4, 4e-6, 4e-4]);
}

#[test]
#[ignore = "needs a 98 MB model: see the module's first lines"]
fn smollm2_in_nf4() {
    // The golden base was quantised by bitsandbytes on a CPU, ours is as bitsandbytes does on a GPU: the second-level codes
    // of some blocks differ by one, which moves logits by up to 4e-2 and gradient norms by 1.2 %.
    compare(&model(), BaseFormat::Nf4, "nf4.", [0.1, 5e-4, 0.03]);
}
