//! Steps of a real training under the clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokens::TokenSet;
use luthier_kernels::Backend;
use luthier_kernels::device::{Component, Device, TimedDevice};
use serde::Serialize;

use super::{StepFlops, product_rate, resident_peak};
use crate::memory::{MemoryPlan, RunShape, WeightTypes};
use crate::train::{Duration, TrainSpec, Trainer};
use crate::{BaseFormat, Decoder, LoadOptions};

/// Rounds of the large product that the peak rate is the fastest of, before the steps and again after them.
const PEAK_ROUNDS: usize = 4;

/// What to run.
#[derive(Debug, Clone)]
pub struct ProfileRequest {
    pub spec: TrainSpec,
    pub base: BaseFormat,
    pub threads: usize,
    /// Steps under the clock, after one that is not.
    pub steps: u64,
}

/// An operation's part of the steps.
#[derive(Debug, Clone, Serialize)]
pub struct OperationShare {
    pub operation: &'static str,
    pub calls_per_step: f64,
    pub seconds_per_step: f64,
    /// Of the step.
    pub share: f64,
    /// Operations a second, where it is made of products.
    pub flops_per_second: Option<f64>,
}

/// A component's bytes.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentBytes {
    pub component: &'static str,
    pub planned: usize,
    pub measured: usize,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct TrainProfile {
    pub version: u32,
    pub backend: String,
    pub threads: usize,
    pub checkpointing: bool,
    /// Seconds of each step.
    pub seconds: Vec<f64>,
    pub best_seconds: f64,
    pub median_seconds: f64,
    /// Means over the steps.
    pub tokens_per_step: f64,
    pub trained_per_step: f64,
    /// Tokens that went through the blocks: fewer where samples share a prefix.
    pub computed_per_step: f64,
    pub tokens_per_second: f64,
    pub tokens_per_second_best: f64,
    pub trained_per_second: f64,
    pub flops_per_step: StepFlops,
    pub flops_per_second: f64,
    /// Of a square product of 2048 on the same threads.
    pub peak_flops_per_second: f64,
    /// The median step's rate as a share of the peak.
    pub share_of_peak: f64,
    pub share_of_peak_best: f64,
    pub operations: Vec<OperationShare>,
    pub memory: Vec<ComponentBytes>,
    pub planned_bytes: usize,
    pub measured_bytes: usize,
    pub resident_peak: Option<usize>,
    pub losses: Vec<f64>,
}

/// Times steps of `request` on `data` and `device`; the files are closed once the model is loaded.
///
/// # Errors
/// Those of loading and training.
pub fn profile(
    device: &Arc<dyn Device>,
    files: ModelFiles,
    data: &TokenSet,
    request: &ProfileRequest,
) -> StageResult<TrainProfile> {
    let on_cpu = device.name() == "cpu";
    let timed = Arc::new(TimedDevice::new(Arc::clone(device)));
    let device: Arc<dyn Device> = timed.clone();
    let spec = TrainSpec { duration: Duration::Steps(request.steps + 1), ..request.spec.clone() };
    let options = LoadOptions { base: request.base, positions: data.meta.longest };
    let decoder = Decoder::load(&device, &files, options)?;
    let types = WeightTypes::of_files(&files, request.base);
    let config = files.config().clone();
    drop(files);
    let plan = MemoryPlan::new(&config, types, &spec, RunShape::of_data(data, &spec))?;
    let slots = spec.lora.slots(&config)?;
    let mut trainer = Trainer::new(&decoder, data, None, spec.clone())?;
    trainer.compute()?;
    trainer.apply()?;
    let memory: Vec<ComponentBytes> = Component::ALL
        .into_iter()
        .map(|component| ComponentBytes {
            component: component.as_str(),
            planned: plan.bytes(component),
            measured: device.ledger().peak(component),
        })
        .filter(|bytes| bytes.planned > 0 || bytes.measured > 0)
        .collect();
    let (measured_bytes, resident) = (device.ledger().total_peak(), resident_peak());
    let mut peak = product_rate(device.as_ref(), PEAK_ROUNDS)?;
    let _ = timed.take();
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    let (mut tokens, mut trained, mut computed) = (0usize, 0usize, 0usize);
    let mut flops = StepFlops::default();
    for _ in 0..request.steps {
        let start = Instant::now();
        let report = trainer.compute()?;
        trainer.apply()?;
        seconds.push(start.elapsed().as_secs_f64());
        losses.push(report.loss);
        (tokens, trained, computed) = (tokens + report.tokens, trained + report.trained, computed + report.computed);
        let lengths = lengths_of(data, &report.samples);
        let mut step = StepFlops::new(&config, &slots, &lengths, report.trained);
        // Shared rows are computed once: only what was done counts.
        step.linear *= report.computed as f64 / report.tokens.max(1) as f64;
        step.adapters *= report.computed as f64 / report.tokens.max(1) as f64;
        flops.linear += step.linear;
        flops.head += step.head;
        flops.adapters += step.adapters;
        flops.attention += step.attention;
    }
    let operations = timed.take();
    peak = peak.max(product_rate(device.as_ref(), PEAK_ROUNDS)?);

    let steps = seconds.len().max(1) as f64;
    let all: f64 = seconds.iter().sum();
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let (Some(best), Some(median)) = (sorted.first().copied(), sorted.get(sorted.len() / 2).copied()) else {
        return Err(StageError::input("profile::no_steps", "there is no step to time").hint("pass `--steps 3`"));
    };
    for part in [&mut flops.linear, &mut flops.head, &mut flops.adapters, &mut flops.attention] {
        *part /= steps;
    }
    let tokens_per_step = tokens as f64 / steps;
    Ok(TrainProfile {
        version: 1,
        backend: if on_cpu { Backend::current().name().to_owned() } else { device.numeric_class() },
        threads: request.threads,
        checkpointing: spec.checkpointing,
        best_seconds: best,
        median_seconds: median,
        tokens_per_step,
        trained_per_step: trained as f64 / steps,
        computed_per_step: computed as f64 / steps,
        tokens_per_second: tokens_per_step / median,
        tokens_per_second_best: tokens_per_step / best,
        trained_per_second: trained as f64 / steps / median,
        flops_per_second: flops.total() / median,
        peak_flops_per_second: peak,
        share_of_peak: flops.total() / median / peak,
        share_of_peak_best: flops.total() / best / peak,
        flops_per_step: flops,
        operations: shares(&operations, all, steps),
        memory,
        planned_bytes: plan.total(),
        measured_bytes,
        resident_peak: resident,
        seconds,
        losses,
    })
}

fn lengths_of(data: &TokenSet, ids: &[String]) -> Vec<usize> {
    let by_id: BTreeMap<&str, usize> =
        data.samples.iter().map(|sample| (sample.id.as_str(), sample.ids.len())).collect();
    ids.iter().filter_map(|id| by_id.get(id.as_str()).copied()).collect()
}

/// The operations, longest first, and what is between them.
fn shares(
    operations: &BTreeMap<&'static str, luthier_kernels::device::OperationTime>,
    all: f64,
    steps: f64,
) -> Vec<OperationShare> {
    let mut shares: Vec<OperationShare> = operations
        .iter()
        .map(|(operation, spent)| {
            let seconds = spent.time.as_secs_f64();
            OperationShare {
                operation,
                calls_per_step: spent.calls as f64 / steps,
                seconds_per_step: seconds / steps,
                share: seconds / all,
                flops_per_second: (spent.flops > 0).then(|| spent.flops as f64 / seconds),
            }
        })
        .collect();
    shares.sort_by(|a, b| b.seconds_per_step.total_cmp(&a.seconds_per_step));
    let inside: f64 = shares.iter().map(|share| share.seconds_per_step).sum();
    shares.push(OperationShare {
        operation: "between operations",
        calls_per_step: 1.0,
        seconds_per_step: (all / steps - inside).max(0.0),
        share: (1.0 - inside * steps / all).max(0.0),
        flops_per_second: None,
    });
    shares
}
