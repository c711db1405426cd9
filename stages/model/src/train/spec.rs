//! What a training run is, apart from the model and the data.

use camino::Utf8PathBuf;

use crate::adapter::LoraSpec;
use crate::train::Schedule;

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Duration {
    Steps(u64),
    /// Passes over the data; the last step of a run may be smaller.
    Epochs(f64),
}

/// How the optimiser keeps its moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateFormat {
    #[default]
    F32,
    /// 8 bits with a scale per 256, as bitsandbytes; tensors of fewer than 4096 elements stay `f32`.
    Blocks8,
}

/// AdamW and its learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerSpec {
    pub learning_rate: f64,
    pub schedule: Schedule,
    /// The step at which a falling schedule ends; by default the last step of the run. With it, the first steps of a
    /// longer run are those of a shorter one.
    pub decay_steps: Option<u64>,
    /// Steps if at least 1, else a fraction of the schedule's steps.
    pub warmup: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// 0 for no clipping.
    pub max_grad_norm: f64,
    /// Learning rate of `B` relative to `A`'s (LoRA+, Hayou et al. 2024); 1 for plain LoRA.
    pub b_ratio: f64,
    pub states: StateFormat,
}

/// A training run.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainSpec {
    pub lora: LoraSpec,
    pub optimizer: OptimizerSpec,
    /// Samples, or bins of packed samples, that go through the model together.
    pub batch: usize,
    /// Batches per optimiser step.
    pub accumulate: usize,
    pub duration: Duration,
    pub seed: u64,
    /// Keep only block inputs and recompute the rest.
    pub checkpointing: bool,
    /// Compute the tokens that all samples of a micro-batch begin with once. Has no effect with dropout or
    /// noise, which would be the same for all of them.
    pub share_prefix: bool,
    /// Uniform noise on the embeddings while training: `±neftune / √(tokens · hidden)` (NEFTune, Jain et al. 2023);
    /// 0 for none.
    pub neftune: f64,
    /// The optimiser's states are paged: from a file in this directory, or from page-locked host memory where the device has
    /// memory of its own.
    pub pages: Option<Utf8PathBuf>,
    /// Block inputs that are kept for recomputation wait in page-locked host memory; for devices with memory of their own.
    pub offload: bool,
}

impl TrainSpec {
    /// Whether common prefixes are in fact shared.
    #[must_use]
    pub fn shares_prefix(&self) -> bool {
        self.share_prefix && self.lora.dropout == 0.0 && self.neftune == 0.0
    }

    /// Samples or bins per optimiser step.
    #[must_use]
    pub fn per_step(&self) -> u64 {
        (self.batch * self.accumulate) as u64
    }

    /// Optimiser steps over `units` samples or bins.
    #[must_use]
    pub fn steps(&self, units: usize) -> u64 {
        match self.duration {
            Duration::Steps(steps) => steps,
            Duration::Epochs(_) => self.last_position(units).div_ceil(self.per_step()),
        }
    }

    /// The number of samples or bins that are seen in all, repeats counted.
    #[must_use]
    pub fn last_position(&self, units: usize) -> u64 {
        match self.duration {
            Duration::Steps(steps) => steps * self.per_step(),
            Duration::Epochs(epochs) => (epochs * units as f64).round() as u64,
        }
    }

    /// Steps that the schedule is laid out over.
    #[must_use]
    pub fn horizon(&self, units: usize) -> u64 {
        self.optimizer.decay_steps.unwrap_or_else(|| self.steps(units))
    }

    /// Steps of the warm-up.
    #[must_use]
    pub fn warmup_steps(&self, units: usize) -> u64 {
        let warmup = self.optimizer.warmup;
        if warmup >= 1.0 { warmup.round() as u64 } else { (warmup * self.horizon(units) as f64).ceil() as u64 }
    }

    /// Whether the rate of a step is the same however many steps there are in all.
    #[must_use]
    pub fn rate_is_independent_of_length(&self) -> bool {
        let OptimizerSpec { schedule, warmup, decay_steps, .. } = self.optimizer;
        decay_steps.is_some() || (schedule == Schedule::Constant && (warmup == 0.0 || warmup >= 1.0))
    }
}
