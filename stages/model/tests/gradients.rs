//! The hand-written backward against candle's autograd in f64, and against finite differences.
//!
//! The reference model is written with candle's elementary operations only: its fused ones have no backward.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, DType, Device as CandleDevice, Tensor, Var};
use common::{Family, TinyModel, lora, relative_error, spec, tokens};
use luthier_formats::model_files::{ModelConfig, ModelFiles};
use luthier_formats::tokens::TokenSet;
use luthier_kernels::device::{CpuDevice, Device};
use luthier_kernels::random::Stream;
use luthier_model::adapter::{Slot, Targets};
use luthier_model::train::{Checkpoint, TrainSpec, Trainer};
use luthier_model::{BaseFormat, Decoder, LoadOptions, Projection};

struct Reference {
    config: ModelConfig,
    weights: BTreeMap<String, Tensor>,
    adapters: BTreeMap<(usize, Projection), Adapter>,
}

struct Adapter {
    a: Var,
    b: Var,
    magnitude: Option<Var>,
    scale: f64,
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    let values: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
    Tensor::from_vec(values, shape, &CandleDevice::Cpu).unwrap()
}

impl Reference {
    fn new(model: &TinyModel, config: &ModelConfig, slots: &[Slot], values: &[f32], base: BaseFormat) -> Self {
        let weights = model.tensors.iter().map(|(name, (shape, values))| {
            let quantized = base == BaseFormat::Nf4 && name.contains("_proj.weight");
            if quantized {
                let packed = luthier_kernels::nf4::quantize(values, shape[0], shape[1], true);
                let mut values = vec![0f32; values.len()];
                luthier_kernels::nf4::dequantize(&packed.view(), 0..shape[0], &mut values);
                (name.clone(), tensor(shape, &values))
            } else {
                (name.clone(), tensor(shape, values))
            }
        });
        let adapters = slots.iter().map(|slot| {
            let a = tensor(&[slot.rank, slot.inputs], &values[slot.a_range()]);
            let b = tensor(&[slot.outputs, slot.rank], &values[slot.b_range()]);
            let var = |tensor: &Tensor| Var::from_tensor(tensor).unwrap();
            let magnitude =
                slot.magnitude.map(|start| var(&tensor(&[slot.outputs], &values[start..start + slot.outputs])));
            let adapter = Adapter { a: var(&a), b: var(&b), magnitude, scale: f64::from(slot.scale) };
            ((slot.layer, slot.projection), adapter)
        });
        Self { config: config.clone(), weights: weights.collect(), adapters: adapters.collect() }
    }

    fn linear(&self, layer: usize, projection: Projection, x: &Tensor) -> Tensor {
        let module = projection.module(layer);
        let weight = &self.weights[&format!("{module}.weight")];
        let mut y = x.matmul(&weight.t().unwrap()).unwrap();
        if let Some(Adapter { a, b, magnitude, scale }) = self.adapters.get(&(layer, projection)) {
            let low = x.matmul(&a.as_tensor().t().unwrap()).unwrap();
            let update = low.matmul(&b.as_tensor().t().unwrap()).unwrap();
            y = (y + (update * *scale).unwrap()).unwrap();
            if let Some(magnitude) = magnitude {
                let change = (b.as_tensor().matmul(a.as_tensor()).unwrap() * *scale).unwrap();
                let norm = (weight + change).unwrap().sqr().unwrap().sum(1).unwrap().sqrt().unwrap().detach();
                y = y.broadcast_mul(&(magnitude.as_tensor() / norm).unwrap()).unwrap();
            }
        }
        if let Some(bias) = self.weights.get(&format!("{module}.bias")) {
            y = y.broadcast_add(bias).unwrap();
        }
        y
    }

    fn norm(&self, name: &str, x: &Tensor) -> Tensor {
        let mean = x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let root = (mean + self.config.rms_eps).unwrap().sqrt().unwrap();
        x.broadcast_div(&root).unwrap().broadcast_mul(&self.weights[name]).unwrap()
    }

    /// `x [heads, tokens, head_dim]`.
    fn rotate(&self, x: &Tensor) -> Tensor {
        let (_, tokens, dim) = x.dims3().unwrap();
        let half = dim / 2;
        let angles: Vec<f64> = (0..tokens)
            .flat_map(|t| (0..half).map(move |i| (t, i)))
            .map(|(t, i)| t as f64 * self.config.rope_theta.powf(-2.0 * i as f64 / dim as f64))
            .collect();
        let angles = Tensor::from_vec(angles, (1, tokens, half), &CandleDevice::Cpu).unwrap();
        let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
        let (low, high) = (x.narrow(2, 0, half).unwrap(), x.narrow(2, half, half).unwrap());
        let first = (low.broadcast_mul(&cos).unwrap() - high.broadcast_mul(&sin).unwrap()).unwrap();
        let second = (high.broadcast_mul(&cos).unwrap() + low.broadcast_mul(&sin).unwrap()).unwrap();
        Tensor::cat(&[first, second], 2).unwrap()
    }

    fn logits(&self, ids: &[u32]) -> Tensor {
        let config = &self.config;
        let tokens = ids.len();
        let index = Tensor::from_vec(ids.to_vec(), tokens, &CandleDevice::Cpu).unwrap();
        let mut x = self.weights["model.embed_tokens.weight"].index_select(&index, 0).unwrap();
        let mask: Vec<f64> = (0..tokens)
            .flat_map(|row| (0..tokens).map(move |col| if col > row { f64::NEG_INFINITY } else { 0.0 }))
            .collect();
        let mask = Tensor::from_vec(mask, (1, tokens, tokens), &CandleDevice::Cpu).unwrap();
        for layer in 0..config.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let normed = self.norm(&name("input_layernorm"), &x);
            let split = |projection, heads: usize| {
                let y = self.linear(layer, projection, &normed);
                y.reshape((tokens, heads, config.head_dim)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap()
            };
            let mut query = split(Projection::Query, config.heads);
            let mut key = split(Projection::Key, config.kv_heads);
            let value = split(Projection::Value, config.kv_heads);
            if config.qk_norm {
                query = self.norm(&name("self_attn.q_norm"), &query);
                key = self.norm(&name("self_attn.k_norm"), &key);
            }
            let (query, key) = (self.rotate(&query), self.rotate(&key));
            let groups = config.heads / config.kv_heads;
            let repeat = |t: &Tensor| {
                let shape = (config.kv_heads, groups, tokens, config.head_dim);
                let wide = t.unsqueeze(1).unwrap().broadcast_as(shape).unwrap().contiguous().unwrap();
                wide.reshape((config.heads, tokens, config.head_dim)).unwrap()
            };
            let (key, value) = (repeat(&key), repeat(&value));
            let scores = query.matmul(&key.transpose(1, 2).unwrap().contiguous().unwrap()).unwrap();
            let scores = (scores / (config.head_dim as f64).sqrt()).unwrap().broadcast_add(&mask).unwrap();
            let exp = scores.broadcast_sub(&scores.max_keepdim(D::Minus1).unwrap().detach()).unwrap().exp().unwrap();
            let weights = exp.broadcast_div(&exp.sum_keepdim(D::Minus1).unwrap()).unwrap();
            let attended = weights.matmul(&value).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
            let attended = attended.reshape((tokens, config.heads * config.head_dim)).unwrap();
            x = (x + self.linear(layer, Projection::Output, &attended)).unwrap();
            let normed = self.norm(&name("post_attention_layernorm"), &x);
            let gate = self.linear(layer, Projection::Gate, &normed);
            let sigmoid = ((gate.neg().unwrap().exp().unwrap() + 1.0).unwrap()).recip().unwrap();
            let active = ((gate * sigmoid).unwrap() * self.linear(layer, Projection::Up, &normed)).unwrap();
            x = (x + self.linear(layer, Projection::Down, &active)).unwrap();
        }
        let normed = self.norm("model.norm.weight", &x);
        let head = self.weights.get("lm_head.weight").unwrap_or(&self.weights["model.embed_tokens.weight"]);
        normed.matmul(&head.t().unwrap()).unwrap()
    }

    /// Sum of losses over the trained tokens of all samples, each run on its own, over their number.
    fn loss(&self, data: &TokenSet) -> Tensor {
        let mut total = Tensor::zeros((), DType::F64, &CandleDevice::Cpu).unwrap();
        let mut count = 0;
        for sample in &data.samples {
            let logits = self.logits(&sample.ids);
            for index in (1..sample.ids.len()).filter(|index| sample.mask[*index]) {
                let row = logits.narrow(0, index - 1, 1).unwrap().squeeze(0).unwrap();
                let top = row.max(0).unwrap().detach();
                let total_exp = row.broadcast_sub(&top).unwrap().exp().unwrap().sum_all().unwrap();
                let target = row.narrow(0, sample.ids[index] as usize, 1).unwrap().squeeze(0).unwrap();
                total = (total + ((total_exp.log().unwrap() + top).unwrap() - target).unwrap()).unwrap();
                count += 1;
            }
        }
        (total / f64::from(count)).unwrap()
    }
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn decoder(model: &TinyModel, base: BaseFormat, threads: usize) -> Decoder {
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(threads).unwrap());
    let files = ModelFiles::open(model.path()).unwrap();
    Decoder::load(&device, &files, LoadOptions { base, positions: 64 }).unwrap()
}

/// Random values for `A` and `B`, so that no gradient is zero by construction.
fn randomize(trainer: &mut Trainer<'_>) -> Vec<f32> {
    let mut state = trainer.checkpoint();
    Stream::new(3, "values").fill_normal(0, 0.0, 0.15, &mut state.params);
    let values = state.params.clone();
    trainer.restore(&Checkpoint { step: 0, ..state }).unwrap();
    values
}

fn compare(family: Family, base: BaseFormat, targets: Targets, change: impl Fn(&mut TrainSpec)) {
    let model = TinyModel::new(family);
    let decoder = decoder(&model, base, 2);
    let data = tokens(5, 1, 1);
    let mut spec = spec(lora(targets), 1, 5, 1);
    change(&mut spec);
    let mut trainer = Trainer::new(&decoder, &data, None, spec).unwrap();
    let values = randomize(&mut trainer);
    let report = trainer.compute().unwrap();
    let gradients = trainer.gradients();

    let slots = trainer.adapters().slots();
    let reference = Reference::new(&model, decoder.config(), slots, &values, base);
    let loss = reference.loss(&data);
    let expected: f64 = loss.to_scalar().unwrap();
    assert!((report.loss - expected).abs() < 1e-5 * expected, "{family:?}: loss {} expected {expected}", report.loss);
    let store = loss.backward().unwrap();
    for slot in slots {
        let adapter = &reference.adapters[&(slot.layer, slot.projection)];
        let magnitude =
            slot.magnitude.map(|start| ("m", start..start + slot.outputs, adapter.magnitude.as_ref().unwrap()));
        let factors = [("A", slot.a_range(), &adapter.a), ("B", slot.b_range(), &adapter.b)];
        for (name, range, var) in factors.into_iter().chain(magnitude) {
            let expected = flat(store.get(var.as_tensor()).expect("a gradient"));
            let error = relative_error(&gradients[range], &expected);
            let size = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!(size > 1e-8, "{family:?} layer {} {:?} {name} has no gradient", slot.layer, slot.projection);
            assert!(
                error < 2e-5,
                "{family:?} layer {} {:?} {name}: relative error {error:e}",
                slot.layer,
                slot.projection
            );
        }
    }
}

#[test]
fn gradients_equal_autograd_for_every_family() {
    for family in [Family::LlamaTied, Family::LlamaUntied, Family::Qwen2, Family::Qwen3] {
        compare(family, BaseFormat::Stored, Targets::AllLinear, |_| {});
    }
}

#[test]
fn gradients_through_a_quantised_base_equal_autograd() {
    compare(Family::LlamaTied, BaseFormat::Nf4, Targets::AllLinear, |_| {});
}

#[test]
fn gradients_stop_below_the_lowest_adapter_without_loss() {
    let names = |names: &[&str]| Targets::Names(names.iter().map(|name| (*name).to_owned()).collect());
    for targets in [
        Targets::Pattern(r"model\.layers\.1\.mlp\.down_proj|model\.layers\.2\..*".to_owned()),
        Targets::Pattern(r"model\.layers\.2\.mlp\.down_proj".to_owned()),
        Targets::Pattern(r"model\.layers\.1\.mlp\.up_proj".to_owned()),
        Targets::Pattern(r"model\.layers\.1\.self_attn\.o_proj".to_owned()),
        Targets::Pattern(r"model\.layers\.[12]\.self_attn\.v_proj".to_owned()),
        names(&["q_proj", "v_proj"]),
        names(&["down_proj"]),
    ] {
        compare(Family::LlamaTied, BaseFormat::Stored, targets.clone(), |_| {});
        compare(Family::Qwen3, BaseFormat::Stored, targets, |spec| spec.checkpointing = true);
    }
}

#[test]
fn ranks_alphas_and_rslora_scale_as_peft_does() {
    compare(Family::LlamaTied, BaseFormat::Stored, Targets::AllLinear, |spec| {
        spec.lora.rank_pattern.insert("v_proj".to_owned(), 7);
        spec.lora.rank_pattern.insert(r"layers\.1\.mlp\.up_proj".to_owned(), 2);
        spec.lora.alpha_pattern.insert("down_proj".to_owned(), 3.0);
        spec.lora.rslora = true;
    });
}

#[test]
fn gradients_of_magnitudes_equal_autograd() {
    for (family, base, checkpointing) in [
        (Family::LlamaTied, BaseFormat::Nf4, false),
        (Family::Qwen2, BaseFormat::Stored, true),
        (Family::Qwen3, BaseFormat::Stored, false),
    ] {
        compare(family, base, Targets::AllLinear, |spec| {
            spec.lora.dora = true;
            spec.checkpointing = checkpointing;
        });
    }
    for targets in [r"model\.layers\.1\.mlp\.down_proj|model\.layers\.2\..*o_proj", r"model\.layers\.2\.mlp\.up_proj"] {
        compare(Family::Qwen2, BaseFormat::Stored, Targets::Pattern(targets.to_owned()), |spec| {
            spec.lora.dora = true;
            spec.lora.layers = Some(vec![1, 2]);
            spec.checkpointing = true;
        });
    }
}

#[test]
fn gradients_equal_finite_differences() {
    finite_differences(Family::LlamaTied, |_| {});
}

#[test]
fn gradients_under_dropout_equal_finite_differences() {
    for checkpointing in [false, true] {
        finite_differences(Family::Qwen2, |spec| {
            spec.lora.dropout = 0.3;
            spec.checkpointing = checkpointing;
        });
    }
}

fn finite_differences(family: Family, change: impl Fn(&mut TrainSpec)) {
    let model = TinyModel::new(family);
    let decoder = decoder(&model, BaseFormat::Stored, 2);
    let data = tokens(6, 1, 2);
    let mut spec = spec(lora(Targets::AllLinear), 1, 6, 1);
    change(&mut spec);
    let mut trainer = Trainer::new(&decoder, &data, None, spec).unwrap();
    let values = randomize(&mut trainer);
    trainer.compute().unwrap();
    let gradients = trainer.gradients();
    for direction in 0..6 {
        let mut delta = vec![0f32; values.len()];
        Stream::new(direction, "direction").fill_normal(0, 0.0, 1.0, &mut delta);
        let mut loss_at = |distance: f32| {
            let mut state = trainer.checkpoint();
            for ((param, value), delta) in state.params.iter_mut().zip(&values).zip(&delta) {
                *param = value + distance * delta;
            }
            trainer.restore(&state).unwrap();
            trainer.compute().unwrap().loss
        };
        let step = 3e-4;
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
        let expected: f64 = gradients.iter().zip(&delta).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        // f32 losses of about 5 nats carry errors near 1e-6, over a distance of 6e-4.
        assert!((slope - expected).abs() < 5e-3 * (1.0 + expected.abs()), "{direction}: {slope} expected {expected}");
    }
}
