//! `plan`: the bytes of a training before it starts, per component, from the model's shape alone.
//!
//! The numbers are those that the engine allocates by, so they are exact for the engine's own buffers; what a device's
//! driver takes besides is a stated reserve.

mod config;
mod predict;
#[cfg(test)]
mod published;
#[cfg(test)]
mod tests;

use camino::Utf8Path;
use luthier_core::{
    ArtifactKind, ConfigIssue, ErrorClass, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, Section, Stage,
    StageContext, StageError, StageOutcome, StageResult, config_schema, parse_config,
};
use luthier_model::device::{Component, HostComponent};
use serde_json::Value;

pub use predict::{Fit, Prediction};

use crate::train::bytes_text;
use config::PlanConfig;

/// Predicts the memory of a training.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlanStage;

impl Stage for PlanStage {
    fn kind(&self) -> &'static str {
        "plan"
    }

    fn recipe_version(&self) -> u32 {
        4
    }

    fn about(&self) -> &'static str {
        "predicts the memory of a training, per component, and says which devices it fits"
    }

    fn schema(&self) -> Value {
        config_schema::<PlanConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/plan.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        &[
            InputPort {
                name: "model",
                accepts: &[ArtifactKind::Model],
                required: true,
                many: false,
                about: "the base model; a directory with config.json alone is enough",
            },
            InputPort {
                name: "data",
                accepts: &[ArtifactKind::Tokens],
                required: false,
                many: false,
                about: "the tokens to train on; without it every sequence is `length` long",
            },
        ]
    }

    fn outputs_about(&self) -> &'static str {
        "`plan`, a JSON report"
    }

    fn prepare(&self, with: &Value, _env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let config: PlanConfig = parse_config(with)?;
        let issues = config.check();
        if !issues.is_empty() {
            return Err(issues);
        }
        let config = serde_json::to_value(&config)
            .map_err(|error| vec![ConfigIssue::new("", format!("the configuration cannot be written: {error}"))])?;
        Ok(Prepared {
            key: config.clone(),
            config,
            outputs: vec![OutputDecl::new("plan", ArtifactKind::Report)],
            sources: Vec::new(),
            resources: Resources::ONE_THREAD,
            numeric_class: None,
        })
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let config: PlanConfig = context.config()?;
        let model = context.input("model")?.path.clone();
        let data = context.optional_input("data").map(|input| input.path.clone());
        let prediction = predict::predict(&model, data.as_deref(), &config)?;
        let mut text = serde_json::to_string_pretty(&prediction)
            .map_err(|error| StageError::new("plan::write", "the plan cannot be written").caused_by(error))?;
        text.push('\n');
        luthier_core::fs::write_atomic(&context.output("plan"), text.as_bytes())?;
        check_budget(&config, &prediction)?;
        let mut outcome = StageOutcome::new();
        outcome
            .metric("total", prediction.total as f64, "bytes")
            .metric("trainable_parameters", prediction.bytes.trainable_parameters as f64, "")
            .metric("flops_per_token", prediction.flops_per_token, "");
        for section in sections(&prediction) {
            outcome.section(section);
        }
        Ok(outcome)
    }
}

/// Predicts a training for callers outside a run: `with` is that of a `plan` stage.
///
/// # Errors
/// A configuration, model or data that is not valid.
pub fn predict_memory(model: &Utf8Path, data: Option<&Utf8Path>, with: &Value) -> StageResult<Prediction> {
    let config: PlanConfig = parse_config(with).map_err(|issues| {
        let text: Vec<String> = issues.iter().map(|issue| format!("{}: {}", issue.path, issue.message)).collect();
        StageError::input("plan::config", text.join("; ")).hint("see `luthier stages plan` for the parameters")
    })?;
    predict::predict(model, data, &config)
}

fn check_budget(config: &PlanConfig, prediction: &Prediction) -> StageResult<()> {
    let Some(budget) = predict::budget(config) else { return Ok(()) };
    let needed = prediction.total as u64 + prediction.reserve;
    if needed <= budget {
        return Ok(());
    }
    let mut error = StageError::new(
        "plan::over_budget",
        format!(
            "the training needs {} and {} in reserve, but the budget is {}",
            bytes_text(prediction.total),
            bytes_text(prediction.reserve as usize),
            bytes_text(budget as usize)
        ),
    )
    .class(ErrorClass::Expectation);
    for advice in &prediction.advice {
        error = error.hint(advice.clone());
    }
    Err(error)
}

/// The plan as tables.
#[must_use]
pub fn sections(prediction: &Prediction) -> Vec<Section> {
    let plan = &prediction.bytes;
    let table = |title: &str, columns: &[&str], rows: Vec<Vec<String>>| Section::Table {
        title: title.to_owned(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        rows,
    };
    let mut components: Vec<Vec<String>> = Component::ALL
        .into_iter()
        .filter(|component| plan.bytes(*component) > 0)
        .map(|component| {
            let bytes = plan.bytes(component);
            vec![component.to_string(), bytes.to_string(), bytes_text(bytes)]
        })
        .collect();
    if plan.paged > 0 {
        components.push(vec![
            "in a mapped file, not in the total".to_owned(),
            plan.paged.to_string(),
            bytes_text(plan.paged),
        ]);
    }
    for component in HostComponent::ALL {
        let bytes = plan.host.bytes(component);
        if bytes > 0 {
            let name = format!("page-locked host memory, not in the total: {component}");
            components.push(vec![name, bytes.to_string(), bytes_text(bytes)]);
        }
    }
    components.push(vec!["total".to_owned(), prediction.total.to_string(), bytes_text(prediction.total)]);
    let shared = plan.phases.largest();
    let phases = [
        ("loss", plan.phases.loss),
        ("feed-forward backward", plan.phases.feed_forward_backward),
        ("attention backward", plan.phases.attention_backward),
        ("forward", plan.phases.forward),
        ("optimiser step", 0),
        ("largest", shared),
    ];
    let phases = phases
        .map(|(phase, bytes)| vec![phase.to_owned(), bytes_text(bytes), bytes_text(prediction.total - shared + bytes)])
        .to_vec();
    let peaks = prediction.accelerator.peaks;
    let accelerator = [
        ("weights", prediction.accelerator.weights),
        ("embeddings", prediction.accelerator.embeddings),
        ("adapters", prediction.accelerator.adapters),
        ("gradients", prediction.accelerator.gradients),
        ("optimizer", prediction.accelerator.optimizer),
        ("activations", prediction.accelerator.activations),
        ("checkpoint", prediction.accelerator.checkpoint),
        ("dequantised weight", prediction.accelerator.dequantized),
        ("context", prediction.accelerator.context),
        ("peak in the loss", peaks.loss),
        ("peak in the widest backward", peaks.widest_backward),
        ("peak in the optimiser step", peaks.optimizer_step),
        ("total: the largest of the three", prediction.accelerator.total),
        ("in host memory", prediction.accelerator.host),
    ];
    let accelerator = accelerator
        .into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(name, bytes)| vec![name.to_owned(), bytes.to_string(), bytes_text(bytes)])
        .collect();
    let fits = |fits: &[Fit]| {
        fits.iter()
            .map(|fit| {
                let yes = if fit.fits { "fits" } else { "does not fit" };
                vec![format!("{} GB", fit.gigabytes), yes.to_owned(), fit.largest_batch.to_string()]
            })
            .collect()
    };
    let devices = ["memory", "this training", "largest batch of full sequences with checkpointing"];
    let mut sections = vec![
        table("Memory by component", &["component", "bytes", ""], components),
        table("Peaks that share the workspace", &["phase", "bytes", "all that is alive then"], phases),
        table("Devices", &devices, fits(&prediction.fits)),
        table("On a device that computes in bf16: computed, not run by this build", &["", "bytes", ""], accelerator),
        table("Devices that compute in bf16", &devices, fits(&prediction.accelerator_fits)),
    ];
    if !prediction.advice.is_empty() {
        sections.push(Section::Text { title: "To need less".to_owned(), body: prediction.advice.join("\n") });
    }
    sections
}
