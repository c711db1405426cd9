//! The optimiser loop over packed micro-batches.

use std::sync::Arc;

use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::ModelConfig;
use luthier_formats::tokens::{TokenSample, TokenSet};
use luthier_kernels::device::{AdamW, Buffer, Component, DeviceExt, Noise};
use luthier_kernels::random::Stream;

use super::checkpoint::{Checkpoint, StepRecord};
use super::optimizer::Optimizer;
use super::order::DataOrder;
use super::spec::TrainSpec;
use crate::adapter::AdapterSet;
use crate::decoder::{Batch, Capacity, Decoder, Dropouts, Gradients, Sizes, Workspace, common_prefix};
use crate::error::device_error;

/// What one step did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepReport {
    /// From 1.
    pub step: u64,
    /// Mean loss per trained token, in nats.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub tokens: usize,
    /// Tokens that went through the blocks: fewer where a prefix is shared.
    pub computed: usize,
    pub trained: usize,
    /// Ids of the samples seen.
    pub samples: Vec<String>,
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
    pub(super) batch: Batch,
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
        inside(decoder, || {
            adapters.attach(decoder)?;
            adapters.reset_magnitudes(decoder);
            Ok(())
        })?;
        let dropout = spec.lora.dropout > 0.0;
        let sizes = Sizes::new(&decoder.config, adapters.slots(), capacity, true, dropout, spec.checkpointing);
        let sizes = if spec.offload { sizes.offloaded() } else { sizes };
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
            batch: Batch::new(),
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

    fn learning_rate(&self) -> f64 {
        let (schedule, units) = (self.spec.optimizer.schedule, self.units.len());
        let factor = schedule.factor(self.step, self.spec.warmup_steps(units), self.spec.horizon(units));
        self.spec.optimizer.learning_rate * factor
    }

    /// Loss and gradients of the next step, without applying them.
    ///
    /// # Errors
    /// A device failure.
    pub fn compute(&mut self) -> StageResult<StepReport> {
        let device = Arc::clone(&self.decoder.device);
        let mut report = None;
        {
            let this = &mut *self;
            let mut slot = Some(this);
            device.run(&mut || {
                if let Some(this) = slot.take() {
                    report = Some(this.compute_inside());
                }
            });
        }
        device.synchronize().map_err(device_error)?;
        let report = report.ok_or_else(|| StageError::new("train::step", "the device did not run"))?;
        self.pending = Some(report.clone());
        Ok(report)
    }

    fn compute_inside(&mut self) -> StepReport {
        let first = self.step * self.spec.per_step();
        let last = (first + self.spec.per_step()).min(self.spec.last_position(self.units.len()));
        let chosen: Vec<u32> = (first..last).map(|position| self.units[self.order.at(position)]).collect();
        let samples: Vec<u32> = chosen.iter().flat_map(|bin| self.data.bins[*bin as usize].iter().copied()).collect();
        let trained: usize = samples.iter().map(|sample| self.data.samples[*sample as usize].trained()).sum();
        let scale = (1.0 / trained as f64) as f32;
        let (mut loss, mut tokens, mut computed) = (0f64, 0, 0);
        for (index, bins) in chosen.chunks(self.spec.batch).enumerate() {
            self.batch.clear();
            for sample in bins.iter().flat_map(|bin| &self.data.bins[*bin as usize]) {
                let sample = &self.data.samples[*sample as usize];
                self.batch.push(&sample.ids, &sample.mask);
            }
            tokens += self.batch.tokens();
            if self.spec.shares_prefix() {
                self.batch.share_prefix();
            }
            computed += self.batch.tokens();
            // No site draws 2^36 numbers in one micro-batch.
            let offset = (self.step * self.spec.accumulate as u64 + index as u64) << 36;
            let noise = self.noise(offset);
            let dropouts = (self.spec.lora.dropout > 0.0 || !noise.is_empty()).then(|| Dropouts {
                probability: self.spec.lora.dropout as f32,
                streams: &self.streams,
                offset,
                noise: &noise,
            });
            let uploaded = self.workspace.upload(self.decoder.device.as_ref(), &self.batch);
            let (decoder, adapters) = (self.decoder, &self.adapters);
            self.workspace.forward(decoder, Some(adapters), dropouts.as_ref(), uploaded, &mut |_, _| {});
            let losses = self.workspace.loss(decoder, &self.batch, Some(scale));
            loss += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
            let gradients = Gradients { buffer: &mut self.gradients, accumulate: index > 0 };
            self.workspace.backward(decoder, adapters, dropouts.as_ref(), uploaded, gradients);
        }
        StepReport {
            step: self.step + 1,
            loss: loss / trained as f64,
            grad_norm: self.decoder.device.norm(self.gradients.all()),
            learning_rate: self.learning_rate(),
            tokens,
            computed,
            trained,
            samples: samples.iter().map(|sample| self.data.samples[*sample as usize].id.clone()).collect(),
        }
    }

    /// NEFTune's noise for each sequence of the current micro-batch.
    fn noise(&self, offset: u64) -> Vec<(std::ops::Range<usize>, Noise)> {
        if self.spec.neftune == 0.0 {
            return Vec::new();
        }
        let hidden = self.decoder.config.hidden_size;
        let stream = Stream::new(self.spec.seed, "neftune");
        self.batch
            .starts
            .windows(2)
            .map(|pair| {
                let rows = pair[0] as usize..pair[1] as usize;
                let magnitude = (self.spec.neftune / ((rows.len() * hidden) as f64).sqrt()) as f32;
                let offset = offset + (rows.start * hidden) as u64;
                (rows, Noise { magnitude, stream, offset })
            })
            .collect()
    }

    /// Clips and applies the gradients that [`Trainer::compute`] left.
    ///
    /// # Errors
    /// A device failure; or nothing was computed.
    pub fn apply(&mut self) -> StageResult<()> {
        let report = self
            .pending
            .take()
            .ok_or_else(|| StageError::new("train::step", "no gradients were computed for this step"))?;
        let device = Arc::clone(&self.decoder.device);
        {
            let this = &mut *self;
            let report = &report;
            let mut slot = Some(this);
            device.run(&mut || {
                if let Some(this) = slot.take() {
                    this.apply_inside(report);
                }
            });
        }
        device.synchronize().map_err(device_error)?;
        self.step += 1;
        self.history.push(StepRecord {
            loss: report.loss,
            grad_norm: report.grad_norm,
            learning_rate: report.learning_rate,
            tokens: report.tokens as u64,
            trained: report.trained as u64,
        });
        Ok(())
    }

    fn apply_inside(&mut self, report: &StepReport) {
        let device = self.decoder.device.as_ref();
        let optimizer = self.spec.optimizer;
        let limit = optimizer.max_grad_norm;
        if limit > 0.0 && report.grad_norm > limit {
            device.scale((limit / (report.grad_norm + 1e-6)) as f32, self.gradients.all_mut());
        }
        let step = |ratio: f64| AdamW {
            lr: (report.learning_rate * ratio) as f32,
            beta1: optimizer.beta1 as f32,
            beta2: optimizer.beta2 as f32,
            eps: optimizer.epsilon as f32,
            weight_decay: optimizer.weight_decay as f32,
            step: self.step + 1,
        };
        let steps = [step(1.0), step(optimizer.b_ratio)];
        self.optimizer.apply(device, &self.gradients, steps, &mut self.adapters);
        self.adapters.refresh(self.decoder);
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
            let uploaded = self.workspace.upload(self.decoder.device.as_ref(), &self.batch);
            self.workspace.forward(self.decoder, Some(&self.adapters), None, uploaded, &mut |_, _| {});
            let losses = self.workspace.loss(self.decoder, &self.batch, None);
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
        self.history.clone_from(&checkpoint.history);
        self.pending = None;
        Ok(())
    }
}
