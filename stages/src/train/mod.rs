//! `train`: adapters on a frozen base model, resumable to the bit.

mod config;
mod memory_table;
#[cfg(all(test, unix))]
mod process_tests;
mod progress;
mod run;
#[cfg(test)]
pub(crate) mod tests;

use luthier_core::{
    ArtifactKind, ConfigIssue, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, Stage, StageContext,
    StageOutcome, StageResult, config_schema, parse_config,
};
use serde_json::Value;

use crate::device;

pub(crate) use config::{Method, OffloadName, OptimizerName, StreamName, TrainConfig, defaults};
pub(crate) use memory_table::bytes_text;

/// Trains LoRA or QLoRA adapters.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrainStage;

/// Bumped whenever equal input may give another adapter.
const RECIPE: u32 = 1;

/// Keys of `with` that cannot change an output byte, or that the numeric class stands for.
const UNKEYED: [&str; 7] =
    ["checkpoint_every", "checkpoint_seconds", "stream", "offload", "device", "compute_type", "cublas"];

impl Stage for TrainStage {
    fn kind(&self) -> &'static str {
        "train"
    }

    fn recipe_version(&self) -> u32 {
        RECIPE
    }

    fn about(&self) -> &'static str {
        "trains LoRA or QLoRA adapters on a frozen model; killed at any moment it goes on to the same bits"
    }

    fn schema(&self) -> Value {
        config_schema::<TrainConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/train.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        &[
            InputPort {
                name: "model",
                accepts: &[ArtifactKind::Model],
                required: true,
                many: false,
                about: "the base model, a GGUF file or a Hugging Face directory",
            },
            InputPort {
                name: "data",
                accepts: &[ArtifactKind::Tokens],
                required: true,
                many: false,
                about: "tokens to train on, made with the model's own tokenizer",
            },
            InputPort {
                name: "validation",
                accepts: &[ArtifactKind::Tokens],
                required: false,
                many: false,
                about: "held-out tokens whose loss is watched",
            },
        ]
    }

    fn outputs_about(&self) -> &'static str {
        "`adapter`, a PEFT adapter directory"
    }

    fn prepare(&self, with: &Value, _env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let mut config: TrainConfig = parse_config(with)?;
        let mut issues = config.check();
        let compute = config.compute();
        let settled = device::settle(&mut config.device, compute, &mut issues);
        let numeric_class = settled.map(|(_, class)| class);
        if !issues.is_empty() {
            return Err(issues);
        }
        let config = serde_json::to_value(&config)
            .map_err(|error| vec![ConfigIssue::new("", format!("the configuration cannot be written: {error}"))])?;
        let mut key = config.clone();
        if let Value::Object(key) = &mut key {
            for name in UNKEYED {
                key.shift_remove(name);
            }
        }
        Ok(Prepared {
            config,
            key,
            outputs: vec![OutputDecl::new("adapter", ArtifactKind::Adapter)],
            sources: Vec::new(),
            resources: Resources::ALL_THREADS,
            numeric_class,
        })
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let config: TrainConfig = context.config()?;
        run::train(context, &config)
    }
}
