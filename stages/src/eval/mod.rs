//! `eval`: what a model can do, and what an adapter changed.
//!
//! Base and tuned run over the same items in one loaded model whose adapter is switched off and on, so every difference
//! is paired. Numbers do not depend on batch composition or threads; `scores.json` is the same bytes on every machine of
//! the numeric class.

mod compare;
mod config;
mod contamination;
#[cfg(test)]
mod contamination_tests;
mod data;
mod expect;
mod measure;
mod metrics;
mod run;
mod scores;
mod subject;
#[cfg(test)]
mod tests;

use luthier_core::{
    ArtifactKind, ConfigIssue, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, Stage, StageContext,
    StageOutcome, StageResult, config_schema, parse_config,
};
use serde_json::Value;

use self::config::EvalConfig;
use crate::device;

/// Measures a model, and an adapter on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct EvalStage;

impl Stage for EvalStage {
    fn kind(&self) -> &'static str {
        "eval"
    }

    fn recipe_version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "measures a model and what an adapter changed: answers, likelihoods, multiple choice, forgetting; with gates"
    }

    fn schema(&self) -> Value {
        config_schema::<EvalConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/eval.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        &[
            InputPort {
                name: "model",
                accepts: &[ArtifactKind::Model, ArtifactKind::Gguf],
                required: true,
                many: false,
                about: "the base model, a GGUF file or a Hugging Face directory",
            },
            InputPort {
                name: "adapter",
                accepts: &[ArtifactKind::Adapter],
                required: false,
                many: false,
                about: "an adapter to compare the base with",
            },
            InputPort {
                name: "data",
                accepts: &[ArtifactKind::Dataset],
                required: false,
                many: false,
                about: "rows to answer or to score; needed for all but `forgetting`",
            },
            InputPort {
                name: "general",
                accepts: &[ArtifactKind::Dataset, ArtifactKind::File],
                required: false,
                many: false,
                about: "general text for `forgetting`; a short English text is built in",
            },
        ]
    }

    fn outputs_about(&self) -> &'static str {
        "`scores`, a JSON file with every metric, its error, the paired changes and all answers"
    }

    fn prepare(&self, with: &Value, _env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let mut config: EvalConfig = parse_config(with)?;
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
            // The numeric class stands for them.
            for name in ["device", "compute_type", "cublas"] {
                key.shift_remove(name);
            }
        }
        Ok(Prepared {
            key,
            config,
            outputs: vec![OutputDecl::new("scores", ArtifactKind::Scores)],
            sources: Vec::new(),
            resources: Resources::ALL_THREADS,
            numeric_class,
        })
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let config: EvalConfig = context.config()?;
        run::evaluate(context, &config)
    }
}
