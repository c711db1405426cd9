//! The `with` block of `eval`.

use std::collections::BTreeMap;

use luthier_core::ConfigIssue;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expect::Expectation;
use crate::device::{Compute, ComputeType, Cublas};

/// What to measure. At least one of `generation`, `perplexity`, `multiple_choice` and `forgetting` must be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Answers the prompts of `data` and compares with their references.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationConfig>,
    /// Likelihood of the completions of `data` given their prompts, or of its texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<PerplexityConfig>,
    /// Chooses among the choices of each row of `data` by their likelihood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiple_choice: Option<MultipleChoiceConfig>,
    /// What the adapter did to general text; on wherever there is an adapter.
    #[serde(default)]
    pub forgetting: ForgettingConfig,
    /// Conditions such as `tuned.exact_match: ">= 0.3"` or `tuned.phoneme_error_rate: "< 0.5 * base"`; one that does not
    /// hold fails the run with exit code 3.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expect: BTreeMap<String, String>,
    /// A system message before each prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Whether prompts go through the model's chat template.
    #[serde(default)]
    pub template: TemplateUse,
    /// Rows of `data` at most, from its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
    /// How the base weights are held while measuring, for base and tuned alike.
    #[serde(default)]
    pub precision: Precision,
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
    /// Seed of the bootstrap.
    #[serde(default)]
    pub seed: u64,
}

/// Whether prompts go through the chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TemplateUse {
    /// If the model has one and the rows are not plain text.
    #[default]
    Auto,
    /// Never: prompts are continued as they are.
    None,
}

/// How base weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As the adapter was trained: NF4 for QLoRA, else as stored.
    #[default]
    AsTrained,
    /// As the model file holds them.
    Stored,
}

/// Greedy generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerationConfig {
    /// New tokens per answer at most.
    #[serde(default = "max_new_tokens")]
    #[schemars(range(min = 1, max = 32768))]
    pub max_new_tokens: u32,
    /// What to compute from answers and references.
    #[serde(default = "default_metrics")]
    #[schemars(length(min = 1))]
    pub metrics: Vec<GenerationMetric>,
    /// Texts that end an answer, besides the model's own end tokens; they are cut off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// A regular expression that finds the answer in the output and in the reference: its first group, or all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<String>,
    /// Which match of `extract` counts.
    #[serde(default)]
    pub take: Take,
    /// Exact match without regard to case.
    #[serde(default)]
    pub ignore_case: bool,
    /// Exact match without ASCII punctuation.
    #[serde(default)]
    pub ignore_punctuation: bool,
    /// Exact match without digits.
    #[serde(default)]
    pub ignore_numbers: bool,
    /// Exact match after deleting what these regular expressions match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regexes_to_ignore: Vec<String>,
    /// Rows shown side by side in the report.
    #[serde(default = "samples")]
    pub samples: u32,
}

/// A number computed from an answer and its reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GenerationMetric {
    /// 1 where answer and reference are the same text.
    ExactMatch,
    /// 1 where the answer contains the reference.
    Contains,
    /// Edits between the words of answers and references, over the words of all references.
    WordErrorRate,
    /// The same, where the words are phonemes.
    PhonemeErrorRate,
    /// Edits between characters, over the characters of all references.
    CharacterErrorRate,
}

impl GenerationMetric {
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExactMatch => "exact_match",
            Self::Contains => "contains",
            Self::WordErrorRate => "word_error_rate",
            Self::PhonemeErrorRate => "phoneme_error_rate",
            Self::CharacterErrorRate => "character_error_rate",
        }
    }
}

/// Which of several matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    #[default]
    First,
    Last,
}

/// Likelihood of given text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PerplexityConfig {
    /// Tokens of a window; longer texts are scored window by window, each with one token of context.
    #[serde(default = "window")]
    #[schemars(range(min = 2))]
    pub window: u32,
}

/// Multiple choice by likelihood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MultipleChoiceConfig {
    /// Column with the choices, a JSON list of texts.
    #[serde(default = "choices_column")]
    pub choices: String,
    /// Column with the right one: its index, its letter, or its text.
    #[serde(default = "answer_column")]
    pub answer: String,
    /// Between the prompt and a choice, where no chat template stands between them.
    #[serde(default = "delimiter")]
    pub delimiter: String,
}

/// General text before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForgettingConfig {
    /// Whether it is measured.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Tokens of a window.
    #[serde(default = "window")]
    #[schemars(range(min = 2))]
    pub window: u32,
    /// Documents at most, taken at even distances from all that are long enough.
    #[serde(default = "documents")]
    #[schemars(range(min = 1))]
    pub documents: u32,
    /// Bytes that a document must have to be taken.
    #[serde(default = "min_bytes")]
    pub min_bytes: u32,
}

impl Default for ForgettingConfig {
    fn default() -> Self {
        Self { enabled: true, window: window(), documents: documents(), min_bytes: min_bytes() }
    }
}

fn documents() -> u32 {
    32
}

fn min_bytes() -> u32 {
    100
}

fn max_new_tokens() -> u32 {
    128
}

fn default_metrics() -> Vec<GenerationMetric> {
    vec![GenerationMetric::ExactMatch]
}

fn samples() -> u32 {
    12
}

fn window() -> u32 {
    512
}

fn choices_column() -> String {
    "choices".to_owned()
}

fn answer_column() -> String {
    "answer".to_owned()
}

fn delimiter() -> String {
    " ".to_owned()
}

fn yes() -> bool {
    true
}

impl EvalConfig {
    pub fn compute(&self) -> Compute {
        Compute { factors: self.compute_type, cublas: self.cublas }
    }

    /// Everything wrong that a schema cannot say.
    pub fn check(&self) -> Vec<ConfigIssue> {
        let mut issues = Vec::new();
        if self.generation.is_none()
            && self.perplexity.is_none()
            && self.multiple_choice.is_none()
            && !self.forgetting.enabled
        {
            issues.push(
                ConfigIssue::new("", "nothing to measure")
                    .help("add `generation: {}`, `perplexity: {}` or `multiple_choice: {}`"),
            );
        }
        if let Some(generation) = &self.generation {
            let patterns = generation.extract.iter().map(|pattern| ("generation.extract".to_owned(), pattern)).chain(
                generation
                    .regexes_to_ignore
                    .iter()
                    .enumerate()
                    .map(|(index, pattern)| (format!("generation.regexes_to_ignore[{index}]"), pattern)),
            );
            for (path, pattern) in patterns {
                if let Err(error) = Regex::new(pattern) {
                    let text = error.to_string();
                    let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    issues.push(
                        ConfigIssue::new(path, format!("`{pattern}` is not a regular expression: {reason}"))
                            .help("quote it with single quotes in YAML, so that backslashes stay"),
                    );
                }
            }
            let mut seen: Vec<GenerationMetric> = Vec::new();
            for (index, metric) in generation.metrics.iter().enumerate() {
                if seen.contains(metric) {
                    let path = format!("generation.metrics[{index}]");
                    issues.push(ConfigIssue::new(path, format!("`{}` is listed twice", metric.name())));
                }
                seen.push(*metric);
            }
        }
        for (name, condition) in &self.expect {
            if let Err(issue) = Expectation::parse(name, condition) {
                issues.push(issue);
            }
        }
        issues
    }

    /// Whether rows of `data` are read.
    pub fn needs_data(&self) -> bool {
        self.generation.is_some() || self.perplexity.is_some() || self.multiple_choice.is_some()
    }
}
