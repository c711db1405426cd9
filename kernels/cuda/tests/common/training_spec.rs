//! The training that tests of the whole path run, as they change it.

use std::collections::BTreeMap;

use luthier_model::adapter::{Initialization, LoraSpec, Targets};
use luthier_model::train::{Duration, OptimizerSpec, Schedule, StateFormat, TrainSpec};

/// QLoRA's usual options, so large a rate that a step shows, checkpointed, with dropout.
pub fn spec(batch: usize, steps: u64) -> TrainSpec {
    TrainSpec {
        lora: LoraSpec {
            rank: 4,
            alpha: 8.0,
            dropout: 0.1,
            targets: Targets::AllLinear,
            layers: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            rslora: false,
            dora: false,
            initialization: Initialization::Kaiming,
        },
        optimizer: OptimizerSpec {
            learning_rate: 1e-2,
            schedule: Schedule::Linear,
            decay_steps: None,
            warmup: 0.0,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            b_ratio: 1.0,
            states: StateFormat::F32,
        },
        batch,
        accumulate: 1,
        duration: Duration::Steps(steps),
        seed: 7,
        checkpointing: true,
        share_prefix: true,
        neftune: 0.0,
        pages: None,
        offload: false,
    }
}
