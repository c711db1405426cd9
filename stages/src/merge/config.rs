//! `with` of a merge.

use luthier_core::ConfigIssue;
use luthier_formats::quant::TensorType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which weights the adapter is added to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum MergeBase {
    /// The model's own weights.
    #[default]
    Original,
    /// The weights as QLoRA saw them: quantised to NF4 and back.
    Dequantized,
}

/// What the merged model is stored as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum MergeType {
    F32,
    F16,
    #[default]
    Bf16,
    /// Projections in the 4-bit layout of bitsandbytes (NF4, double quantisation), everything else `bf16`.
    Nf4,
}

impl MergeType {
    /// Of tensors that are not in 4 bits.
    pub(super) const fn tensor_type(self) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::F16 => TensorType::F16,
            Self::Bf16 | Self::Nf4 => TensorType::BF16,
        }
    }

    /// As config.json names it.
    pub(super) const fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 | Self::Nf4 => "bfloat16",
        }
    }
}

/// How several adapters become one change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum MergeMethod {
    /// The weighted sum of the changes.
    #[default]
    Linear,
    /// Keep the largest changes of each adapter, agree on a sign per weight, average those that have it.
    Ties,
    /// Drop changes at random and rescale the rest, then the weighted sum.
    Dare,
}

fn default_density() -> f64 {
    0.5
}

fn default_gap_samples() -> usize {
    64
}

fn default_max_shard() -> u64 {
    5_000_000_000
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MergeConfig {
    /// `original` adds the adapter to the model's own weights; `dequantized` to the weights that QLoRA trained against.
    #[serde(default)]
    pub base: MergeBase,
    /// How the merged model is stored: `f32`, `f16`, `bf16`, or `nf4` in the 4-bit layout of bitsandbytes.
    #[serde(default)]
    pub dtype: MergeType,
    /// How several adapters are combined: `linear`, `ties` or `dare`.
    #[serde(default)]
    pub method: MergeMethod,
    /// One number per adapter, in their order; by default equal, with sum 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Vec<f64>>,
    /// `ties` and `dare`: the share of each adapter's changes that is kept.
    #[serde(default = "default_density")]
    #[schemars(range(min = 0.001, max = 1.0))]
    pub density: f64,
    /// `dare`: seed of the random choice.
    #[serde(default)]
    pub seed: u64,
    /// Bytes of a safetensors file at most; one tensor may be more.
    #[serde(default = "default_max_shard")]
    #[schemars(range(min = 1))]
    pub max_shard: u64,
    /// Gives a model with tied embeddings a head of its own when an adapter changes only one of the two.
    #[serde(default)]
    pub untie: bool,
    /// With `data`: how many of its samples the loss is measured on; 0 for all.
    #[serde(default = "default_gap_samples")]
    pub gap_samples: usize,
    /// Merges an adapter into another base than the one it was trained on.
    #[serde(default)]
    pub allow_other_base: bool,
}

impl MergeConfig {
    /// What the schema cannot say.
    pub(super) fn check(&self, with: &Value) -> Vec<ConfigIssue> {
        let mut issues = Vec::new();
        for (index, weight) in self.weights.iter().flatten().enumerate() {
            if !weight.is_finite() {
                issues
                    .push(ConfigIssue::new(format!("weights[{index}]"), format!("`{weight}` is not a finite number")));
            }
        }
        if let (MergeMethod::Ties, Some(weights)) = (self.method, &self.weights)
            && let Some(index) = weights.iter().position(|weight| *weight <= 0.0)
        {
            issues.push(
                ConfigIssue::new(format!("weights[{index}]"), "`ties` needs positive weights")
                    .help("leave the adapter out, or use `method: linear`"),
            );
        }
        for (key, methods) in [("density", &[MergeMethod::Ties, MergeMethod::Dare][..]), ("seed", &[MergeMethod::Dare])]
        {
            if with.get(key).is_some() && !methods.contains(&self.method) {
                let mut issue = ConfigIssue::new(key, format!("`{key}` has no effect on this method"))
                    .help("remove it, or set `method: dare`");
                issue.on_key = true;
                issues.push(issue);
            }
        }
        issues
    }
}
