//! `with` of a training.

use std::collections::BTreeMap;

use luthier_core::ConfigIssue;
use luthier_model::BaseFormat;
use luthier_model::adapter::{Initialization, LoraSpec, Targets};
use luthier_model::train::{Duration, OptimizerSpec, Schedule, StateFormat, TrainSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::{Compute, ComputeType, Cublas};
use crate::one_or_many::OneOrMany;

/// How the base model is held while adapters are trained on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Projections in NF4 with double quantisation (4.127 bits per weight).
    #[default]
    Qlora,
    /// Projections as stored.
    Lora,
}

impl Method {
    pub(crate) fn base(self) -> BaseFormat {
        match self {
            Self::Qlora => BaseFormat::Nf4,
            Self::Lora => BaseFormat::Stored,
        }
    }
}

/// Where the blocks' frozen matrices are while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StreamName {
    /// In memory.
    #[default]
    None,
    /// In NF4 shards on disk, two blocks in the memory of the device at a time: for models larger than it, with the same
    /// result.
    Layers,
}

impl StreamName {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// What of a step waits in host memory while the device does not need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OffloadName {
    /// Nothing.
    #[default]
    None,
    /// The block inputs that `checkpointing` keeps, but the last (activation offloading): two of them are on the device at
    /// a time, with the same result. The CPU, which computes in host memory, has nothing to move.
    BlockInputs,
}

impl OffloadName {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// The learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ScheduleName {
    Constant,
    /// Falls to zero at the last step, or at `decay_steps`.
    #[default]
    Linear,
    /// Half a cosine to zero.
    Cosine,
}

/// AdamW, and how it keeps its moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OptimizerName {
    /// 8 bytes per parameter.
    #[default]
    Adamw,
    /// 2.03 bytes per parameter: 8-bit moments in blocks of 256, as bitsandbytes.
    #[serde(rename = "adamw_8bit")]
    Adamw8bit,
    /// `adamw` with its moments in a mapped file, which need not fit into memory; for a CUDA device in page-locked host
    /// memory, with two pages of them on the device at a time. The result is the same.
    PagedAdamw,
    /// `adamw_8bit` likewise.
    #[serde(rename = "paged_adamw_8bit")]
    PagedAdamw8bit,
}

impl OptimizerName {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::Adamw
    }

    pub(crate) fn is_paged(self) -> bool {
        matches!(self, Self::PagedAdamw | Self::PagedAdamw8bit)
    }

    fn states(self) -> StateFormat {
        match self {
            Self::Adamw | Self::PagedAdamw => StateFormat::F32,
            Self::Adamw8bit | Self::PagedAdamw8bit => StateFormat::Blocks8,
        }
    }
}

/// How `A` starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InitializationName {
    /// Uniform in `±1/√inputs`, PEFT's default.
    #[default]
    Kaiming,
    /// Normal with deviation `1/rank`.
    Gaussian,
}

/// `with` of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainConfig {
    /// `qlora` keeps the base in NF4, `lora` as stored.
    #[serde(default)]
    pub method: Method,
    /// Rank of the adapters.
    #[serde(default = "defaults::rank")]
    #[schemars(range(min = 1, max = 4096))]
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    #[serde(default = "defaults::alpha")]
    #[schemars(range(min = 0.0))]
    pub alpha: f64,
    /// Probability of dropping an adapter's input.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
    /// `all-linear`, a list of module names or their ends, or one regular expression for whole names.
    #[serde(default = "defaults::targets")]
    pub targets: OneOrMany,
    /// Other ranks for modules whose name ends with a match of the key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas for modules whose name ends with a match of the key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Scale by `alpha / √rank` instead.
    #[serde(default)]
    pub rslora: bool,
    /// Train the magnitude of each adapted row besides (DoRA); under dropout that takes a second product per weight.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(extend("default" = false))]
    pub dora: bool,
    /// Only these layers, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Noise on the embeddings while training (NEFTune), such as 5; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(extend("default" = 0.0))]
    #[schemars(range(min = 0.0))]
    pub neftune_noise_alpha: f64,
    /// How the adapters' first factor starts.
    #[serde(default)]
    pub init: InitializationName,
    /// Peak learning rate.
    #[serde(default = "defaults::learning_rate")]
    #[schemars(range(min = 0.0))]
    pub learning_rate: f64,
    /// `adamw`, `adamw_8bit`, `paged_adamw` or `paged_adamw_8bit`.
    #[serde(default, skip_serializing_if = "OptimizerName::is_default")]
    #[schemars(extend("default" = "adamw"))]
    pub optimizer: OptimizerName,
    #[serde(default)]
    pub schedule: ScheduleName,
    /// The step at which `linear` and `cosine` reach zero; by default the last. With it, a run of more steps goes on from
    /// a finished shorter one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub decay_steps: Option<u64>,
    /// Steps of linear warm-up; below 1, a fraction of the schedule's steps.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub warmup: f64,
    /// Decoupled weight decay, as a share of the learning rate; 0 for none.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Decay of AdamW's mean of gradients, per step.
    #[serde(default = "defaults::beta1")]
    #[schemars(range(min = 0.0, max = 0.99999))]
    pub beta1: f64,
    /// Decay of AdamW's mean of squared gradients, per step.
    #[serde(default = "defaults::beta2")]
    #[schemars(range(min = 0.0, max = 0.9999999))]
    pub beta2: f64,
    /// Added to the root of AdamW's mean of squares, against division by zero.
    #[serde(default = "defaults::epsilon")]
    #[schemars(range(min = 0.0))]
    pub epsilon: f64,
    /// Gradients are scaled down to this norm; 0 for no limit.
    #[serde(default = "defaults::max_grad_norm")]
    #[schemars(range(min = 0.0))]
    pub max_grad_norm: f64,
    /// Learning rate of the adapters' second factor relative to the first (LoRA+).
    #[serde(default = "defaults::one")]
    #[schemars(range(min = 0.0))]
    pub loraplus_ratio: f64,
    /// Samples, or packed bins, that go through the model together.
    #[serde(default = "defaults::batch")]
    #[schemars(range(min = 1, max = 1048576))]
    pub batch: usize,
    /// Batches per optimiser step.
    #[serde(default = "defaults::accumulate")]
    #[schemars(range(min = 1, max = 1048576))]
    pub accumulate: usize,
    /// Optimiser steps; instead of `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Passes over the data; 1 if `steps` is not given either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub epochs: Option<f64>,
    /// Decides initial values, order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// Keep only block inputs and recompute the rest: less memory, a third more time, the same bits.
    #[serde(default)]
    pub checkpointing: bool,
    /// Compute the tokens that all samples of a batch begin with, such as a system prompt, only once; without effect
    /// under dropout. The loss is the same, gradients round differently.
    #[serde(default = "defaults::yes")]
    pub share_prefix: bool,
    /// Where the blocks' frozen matrices are: `layers` leaves them on disk and needs `method: qlora`.
    #[serde(default, skip_serializing_if = "StreamName::is_none")]
    #[schemars(extend("default" = "none"))]
    pub stream: StreamName,
    /// What waits in host memory: `block-inputs` takes those that `checkpointing: true` keeps off a CUDA device.
    #[serde(default, skip_serializing_if = "OffloadName::is_none")]
    #[schemars(extend("default" = "none"))]
    pub offload: OffloadName,
    /// Where it computes: `cpu`, `cuda` (the first NVIDIA device, or `cuda:1`), or `auto`: the first that is there.
    #[serde(default = "crate::device::cpu", skip_serializing_if = "crate::device::is_cpu")]
    #[schemars(extend("default" = "cpu"), regex(pattern = r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"))]
    pub device: String,
    /// What a CUDA device keeps activations in and multiplies; `auto` is bf16 from compute capability 8.0 on and f16 on 7.5.
    /// The CPU computes in f32.
    #[serde(default, skip_serializing_if = "ComputeType::is_default")]
    #[schemars(extend("default" = "auto"))]
    pub compute_type: ComputeType,
    /// On a CUDA device, `auto` lets NVIDIA's cuBLAS compute large products where the system has it; `never` keeps to
    /// Luthier's own kernels, whose bits do not depend on how many rows are computed together.
    #[serde(default, skip_serializing_if = "Cublas::is_default")]
    #[schemars(extend("default" = "auto"))]
    pub cublas: Cublas,
    /// Write a checkpoint every so many steps, beside `checkpoint_seconds`; 0 for none.
    #[serde(default)]
    pub checkpoint_every: u64,
    /// Write a checkpoint every so many seconds; 0 for none.
    #[serde(default = "defaults::checkpoint_seconds")]
    pub checkpoint_seconds: u64,
    /// Compute the loss on `validation` every so many steps; 0 for only at the end.
    #[serde(default)]
    pub validate_every: u64,
    /// Stop after so many validations without a better loss, and keep the best adapter; 0 for never.
    #[serde(default)]
    pub early_stopping: u64,
    /// What `base_model_name_or_path` in the adapter says, such as `HuggingFaceTB/SmolLM2-135M-Instruct`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// Default values, shared with the plan stage.
pub(crate) mod defaults {
    use crate::one_or_many::OneOrMany;

    pub fn rank() -> usize {
        16
    }
    pub fn alpha() -> f64 {
        32.0
    }
    pub fn targets() -> OneOrMany {
        OneOrMany(vec!["all-linear".to_owned()])
    }
    pub fn learning_rate() -> f64 {
        2e-4
    }
    pub fn beta1() -> f64 {
        0.9
    }
    pub fn beta2() -> f64 {
        0.999
    }
    pub fn epsilon() -> f64 {
        1e-8
    }
    pub fn max_grad_norm() -> f64 {
        1.0
    }
    pub fn one() -> f64 {
        1.0
    }
    pub fn batch() -> usize {
        8
    }
    pub fn accumulate() -> usize {
        1
    }
    pub fn yes() -> bool {
        true
    }
    pub fn checkpoint_seconds() -> u64 {
        60
    }
}

/// `targets` as the engine wants it. One string is `all-linear`, a plain name, or else a regular expression.
pub(crate) fn targets(texts: &OneOrMany) -> Targets {
    match texts.0.as_slice() {
        [all] if all == "all-linear" => Targets::AllLinear,
        [one] if one.chars().any(|c| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')) => {
            Targets::Pattern(one.clone())
        }
        names => Targets::Names(names.to_vec()),
    }
}

impl TrainConfig {
    pub(crate) fn compute(&self) -> Compute {
        Compute { factors: self.compute_type, cublas: self.cublas }
    }

    /// Checks what the schema cannot say.
    pub fn check(&self) -> Vec<ConfigIssue> {
        let mut issues = Vec::new();
        if self.steps.is_some() && self.epochs.is_some() {
            issues.push(ConfigIssue::new("epochs", "`steps` and `epochs` exclude each other").help("keep one of them"));
        }
        for (key, value) in [("learning_rate", self.learning_rate), ("alpha", self.alpha)] {
            if value <= 0.0 {
                issues.push(ConfigIssue::new(key, format!("{value} would train nothing: expected more than 0")));
            }
        }
        if !self.stream.is_none() && self.method != Method::Qlora {
            issues.push(
                ConfigIssue::new("stream", "blocks are streamed in NF4, but `method` keeps them as stored")
                    .help("set `method: qlora`, or remove `stream`"),
            );
        }
        if !self.offload.is_none() && !self.checkpointing {
            issues.push(
                ConfigIssue::new("offload", "block inputs are kept with all else that backward needs")
                    .help("set `checkpointing: true`, or remove `offload`"),
            );
        }
        if self.targets.0.len() > 1 && self.targets.0.iter().any(|name| name == "all-linear") {
            issues.push(
                ConfigIssue::new("targets", "`all-linear` stands for every module, so it cannot be in a list")
                    .help("write `targets: all-linear`"),
            );
        }
        if let Some((name, _)) = self.rank_pattern.iter().find(|(_, rank)| **rank == 0) {
            issues.push(ConfigIssue::new(format!("rank_pattern.{name}"), "0 is out of range: expected at least 1"));
        }
        if self.layers_to_transform.as_ref().is_some_and(Vec::is_empty) {
            issues.push(ConfigIssue::new("layers_to_transform", "no layers are named: expected at least one"));
        }
        if let Some(decay) = self.decay_steps {
            if self.schedule == ScheduleName::Constant {
                issues.push(
                    ConfigIssue::new("decay_steps", "`schedule: constant` does not fall")
                        .help("remove it, or set `schedule: linear`"),
                );
            } else if let Some(steps) = self.steps.filter(|steps| *steps > decay) {
                issues.push(
                    ConfigIssue::new(
                        "decay_steps",
                        format!("the learning rate would be 0 for the last {} of {steps} steps", steps - decay),
                    )
                    .help(format!("set it to {steps} or more")),
                );
            }
        }
        if self.early_stopping > 0 && self.validate_every == 0 {
            issues.push(
                ConfigIssue::new("early_stopping", "there is no validation to stop by")
                    .help("set `validate_every`, and connect a tokens artifact to the input `validation`"),
            );
        }
        issues
    }

    pub fn lora(&self) -> LoraSpec {
        LoraSpec {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            targets: targets(&self.targets),
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
            rslora: self.rslora,
            dora: self.dora,
            layers: self.layers_to_transform.clone(),
            initialization: match self.init {
                InitializationName::Kaiming => Initialization::Kaiming,
                InitializationName::Gaussian => Initialization::Gaussian,
            },
        }
    }

    pub fn spec(&self) -> TrainSpec {
        TrainSpec {
            lora: self.lora(),
            optimizer: OptimizerSpec {
                learning_rate: self.learning_rate,
                schedule: match self.schedule {
                    ScheduleName::Constant => Schedule::Constant,
                    ScheduleName::Linear => Schedule::Linear,
                    ScheduleName::Cosine => Schedule::Cosine,
                },
                decay_steps: self.decay_steps,
                warmup: self.warmup,
                weight_decay: self.weight_decay,
                beta1: self.beta1,
                beta2: self.beta2,
                epsilon: self.epsilon,
                max_grad_norm: self.max_grad_norm,
                b_ratio: self.loraplus_ratio,
                states: self.optimizer.states(),
            },
            batch: self.batch,
            accumulate: self.accumulate,
            duration: match (self.steps, self.epochs) {
                (Some(steps), _) => Duration::Steps(steps),
                (None, epochs) => Duration::Epochs(epochs.unwrap_or(1.0)),
            },
            seed: self.seed,
            checkpointing: self.checkpointing,
            share_prefix: self.share_prefix,
            neftune: self.neftune_noise_alpha,
            pages: None,
            offload: !self.offload.is_none(),
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            method: Method::default(),
            rank: defaults::rank(),
            alpha: defaults::alpha(),
            dropout: 0.0,
            targets: defaults::targets(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            rslora: false,
            dora: false,
            layers_to_transform: None,
            neftune_noise_alpha: 0.0,
            optimizer: OptimizerName::default(),
            decay_steps: None,
            init: InitializationName::default(),
            learning_rate: defaults::learning_rate(),
            schedule: ScheduleName::default(),
            warmup: 0.0,
            weight_decay: 0.0,
            beta1: defaults::beta1(),
            beta2: defaults::beta2(),
            epsilon: defaults::epsilon(),
            max_grad_norm: defaults::max_grad_norm(),
            loraplus_ratio: 1.0,
            batch: defaults::batch(),
            accumulate: defaults::accumulate(),
            steps: None,
            epochs: None,
            seed: 0,
            checkpointing: false,
            share_prefix: true,
            stream: StreamName::default(),
            offload: OffloadName::default(),
            device: crate::device::cpu(),
            compute_type: ComputeType::default(),
            cublas: Cublas::default(),
            checkpoint_every: 0,
            checkpoint_seconds: defaults::checkpoint_seconds(),
            validate_every: 0,
            early_stopping: 0,
            base_model: None,
        }
    }
}
