//! The optimiser loop over packed micro-batches.

use std::sync::Arc;

use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::ModelConfig;
use luthier_formats::tokens::{TokenSample, TokenSet};
use luthier_kernels::device::{AdamW, Buffer, Component, DeviceExt, FloatType, Recordings};
use luthier_kernels::random::Stream;

use super::checkpoint::{Checkpoint, StepRecord};
use super::loss_scale::LossScale;
use super::optimizer::Optimizer;
use super::order::DataOrder;
use super::overflow;
use super::results::{Results, StepFactors};
use super::spec::TrainSpec;
use super::step_batches::StepBatches;
use crate::adapter::AdapterSet;
use crate::decoder::{
    Batch, Capacity, Decoder, Dropouts, Gradients, Sizes, StepNumbers, Storages, Workspace, common_prefix, operations,
};
use crate::error::device_error;

/// What one step did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepReport {
    /// From 1.
    pub step: u64,
    /// Mean loss per trained token, in nats.
    pub loss: f64,
    /// Before clipping; not finite where the step is left out.
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub tokens: usize,
    /// Tokens that went through the blocks: fewer where a prefix is shared.
    pub computed: usize,
    pub trained: usize,
    /// Ids of the samples seen.
    pub samples: Vec<String>,
    /// What the loss was multiplied by, where activations are f16.
    pub loss_scale: Option<f64>,
    /// Gradients that overflowed at that scale and are not applied.
    pub skipped: bool,
}

/// Trains adapters on a frozen decoder.
pub struct Trainer<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) data: &'a TokenSet,
    spec: TrainSpec,
    /// Bins that have at least one trained token.
    pub(super) units: Vec<u32>,
    order: DataOrder,
    pub(super) adapters: AdapterSet,
    pub(super) gradients: Buffer<f32>,
    optimizer: Optimizer,
    pub(super) workspace: Workspace,
    streams: Vec<Stream>,
    /// The micro-batches of the step at hand, and of the one after it.
    pub(super) batches: [StepBatches; 2],
    pub(super) batch: Batch,
    pub(super) results: Results,
    factors: StepFactors,
    /// Where a pass only queues operations: what a device keeps of them.
    recordings: Option<Recordings>,
    /// Where activations are f16.
    pub(super) loss_scale: Option<LossScale>,
    /// Steps done.
    step: u64,
    history: Vec<StepRecord>,
    /// Computed but not yet applied.
    pending: Option<StepReport>,
}

/// Bins of `data` that can be learned from.
fn trainable_bins(data: &TokenSet) -> Vec<u32> {
    let trains = |bin: &Vec<u32>| bin.iter().any(|sample| data.samples[*sample as usize].trained() > 0);
    (0..data.bins.len()).filter(|bin| trains(&data.bins[*bin])).map(|bin| bin as u32).collect()
}

/// The largest micro-batch of the run, found by walking through its order.
#[must_use]
pub fn micro_batch_capacity(data: &TokenSet, spec: &TrainSpec) -> Capacity {
    let units = trainable_bins(data);
    if units.is_empty() {
        return Capacity::default();
    }
    let first_trained: Vec<Option<usize>> = data
        .samples
        .iter()
        .map(|sample| sample.mask.iter().position(|trained| *trained).map(|index| index - 1))
        .collect();
    let trained: Vec<usize> = data.samples.iter().map(TokenSample::trained).collect();
    let mut order = DataOrder::new(spec.seed, units.len());
    let last = spec.last_position(units.len());
    let mut most = Capacity::default();
    let mut samples: Vec<usize> = Vec::new();
    let mut position = 0;
    while position < last {
        let end = (position + spec.batch as u64).min(last);
        samples.clear();
        for position in position..end {
            let bin = &data.bins[units[order.at(position)] as usize];
            samples.extend(bin.iter().map(|sample| *sample as usize));
        }
        let whole: usize = samples.iter().map(|sample| data.samples[*sample].ids.len()).sum();
        let prefix = if spec.shares_prefix() {
            let first_trained = samples.iter().filter_map(|sample| first_trained[*sample]).min();
            common_prefix(samples.iter().map(|sample| data.samples[*sample].ids.as_slice()), first_trained)
        } else {
            0
        };
        most = most.max(Capacity {
            tokens: whole - prefix * samples.len().saturating_sub(1),
            trained: samples.iter().map(|sample| trained[*sample]).sum(),
            sequences: samples.len(),
            whole: if prefix > 0 { whole } else { 0 },
        });
        position = end;
    }
    most
}

/// Refuses samples that the model cannot take, before the first step.
fn check_samples(data: &TokenSet, config: &ModelConfig, positions: usize) -> StageResult<()> {
    for sample in &data.samples {
        if sample.ids.len() > positions {
            return Err(StageError::input(
                "train::sequence_too_long",
                format!(
                    "sample `{}` has {} tokens, but the model has {positions} positions",
                    sample.id,
                    sample.ids.len()
                ),
            )
            .hint(format!("set `max_length: {positions}` or less on the tokenize stage")));
        }
        if let Some(id) = sample.ids.iter().find(|id| **id as usize >= config.vocab_size) {
            return Err(StageError::input(
                "train::token_out_of_vocabulary",
                format!(
                    "sample `{}` holds token id {id}, but the model's vocabulary has {} tokens",
                    sample.id, config.vocab_size
                ),
            )
            .hint("the tokens were made with another model's tokenizer; give tokenize the same `model`"));
        }
    }
    Ok(())
}

/// Runs `work` on the decoder's device.
pub(super) fn inside<T: Send>(decoder: &Decoder, work: impl FnOnce() -> StageResult<T> + Send) -> StageResult<T> {
    let (mut work, mut result) = (Some(work), None);
    decoder.device.run(&mut || result = work.take().map(|work| work()));
    decoder.device.synchronize().map_err(device_error)?;
    result.unwrap_or_else(|| Err(StageError::new("train::step", "the device did not run")))
}

impl<'a> Trainer<'a> {
    /// Everything ready for step 1; all memory is allocated here. `validation` only enlarges the buffers where needed.
    ///
    /// # Errors
    /// Data without a trained token or not of this model, targets that match nothing, out of memory.
    pub fn new(
        decoder: &'a Decoder,
        data: &'a TokenSet,
        validation: Option<&TokenSet>,
        spec: TrainSpec,
    ) -> StageResult<Self> {
        check_samples(data, &decoder.config, decoder.positions)?;
        let units = trainable_bins(data);
        if units.is_empty() {
            return Err(StageError::input(
                "train::nothing_to_train",
                format!("none of the {} samples has a trained token", data.samples.len()),
            )
            .hint(
                "look at the loss mask with `luthier data show`; a too small `max_length` can cut all answers away",
            ));
        }
        let mut capacity = micro_batch_capacity(data, &spec);
        if let Some(validation) = validation {
            check_samples(validation, &decoder.config, decoder.positions)?;
            capacity = capacity.max(Capacity { tokens: validation.meta.longest, trained: 1, sequences: 1, whole: 0 });
        }
        let device = &decoder.device;
        let mut adapters = AdapterSet::initialize(device, &decoder.config, &spec.lora, spec.seed)?;
        let dropout = spec.lora.dropout > 0.0;
        let kind = decoder.device.activation_type();
        let sizes = Sizes::new(&decoder.config, adapters.slots(), capacity, true, dropout, spec.checkpointing, kind);
        let sizes = if spec.offload { sizes.offloaded() } else { sizes };
        let borrowing = operations(&decoder.config, adapters.slots(), &sizes, Storages::of(decoder), true);
        device.reserve(&borrowing).map_err(device_error)?;
        inside(decoder, || {
            adapters.attach(decoder)?;
            adapters.reset_magnitudes(decoder);
            Ok(())
        })?;
        // The host itself brings streamed blocks as far as page-locked memory, while a pass is queued.
        let repeats = !decoder.is_streamed();
        let floats = |component| device.as_ref().buffer::<f32>(component, adapters.len()).map_err(device_error);
        Ok(Self {
            order: DataOrder::new(spec.seed, units.len()),
            gradients: floats(Component::Gradients)?,
            optimizer: Optimizer::new(device.as_ref(), adapters.slots(), spec.optimizer.states, spec.pages.as_deref())?,
            workspace: Workspace::new(device.as_ref(), sizes)?,
            streams: adapters
                .slots()
                .iter()
                .map(|slot| Stream::new(spec.seed, &format!("dropout.{}", slot.projection.module(slot.layer))))
                .collect(),
            adapters,
            decoder,
            data,
            spec,
            units,
            batches: Default::default(),
            batch: Batch::new(),
            results: Results::new(device.as_ref())?,
            factors: StepFactors::new(device.as_ref())?,
            recordings: repeats.then(Recordings::default),
            loss_scale: (kind == FloatType::F16).then(LossScale::default),
            step: 0,
            history: Vec::new(),
            pending: None,
        })
    }

    #[must_use]
    pub fn spec(&self) -> &TrainSpec {
        &self.spec
    }

    #[must_use]
    pub fn adapters(&self) -> &AdapterSet {
        &self.adapters
    }

    #[must_use]
    pub fn sizes(&self) -> &Sizes {
        self.workspace.sizes()
    }

    /// Steps done.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Steps in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.spec.steps(self.units.len())
    }

    /// Samples or bins that the order chooses from.
    #[must_use]
    pub fn units(&self) -> usize {
        self.units.len()
    }

    /// What each step so far did.
    #[must_use]
    pub fn history(&self) -> &[StepRecord] {
        &self.history
    }

    /// The adapters' values on the host.
    #[must_use]
    pub fn values(&self) -> Vec<f32> {
        self.adapters.values(self.decoder.device.as_ref())
    }

    /// Replaces the adapters' values.
    ///
    /// # Panics
    /// If there are more or fewer of them.
    pub(super) fn set_values(&mut self, values: &[f32]) {
        let (decoder, adapters) = (self.decoder, &mut self.adapters);
        decoder.device.as_ref().write(values, adapters.params_mut().all_mut());
        decoder.device.run(&mut || adapters.refresh(decoder));
    }

    /// The gradients of the last computed step, on the host, laid out like the values.
    #[must_use]
    pub fn gradients(&self) -> Vec<f32> {
        let mut values = vec![0f32; self.gradients.len()];
        self.decoder.device.as_ref().read(self.gradients.all(), &mut values);
        values
    }

    /// Steps that were left out because their gradients overflowed.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.loss_scale.map_or(0, |scale| scale.skipped)
    }

    /// Steps that were applied: what the schedule and AdamW's bias count.
    fn applied(&self) -> u64 {
        self.step - self.skipped()
    }

    /// What the loss is multiplied by, where activations are f16.
    #[must_use]
    pub fn loss_scale(&self) -> Option<LossScale> {
        self.loss_scale
    }

    fn learning_rate(&self) -> f64 {
        let (schedule, units) = (self.spec.optimizer.schedule, self.units.len());
        let factor = schedule.factor(self.applied(), self.spec.warmup_steps(units), self.spec.horizon(units));
        self.spec.optimizer.learning_rate * factor
    }

    /// Loss and gradients of the next step, without applying them. Waits for the device once, at the end.
    ///
    /// # Errors
    /// A device failure.
    pub fn compute(&mut self) -> StageResult<StepReport> {
        let device = Arc::clone(&self.decoder.device);
        if !self.batches[0].is_of(self.step) {
            self.batches.swap(0, 1);
        }
        self.make_batches(0);
        {
            let this = &mut *self;
            let mut slot = Some(this);
            device.run(&mut || {
                if let Some(this) = slot.take() {
                    this.compute_inside();
                }
            });
        }
        // While the device computes.
        if self.step + 1 < self.total() {
            self.make_batches(1);
        }
        let [loss, grad_norm] = self.results.read(device.as_ref());
        device.synchronize().map_err(device_error)?;
        let overflowed = loss.is_finite() && !grad_norm.is_finite();
        let StepBatches { samples, tokens, computed, trained, .. } = &self.batches[0];
        let report = StepReport {
            step: self.step + 1,
            loss: loss / *trained as f64,
            grad_norm,
            learning_rate: self.learning_rate(),
            tokens: *tokens,
            computed: *computed,
            trained: *trained,
            samples: samples.iter().map(|sample| self.data.samples[*sample as usize].id.clone()).collect(),
            loss_scale: self.loss_scale.map(|scale| f64::from(scale.factor())),
            skipped: overflowed && self.loss_scale.is_some_and(|scale| !scale.is_least()),
        };
        self.pending = Some(report.clone());
        Ok(report)
    }

    /// Makes the micro-batches of the step that is so many steps ahead.
    fn make_batches(&mut self, ahead: usize) {
        let Self { batches, step, data, spec, units, order, .. } = self;
        batches[ahead].make(*step + ahead as u64, data, spec, units, order);
    }

    fn compute_inside(&mut self) {
        let Self { decoder, spec, adapters, gradients, workspace, streams, batches, results, recordings, step, .. } =
            self;
        let loss_scale = self.loss_scale;
        let (decoder, adapters, device) = (*decoder, &*adapters, decoder.device.as_ref());
        let scale = (1.0 / batches[0].trained as f64) as f32 * loss_scale.map_or(1.0, |scale| scale.factor());
        let noise = (spec.neftune > 0.0).then(|| (spec.neftune, Stream::new(spec.seed, "neftune")));
        let probability = spec.lora.dropout as f32;
        let dropouts = (probability > 0.0 || noise.is_some()).then_some(Dropouts { probability, streams, noise });
        for (index, batch) in batches[0].batches().iter().enumerate() {
            // No site draws 2^36 numbers in one micro-batch.
            let offset = (*step * spec.accumulate as u64 + index as u64) << 36;
            let uploaded = workspace.upload(device, batch, StepNumbers { offset, scale });
            let accumulate = index > 0;
            let mut work = || {
                workspace.forward(decoder, Some(adapters), dropouts.as_ref(), uploaded, &mut |_, _| {});
                workspace.loss(decoder, uploaded, accumulate, results.loss());
                let gradients = Gradients { buffer: gradients, accumulate };
                workspace.backward(decoder, adapters, dropouts.as_ref(), uploaded, gradients);
            };
            match recordings {
                // SAFETY: the buffers are those of `self` and of the decoder it borrows, made before the first step; what
                // is queued follows from the run and from the key.
                Some(recordings) => unsafe { recordings.run(device, &uploaded.key(accumulate), &mut work) },
                None => work(),
            }
        }
        if let Some(loss_scale) = loss_scale {
            device.scale(loss_scale.inverse(), gradients.all_mut().into());
        }
        device.norm(gradients.all(), results.norm_mut());
    }

    /// Clips and applies the gradients that [`Trainer::compute`] left, unless they overflowed. Does not wait for the device:
    /// a failure comes up when somebody does.
    ///
    /// # Errors
    /// Nothing was computed.
    pub fn apply(&mut self) -> StageResult<()> {
        let report = self
            .pending
            .take()
            .ok_or_else(|| StageError::new("train::step", "no gradients were computed for this step"))?;
        let device = Arc::clone(&self.decoder.device);
        if !report.skipped {
            let this = &mut *self;
            let report = &report;
            let mut slot = Some(this);
            device.run(&mut || {
                if let Some(this) = slot.take() {
                    this.apply_inside(report);
                }
            });
        }
        if let Some(scale) = &mut self.loss_scale {
            if report.skipped { scale.shrink() } else { scale.grow() }
        }
        self.step += 1;
        self.history.push(StepRecord {
            loss: report.loss,
            grad_norm: if report.skipped { 0.0 } else { report.grad_norm },
            skipped: report.skipped,
            learning_rate: report.learning_rate,
            tokens: report.tokens as u64,
            trained: report.trained as u64,
        });
        Ok(())
    }

    fn apply_inside(&mut self, report: &StepReport) {
        let device = self.decoder.device.as_ref();
        let optimizer = self.spec.optimizer;
        let step = |ratio: f64| AdamW {
            lr: (report.learning_rate * ratio) as f32,
            beta1: optimizer.beta1 as f32,
            beta2: optimizer.beta2 as f32,
            eps: optimizer.epsilon as f32,
            weight_decay: optimizer.weight_decay as f32,
            step: self.applied() + 1,
        };
        self.factors.write(device, [step(1.0), step(optimizer.b_ratio)]);
        let Self { decoder, gradients, results, factors, optimizer: states, adapters, recordings, .. } = self;
        let mut work = || {
            if optimizer.max_grad_norm > 0.0 {
                device.clip(results.norm(), optimizer.max_grad_norm, gradients.all_mut());
            }
            states.apply(device, gradients, factors, adapters);
            adapters.refresh(decoder);
        };
        match recordings {
            // SAFETY: as of a micro-batch; an empty key is no micro-batch's.
            Some(recordings) => unsafe { recordings.run(device, &[], &mut work) },
            None => work(),
        }
    }

    /// Waits until all that was applied is.
    ///
    /// # Errors
    /// A device failure.
    pub fn settle(&self) -> StageResult<()> {
        self.decoder.device.synchronize().map_err(device_error)
    }

    /// Mean loss per trained token over `data`, without dropout.
    ///
    /// # Errors
    /// A device failure; no trained token.
    pub fn evaluate(&mut self, data: &TokenSet) -> StageResult<f64> {
        let device = Arc::clone(&self.decoder.device);
        let mut result = (0f64, 0usize);
        {
            let this = &mut *self;
            let mut slot = Some(this);
            let result = &mut result;
            device.run(&mut || {
                if let Some(this) = slot.take() {
                    *result = this.evaluate_inside(data);
                }
            });
        }
        device.synchronize().map_err(device_error)?;
        match result {
            (_, 0) => {
                Err(StageError::input("train::nothing_to_validate", "the validation tokens have no trained token")
                    .hint("connect another split to `validation`, or remove the input"))
            }
            (loss, _) if loss.is_nan() && self.loss_scale.is_some() => {
                Err(overflow::error("the validation loss is NaN", None))
            }
            (loss, count) => Ok(loss / count as f64),
        }
    }

    fn evaluate_inside(&mut self, data: &TokenSet) -> (f64, usize) {
        let capacity = self.workspace.sizes().capacity;
        let (mut loss, mut count, mut next) = (0f64, 0, 0);
        self.workspace.forward_only = true;
        while next < data.samples.len() {
            self.batch.clear();
            while next < data.samples.len()
                && self.batch.sequences() < capacity.sequences
                && self.batch.tokens() + data.samples[next].ids.len() <= capacity.tokens
            {
                self.batch.push(&data.samples[next].ids, &data.samples[next].mask);
                next += 1;
            }
            let uploaded = self.workspace.upload_scored(self.decoder.device.as_ref(), &self.batch);
            self.workspace.forward(self.decoder, Some(&self.adapters), None, uploaded, &mut |_, _| {});
            let losses = self.workspace.losses(self.decoder, &self.batch, uploaded);
            loss += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
            count += losses.len();
        }
        self.workspace.forward_only = false;
        (loss, count)
    }

    /// The state after the last applied step.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            step: self.step,
            params: self.values(),
            states: self.optimizer.save(self.decoder.device.as_ref()),
            history: self.history.clone(),
            loss_scale: self.loss_scale,
            extra: Vec::new(),
        }
    }

    /// Goes on from a checkpoint of the same run.
    ///
    /// # Errors
    /// The checkpoint has another number of parameters.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> StageResult<()> {
        if checkpoint.params.len() != self.adapters.len() {
            return Err(StageError::new(
                "train::foreign_checkpoint",
                format!(
                    "the checkpoint holds {} parameters, but this run has {}",
                    checkpoint.params.len(),
                    self.adapters.len()
                ),
            )
            .hint("run with `--force train` to start over"));
        }
        self.optimizer.restore(self.decoder.device.as_ref(), &checkpoint.states)?;
        self.set_values(&checkpoint.params);
        self.step = checkpoint.step;
        self.loss_scale = self.loss_scale.map(|first| checkpoint.loss_scale.unwrap_or(first));
        self.history.clone_from(&checkpoint.history);
        self.pending = None;
        Ok(())
    }
}
