//! The prediction itself, from a model's shape.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::StageResult;
use luthier_cuda::CudaCosts;
use luthier_formats::model_files::{ModelConfig, ModelFiles, read_model_config};
use luthier_formats::tokens::TokenSet;
use luthier_model::Projection;
use luthier_model::device::{Costs, FloatType, HostCosts, Storage};
use luthier_model::memory::{AcceleratorOptions, AcceleratorPlan, MemoryPlan, RunShape, WeightTypes};
use luthier_model::train::{StateFormat, TrainSpec};
use serde::Serialize;

use super::config::{PlanConfig, parse_bytes};
use crate::train::Method;

/// What a device keeps beside the engine's own buffers: its driver's context, modules and captured graphs, and what the
/// driver rounds up. An allowance that was measured on no card: of a training there, the metric `driver_memory` is all of it
/// but the context.
pub(super) const RESERVE: u64 = 500_000_000;
/// Sizes of devices that are asked about, in decimal gigabytes.
const DEVICES: [u64; 5] = [8, 16, 24, 48, 80];
const DEFAULT_LENGTH: usize = 2048;

/// A memory plan and what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    pub version: u32,
    /// Tokens of the largest micro-batch.
    pub tokens: usize,
    pub sequences: usize,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// The largest micro-batch was found in the data, not assumed.
    pub from_data: bool,
    pub bytes: MemoryPlan,
    pub total: usize,
    /// Kept for driver, context and fragmentation when asking what fits.
    pub reserve: u64,
    pub fits: Vec<Fit>,
    /// The same training on a device that computes in bf16: computed from published widths, run by nothing in this build.
    pub accelerator: AcceleratorPlan,
    pub accelerator_fits: Vec<Fit>,
    /// Floating-point operations per token of a step, recomputation not counted.
    pub flops_per_token: f64,
    /// Of the whole run, where its data is known.
    pub flops: Option<f64>,
    pub advice: Vec<String>,
}

/// Whether a device is large enough.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fit {
    pub gigabytes: u64,
    pub fits: bool,
    /// The most sequences of the longest length per batch that fit with checkpointing.
    pub largest_batch: usize,
}

/// What is planned for, resolved.
struct Subject {
    config: ModelConfig,
    stored: WeightTypesOf,
    length: usize,
    /// Blocks stay on disk.
    stream: bool,
    /// Of a CUDA device.
    costs: Option<CudaCosts>,
}

/// Types under either method.
#[derive(Clone, Copy)]
struct WeightTypesOf {
    qlora: WeightTypes,
    lora: WeightTypes,
}

impl WeightTypesOf {
    fn get(self, method: Method) -> WeightTypes {
        match method {
            Method::Qlora => self.qlora,
            Method::Lora => self.lora,
        }
    }
}

fn weight_types(model: &Utf8Path, plan: &PlanConfig) -> WeightTypesOf {
    let [qlora, lora] = [Method::Qlora, Method::Lora].map(Method::base);
    if let Ok(files) = ModelFiles::open(model) {
        return WeightTypesOf {
            qlora: WeightTypes::of_files(&files, qlora),
            lora: WeightTypes::of_files(&files, lora),
        };
    }
    let stored = plan.stored.map_or_else(|| declared_type(model), |stored| stored.storage());
    WeightTypesOf { qlora: WeightTypes::new(stored, qlora), lora: WeightTypes::new(stored, lora) }
}

/// `dtype` or `torch_dtype` of config.json; bf16, which nearly all models use, if it does not say.
fn declared_type(model: &Utf8Path) -> Storage {
    let json: Option<serde_json::Value> =
        fs_err::read(model.join("config.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let name = json.as_ref().and_then(|json| json.get("dtype").or_else(|| json.get("torch_dtype"))?.as_str());
    match name {
        Some("float32") => Storage::F32,
        Some("float16") => Storage::F16,
        _ => Storage::Bf16,
    }
}

/// Predicts a training of the model at `model`, a GGUF file, a model directory, or a directory with config.json alone;
/// `data` is the path of a tokens artifact.
///
/// # Errors
/// A model or data that cannot be read, targets that match nothing.
pub(crate) fn predict(model: &Utf8Path, data: Option<&Utf8Path>, plan: &PlanConfig) -> StageResult<Prediction> {
    let config = read_model_config(model)?;
    let tokens = data.map(TokenSet::open).transpose()?;
    let length = match &tokens {
        Some(tokens) => tokens.meta.longest,
        None => plan.length.unwrap_or(DEFAULT_LENGTH).min(config.max_positions),
    };
    let subject = Subject {
        stored: weight_types(model, plan),
        config,
        length,
        stream: !plan.stream.is_none(),
        costs: plan.is_apart().then(|| plan.compute().costs()),
    };
    let spec = plan.spec();
    let shape = match &tokens {
        Some(tokens) => RunShape::of_data(tokens, &spec),
        None => RunShape::of_length(plan.batch, length),
    };
    let bytes = plan_of(&subject, plan.method, &spec, shape)?;
    let total = bytes.total();
    let flops_per_token = flops_per_token(&subject.config, &spec, length)?;
    let flops = tokens.as_ref().map(|tokens| {
        let mean = tokens.meta.tokens as f64 / tokens.bins.len().max(1) as f64;
        flops_per_token * mean * spec.last_position(tokens.bins.len()) as f64
    });
    let fits = DEVICES.map(|gigabytes| Fit {
        gigabytes,
        fits: total as u64 + RESERVE <= gigabytes * 1_000_000_000,
        largest_batch: largest_batch(&subject, plan.method, &spec, gigabytes * 1_000_000_000),
    });
    let options = AcceleratorOptions {
        eight_bit: spec.optimizer.states == StateFormat::Blocks8,
        paged: spec.pages.is_some(),
        offload: !plan.offload.is_none(),
        stream: subject.stream,
        ..AcceleratorOptions::default()
    };
    let on_accelerator = |spec: &TrainSpec, shape: RunShape| {
        AcceleratorPlan::new(&subject.config, subject.stored.get(plan.method), spec, shape, options)
    };
    let accelerator = on_accelerator(&spec, shape)?;
    let frugal = TrainSpec { checkpointing: true, ..spec.clone() };
    let accelerator_fits = DEVICES.map(|gigabytes| Fit {
        gigabytes,
        fits: accelerator.total as u64 <= gigabytes * 1_000_000_000,
        largest_batch: largest(|batch| {
            let plan = on_accelerator(&frugal, RunShape::of_length(batch, subject.length));
            plan.is_ok_and(|plan| plan.total as u64 <= gigabytes * 1_000_000_000)
        }),
    });
    let advice = advise(&subject, plan, &spec, shape, total)?;
    Ok(Prediction {
        version: 1,
        tokens: shape.capacity.tokens,
        sequences: shape.capacity.sequences,
        longest: shape.longest,
        from_data: tokens.is_some(),
        bytes,
        total,
        reserve: RESERVE,
        fits: fits.to_vec(),
        accelerator,
        accelerator_fits: accelerator_fits.to_vec(),
        flops_per_token,
        flops,
        advice,
    })
}

/// Two per weight forward and two back to the inputs; adapters also get gradients; attention at the longest length.
fn flops_per_token(config: &ModelConfig, spec: &TrainSpec, length: usize) -> StageResult<f64> {
    let weights = |projection: Projection| {
        let (rows, cols) = projection.shape(config);
        (rows * cols) as f64
    };
    let linear = config.layers as f64 * Projection::ALL.into_iter().map(weights).sum::<f64>();
    let head = (config.vocab_size * config.hidden_size) as f64;
    let adapters = luthier_model::adapter::parameters(&spec.lora.slots(config)?) as f64;
    let attention = config.layers as f64 * (config.query_size() * length) as f64;
    Ok(4.0 * (linear + head) + 6.0 * adapters + 6.0 * attention)
}

fn total_of(subject: &Subject, method: Method, spec: &TrainSpec, shape: RunShape) -> StageResult<usize> {
    Ok(plan_of(subject, method, spec, shape)?.total())
}

fn plan_of(subject: &Subject, method: Method, spec: &TrainSpec, shape: RunShape) -> StageResult<MemoryPlan> {
    let (activations, costs): (FloatType, &dyn Costs) = match &subject.costs {
        Some(costs) => (costs.activations(), costs),
        None => (FloatType::F32, &HostCosts),
    };
    let types = subject.stored.get(method);
    let plan = MemoryPlan::of_device(&subject.config, types, spec, shape, activations, costs)?;
    Ok(if subject.stream { plan.streamed(&subject.config, subject.costs.is_some()) } else { plan })
}

/// The most sequences of the longest length that fit `bytes`, with checkpointing.
fn largest_batch(subject: &Subject, method: Method, spec: &TrainSpec, bytes: u64) -> usize {
    let spec = TrainSpec { checkpointing: true, ..spec.clone() };
    largest(|batch| {
        let shape = RunShape::of_length(batch, subject.length);
        total_of(subject, method, &spec, shape).is_ok_and(|total| total as u64 + RESERVE <= bytes)
    })
}

/// The largest number that `fits`, which all smaller ones do too; 0 if none does.
fn largest(fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, 1);
    while high < 1 << 20 && fits(high) {
        (low, high) = (high, 2 * high);
    }
    while high - low > 1 {
        let middle = (low + high) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    low
}

fn advise(
    subject: &Subject,
    plan: &PlanConfig,
    spec: &TrainSpec,
    shape: RunShape,
    total: usize,
) -> StageResult<Vec<String>> {
    use crate::train::bytes_text;
    let mut advice = Vec::new();
    let mut say = |text: String, bytes: usize| {
        let change = total as i64 - bytes as i64;
        if change > 0 {
            advice.push(format!("{text}: {} instead of {}", bytes_text(bytes), bytes_text(total)));
        }
    };
    if !spec.checkpointing {
        let other = TrainSpec { checkpointing: true, ..spec.clone() };
        say("`checkpointing: true` (a third more time)".to_owned(), total_of(subject, plan.method, &other, shape)?);
    }
    if plan.method == Method::Lora {
        say("`method: qlora`".to_owned(), total_of(subject, Method::Qlora, spec, shape)?);
    }
    if subject.costs.is_some() && spec.checkpointing && !spec.offload {
        let other = TrainSpec { offload: true, ..spec.clone() };
        let text = "`offload: block-inputs` (they wait in page-locked host memory)".to_owned();
        say(text, total_of(subject, plan.method, &other, shape)?);
    }
    if subject.costs.is_some() && spec.pages.is_none() {
        let other = TrainSpec { pages: Some(Utf8PathBuf::new()), ..spec.clone() };
        let name = if spec.optimizer.states == StateFormat::F32 { "paged_adamw" } else { "paged_adamw_8bit" };
        let text = format!("`optimizer: {name}` (its moments wait in page-locked host memory)");
        say(text, total_of(subject, plan.method, &other, shape)?);
    }
    if plan.stream.is_none() && plan.method == Method::Qlora {
        let streamed = plan_of(subject, plan.method, spec, shape)?.streamed(&subject.config, subject.costs.is_some());
        say("`stream: layers` (every block is read from disk twice a step)".to_owned(), streamed.total());
    }
    if plan.batch > 1 {
        let (batch, accumulate) = (plan.batch.div_ceil(2), plan.accumulate * 2);
        let mut half = shape;
        half.capacity.tokens = half.capacity.tokens.div_ceil(2).max(shape.longest);
        half.capacity.trained = half.capacity.trained.div_ceil(2);
        half.capacity.sequences = half.capacity.sequences.div_ceil(2);
        let text = format!("`batch: {batch}` with `accumulate: {accumulate}` (the same steps)");
        say(text, total_of(subject, plan.method, spec, half)?);
    }
    if spec.lora.rank >= 16 {
        let mut other = spec.clone();
        other.lora.rank /= 2;
        let total = total_of(subject, plan.method, &other, shape)?;
        say(format!("`rank: {}`", other.lora.rank), total);
    }
    Ok(advice)
}

/// The budget in bytes, if one was given.
pub(super) fn budget(plan: &PlanConfig) -> Option<u64> {
    plan.budget.as_deref().and_then(parse_bytes)
}
