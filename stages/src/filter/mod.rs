//! `filter`: keeps the rows that every step keeps, and writes the others with the reason.
//!
//! A step is a plugin (WebAssembly, or a built-in), a deduplication, a decontamination or a bound on tokens. Rows stream through in batches; plugin steps run
//! on all threads, deduplication in row order, and neither the order of rows nor any verdict depends on the number of
//! threads or the size of a batch.
//!
//! The account of all that is the output `funnel`.
//!
//! ```text
//! dataset ─▶ window of batches ─▶ step 1 ─▶ step 2 ─▶ … ─▶ kept
//!                                   └─────────┴──────────▶ dropped (+ filter_step, filter_reason)
//! ```

mod ahead;
mod bounds;
mod column;
mod config;
mod decontaminate;
mod dedup;
mod funnel;
mod known;
mod ledger;
#[cfg(test)]
mod own_tests;
mod plugin_step;
mod rerun;
mod rows;
mod run;
#[cfg(test)]
mod shard_tests;
mod sketch;
mod step;
#[cfg(test)]
mod tests;
mod tokens;
mod turns;

use luthier_core::{
    ArtifactKind, ConfigIssue, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, Stage, StageContext,
    StageOutcome, StageResult, config_schema,
};
use serde_json::Value;

/// Drops rows by plugins and deduplication.
#[derive(Debug, Clone, Copy, Default)]
pub struct FilterStage;

impl Stage for FilterStage {
    fn kind(&self) -> &'static str {
        "filter"
    }

    fn recipe_version(&self) -> u32 {
        3
    }

    fn about(&self) -> &'static str {
        "keeps the rows that every step keeps: WebAssembly plugins, built-in heuristics, deduplication, decontamination"
    }

    fn schema(&self) -> Value {
        config_schema::<config::FilterConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/filter.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        &[
            InputPort {
                name: "data",
                accepts: &[ArtifactKind::Dataset],
                required: true,
                many: false,
                about: "the rows to filter",
            },
            InputPort {
                name: decontaminate::PORT,
                accepts: &[ArtifactKind::Dataset],
                required: false,
                many: true,
                about: "evaluation sets that no kept row may repeat, for the step `decontaminate`",
            },
            InputPort {
                name: tokens::PORT,
                accepts: &[ArtifactKind::Model, ArtifactKind::Gguf],
                required: false,
                many: false,
                about: "the model whose tokenizer counts, for the step `tokens`",
            },
        ]
    }

    fn outputs_about(&self) -> &'static str {
        "`kept` (the default); `dropped`, which has the columns `filter_step` and `filter_reason` besides, and \
         `filter_detail` with the matching spans where a step decontaminates; and `funnel`, JSON with rows, bytes, reasons, \
         sampled dropped rows and score histograms of each step"
    }

    fn prepare(&self, with: &Value, env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let (config, key, sources) = config::prepare(with, env)?;
        Ok(Prepared {
            config,
            key,
            outputs: vec![
                OutputDecl::new("kept", ArtifactKind::Dataset),
                OutputDecl::new("dropped", ArtifactKind::Dataset),
                OutputDecl::new("funnel", ArtifactKind::Report),
            ],
            sources,
            resources: Resources::ALL_THREADS,
            numeric_class: None,
        })
    }

    fn rerun(&self, old: &Value, new: &Value) -> Option<String> {
        rerun::rerun(old, new)
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        run::run(context)
    }
}
