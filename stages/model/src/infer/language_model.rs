//! A loaded model with or without an adapter.

use std::sync::Arc;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::{ModelConfig, ModelFiles};
use luthier_kernels::device::{CpuDevice, Device, DeviceExt, FloatType};

use crate::adapter::{AdapterFiles, AdapterSet};
use crate::decoder::{BaseFormat, Batch, Capacity, Decoder, LoadOptions, Sizes, Storages, Workspace, operations};
use crate::error::device_error;
use crate::train::overflow;

/// Tokens of a micro-batch when the caller does not say.
const BATCH_TOKENS: usize = 2048;
/// Rows that go through the head at once in scoring.
const SCORED_ROWS: usize = 256;

/// How to load a model for evaluation.
#[derive(Debug, Clone, Copy)]
pub struct LanguageModelOptions<'a> {
    pub model: &'a Utf8Path,
    pub adapter: Option<&'a Utf8Path>,
    pub base: BaseFormat,
    /// The longest sequence, prompt and generated text together.
    pub max_tokens: usize,
    pub threads: usize,
}

/// A model that answers questions about token sequences.
pub struct LanguageModel {
    pub(super) decoder: Decoder,
    pub(super) adapter: Option<AdapterSet>,
    pub(super) workspace: Option<Workspace>,
    pub(super) batch: Batch,
}

impl LanguageModel {
    /// Loads a model, and an adapter onto it, on the CPU.
    ///
    /// # Errors
    /// A model or adapter that cannot be read or does not fit together; out of memory.
    pub fn load(options: LanguageModelOptions<'_>) -> StageResult<Self> {
        let device: Arc<dyn Device> = Arc::new(CpuDevice::new(options.threads).map_err(device_error)?);
        Self::load_on(&device, options)
    }

    /// Loads a model, and an adapter onto it, on a device; `threads` say nothing.
    ///
    /// # Errors
    /// Those of [`LanguageModel::load`].
    pub fn load_on(device: &Arc<dyn Device>, options: LanguageModelOptions<'_>) -> StageResult<Self> {
        let files = ModelFiles::open(options.model)?;
        let load = LoadOptions { base: options.base, positions: options.max_tokens };
        let decoder = Decoder::load(device, &files, load)?;
        let adapter = match options.adapter {
            Some(path) => Some(AdapterFiles::open(path, files.config())?.load(device, files.config())?),
            None => None,
        };
        Ok(Self::new(decoder, adapter))
    }

    /// From parts that are loaded already.
    #[must_use]
    pub fn new(decoder: Decoder, adapter: Option<AdapterSet>) -> Self {
        Self { decoder, adapter, workspace: None, batch: Batch::new() }
    }

    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        self.decoder.config()
    }

    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The longest sequence it takes.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.decoder.positions()
    }

    /// Replaces the adapter.
    pub fn set_adapter(&mut self, adapter: Option<AdapterSet>) -> Option<AdapterSet> {
        self.workspace = None;
        std::mem::replace(&mut self.adapter, adapter)
    }

    /// Runs `work` inside the device.
    pub(super) fn inside<T: Send>(&mut self, work: impl FnOnce(&mut Self) -> StageResult<T> + Send) -> StageResult<T> {
        let device = Arc::clone(self.decoder.device());
        let (mut work, mut result) = (Some(work), None);
        let this = &mut *self;
        let mut slot = Some(this);
        device.run(&mut || {
            if let (Some(work), Some(this)) = (work.take(), slot.take()) {
                result = Some(work(this));
            }
        });
        device.synchronize().map_err(device_error)?;
        result.unwrap_or_else(|| Err(StageError::new("model::run", "the device did not run")))
    }

    /// Makes the workspace large enough.
    pub(super) fn reserve(&mut self, needed: Capacity) -> StageResult<()> {
        let slots = self.adapter.as_ref().map_or(&[][..], AdapterSet::slots);
        let current = self.workspace.as_ref().map_or(Capacity::default(), |workspace| workspace.sizes().capacity);
        let capacity = current.max(needed);
        if capacity != current || self.workspace.is_none() {
            self.workspace = None;
            let kind = self.decoder.device.activation_type();
            let sizes = Sizes::new(&self.decoder.config, slots, capacity, false, false, false, kind);
            let borrowing = operations(&self.decoder.config, slots, &sizes, Storages::of(&self.decoder), false);
            self.decoder.device.reserve(&borrowing).map_err(device_error)?;
            self.workspace = Some(Workspace::new(self.decoder.device.as_ref(), sizes)?);
        }
        if let Some(adapter) = &mut self.adapter {
            adapter.attach(&self.decoder)?;
        }
        Ok(())
    }

    /// Groups sequences into micro-batches of about [`BATCH_TOKENS`] tokens, in order.
    pub(super) fn groups(lengths: impl Iterator<Item = usize>) -> Vec<std::ops::Range<usize>> {
        let (mut groups, mut start, mut tokens, mut count) = (Vec::new(), 0, 0, 0);
        for (index, length) in lengths.enumerate() {
            if index > start && tokens + length > BATCH_TOKENS {
                groups.push(start..index);
                (start, tokens) = (index, 0);
            }
            tokens += length;
            count = index + 1;
        }
        if count > start {
            groups.push(start..count);
        }
        groups
    }

    /// Logits of every position of one sequence, `[tokens, vocabulary]`.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, a sequence that is too long, out of memory.
    pub fn logits(&mut self, tokens: &[u32]) -> StageResult<Vec<f32>> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        self.inside(|this| {
            this.batch.clear();
            this.batch.push(tokens, &vec![false; tokens.len()]);
            this.batch.check(this.decoder.config.vocab_size, this.decoder.positions)?;
            this.reserve(Capacity { tokens: tokens.len(), trained: SCORED_ROWS, sequences: 1, whole: 0 })?;
            let Self { decoder, adapter, workspace: Some(workspace), batch } = this else { unreachable!("reserved") };
            let uploaded = workspace.upload_scored(decoder.device.as_ref(), batch);
            workspace.forward(decoder, adapter.as_ref(), None, uploaded, &mut |_, _| {});
            let rows: Vec<u32> = (0..tokens.len() as u32).collect();
            let mut all = Vec::with_capacity(tokens.len() * decoder.config.vocab_size);
            workspace.logits(decoder, uploaded, &rows, &mut |device, logits| {
                let start = all.len();
                all.resize(start + logits.len(), 0.0);
                device.read(logits, &mut all[start..]);
            });
            Ok(all)
        })
    }

    /// Log-probability, in nats, of each token but the first given those before it: one list per sequence, one entry
    /// shorter than it. The logits of a batch never exist at once.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, a sequence that is too long, out of memory.
    pub fn token_log_probs<S: AsRef<[u32]> + Sync>(&mut self, sequences: &[S]) -> StageResult<Vec<Vec<f32>>> {
        let masks: Vec<Vec<bool>> = sequences.iter().map(|sequence| vec![true; sequence.as_ref().len()]).collect();
        self.masked_log_probs(sequences, &masks)
    }

    /// Log-probabilities of the masked tokens only, in order; the head runs for no others.
    ///
    /// # Errors
    /// As [`LanguageModel::token_log_probs`].
    ///
    /// # Panics
    /// If there are not as many masks as sequences, each as long as its sequence.
    pub fn masked_log_probs<S: AsRef<[u32]> + Sync, M: AsRef<[bool]> + Sync>(
        &mut self,
        sequences: &[S],
        masks: &[M],
    ) -> StageResult<Vec<Vec<f32>>> {
        assert_eq!(sequences.len(), masks.len(), "one mask per sequence");
        let mut all = Vec::with_capacity(sequences.len());
        for group in Self::groups(sequences.iter().map(|sequence| sequence.as_ref().len())) {
            let scored: Vec<Vec<f32>> = self.inside(|this| {
                this.batch.clear();
                let mut counts = Vec::with_capacity(group.len());
                for (sequence, mask) in sequences[group.clone()].iter().zip(&masks[group.clone()]) {
                    let before = this.batch.rows.len();
                    this.batch.push(sequence.as_ref(), mask.as_ref());
                    counts.push(this.batch.rows.len() - before);
                }
                this.batch.share_prefix();
                let losses = this.score()?;
                let mut rest = losses.as_slice();
                Ok(counts
                    .into_iter()
                    .map(|count| {
                        let (mine, others) = rest.split_at(count);
                        rest = others;
                        mine.iter().map(|loss| -loss).collect()
                    })
                    .collect())
            })?;
            all.extend(scored);
        }
        Ok(all)
    }

    /// Losses of the current batch's targets.
    fn score(&mut self) -> StageResult<Vec<f32>> {
        self.batch.check(self.decoder.config.vocab_size, self.decoder.positions)?;
        if self.batch.rows.is_empty() {
            return Ok(Vec::new());
        }
        self.reserve(Capacity {
            tokens: self.batch.tokens(),
            trained: SCORED_ROWS,
            sequences: self.batch.sequences(),
            whole: if self.batch.sharing.is_some() { self.batch.whole_tokens() } else { 0 },
        })?;
        let Self { decoder, adapter, workspace: Some(workspace), batch } = self else { unreachable!("reserved") };
        let uploaded = workspace.upload_scored(decoder.device.as_ref(), batch);
        workspace.forward(decoder, adapter.as_ref(), None, uploaded, &mut |_, _| {});
        let losses = workspace.losses(decoder, batch, uploaded);
        if decoder.device.activation_type() == FloatType::F16 && losses.iter().any(|loss| !loss.is_finite()) {
            let place = overflow::find(decoder, adapter.as_ref(), workspace, batch);
            return Err(overflow::error("the likelihood of a text is not finite", place));
        }
        Ok(losses)
    }
}
