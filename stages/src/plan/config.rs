//! `with` of a memory plan: what of a training its memory depends on.

use std::collections::BTreeMap;

use luthier_core::ConfigIssue;
use luthier_model::device::Storage;
use luthier_model::train::TrainSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::{Compute, ComputeType, Cublas, DeviceChoice};
use crate::one_or_many::OneOrMany;
use crate::train::{Method, OffloadName, OptimizerName, StreamName, TrainConfig, defaults};

/// How the model's tensors are stored, where the files are not there to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoredType {
    F32,
    F16,
    Bf16,
}

impl StoredType {
    pub(crate) fn storage(self) -> Storage {
        match self {
            Self::F32 => Storage::F32,
            Self::F16 => Storage::F16,
            Self::Bf16 => Storage::Bf16,
        }
    }
}

/// `with` of a memory plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanConfig {
    /// `qlora` keeps the base in NF4, `lora` as stored.
    #[serde(default)]
    pub method: Method,
    /// Rank of the adapters.
    #[serde(default = "defaults::rank")]
    #[schemars(range(min = 1, max = 4096))]
    pub rank: usize,
    /// Taken for the same keys as a training; memory does not depend on it.
    #[serde(default = "defaults::alpha")]
    #[schemars(range(min = 0.0))]
    pub alpha: f64,
    /// Above 0, dropout needs room for masked inputs.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
    /// As of `train`.
    #[serde(default = "defaults::targets")]
    pub targets: OneOrMany,
    /// As of `train`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// As of `train`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(extend("default" = false))]
    pub dora: bool,
    /// As of `train`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// As of `train`.
    #[serde(default, skip_serializing_if = "OptimizerName::is_default")]
    #[schemars(extend("default" = "adamw"))]
    pub optimizer: OptimizerName,
    /// Samples, or packed bins, that go through the model together.
    #[serde(default = "defaults::batch")]
    #[schemars(range(min = 1, max = 1048576))]
    pub batch: usize,
    /// Batches per optimiser step; memory does not depend on it.
    #[serde(default = "defaults::accumulate")]
    #[schemars(range(min = 1, max = 1048576))]
    pub accumulate: usize,
    /// Optimiser steps; instead of `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Passes over the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub epochs: Option<f64>,
    /// The seed of the training, whose order decides its largest batch.
    #[serde(default)]
    pub seed: u64,
    /// Keep only block inputs and recompute the rest.
    #[serde(default)]
    pub checkpointing: bool,
    /// As of `train`.
    #[serde(default = "defaults::yes")]
    pub share_prefix: bool,
    /// As of `train`: the blocks stay on disk, two of them in memory at a time.
    #[serde(default, skip_serializing_if = "StreamName::is_none")]
    #[schemars(extend("default" = "none"))]
    pub stream: StreamName,
    /// As of `train`, where block inputs wait in host memory; for `device: cuda` and the prediction of a bf16 device.
    #[serde(default, skip_serializing_if = "OffloadName::is_none")]
    #[schemars(extend("default" = "none"))]
    pub offload: OffloadName,
    /// Whose memory is planned, `cpu` or `cuda`: it need not be there.
    #[serde(default = "crate::device::cpu", skip_serializing_if = "crate::device::is_cpu")]
    #[schemars(extend("default" = "cpu"), regex(pattern = r"^(cpu|cuda(:[0-9]{1,3})?)$"))]
    pub device: String,
    /// As of `train`; `auto` plans for a device that has bf16.
    #[serde(default, skip_serializing_if = "ComputeType::is_default")]
    #[schemars(extend("default" = "auto"))]
    pub compute_type: ComputeType,
    /// As of `train`; `auto` plans for a machine that has cuBLAS.
    #[serde(default, skip_serializing_if = "Cublas::is_default")]
    #[schemars(extend("default" = "auto"))]
    pub cublas: Cublas,
    /// Tokens of every sequence, where `data` is not connected; by default 2048 or the model's positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub length: Option<usize>,
    /// How the tensors are stored, where only config.json is there and does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<StoredType>,
    /// The memory that it must fit, such as `24GB` or `16GiB`: the stage fails if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
}

/// `24GB`, `512 MB`, `16GiB`, or a number of bytes.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" | "g" => 1e9,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        _ => return None,
    };
    Some((number * factor) as u64)
}

impl PlanConfig {
    pub fn check(&self) -> Vec<ConfigIssue> {
        let mut issues = self.training().check();
        if let Some(text) = self.budget.as_ref().filter(|text| parse_bytes(text).is_none()) {
            issues.push(ConfigIssue::new("budget", format!("`{text}` is not a size")).help("write `24GB` or `16GiB`"));
        }
        if !matches!(DeviceChoice::parse(&self.device), Some(DeviceChoice::Cpu | DeviceChoice::Cuda(_))) {
            let issue = ConfigIssue::new("device", format!("there is no device `{}` to plan for", self.device));
            issues.push(issue.help("write `cpu` or `cuda`"));
        }
        issues
    }

    fn training(&self) -> TrainConfig {
        TrainConfig {
            method: self.method,
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            targets: self.targets.clone(),
            rank_pattern: self.rank_pattern.clone(),
            dora: self.dora,
            layers_to_transform: self.layers_to_transform.clone(),
            optimizer: self.optimizer,
            batch: self.batch,
            accumulate: self.accumulate,
            steps: self.steps,
            epochs: self.epochs,
            seed: self.seed,
            checkpointing: self.checkpointing,
            share_prefix: self.share_prefix,
            stream: self.stream,
            offload: self.offload,
            ..TrainConfig::default()
        }
    }

    /// Whether the device has memory of its own.
    pub fn is_apart(&self) -> bool {
        matches!(DeviceChoice::parse(&self.device), Some(DeviceChoice::Cuda(_)))
    }

    pub fn compute(&self) -> Compute {
        Compute { factors: self.compute_type, cublas: self.cublas }
    }

    pub fn spec(&self) -> TrainSpec {
        let mut spec = self.training().spec();
        spec.offload &= self.is_apart();
        if self.optimizer.is_paged() {
            spec.pages = Some(camino::Utf8PathBuf::new());
        }
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn sizes_are_read_in_both_units() {
        assert_eq!(parse_bytes("24GB"), Some(24_000_000_000));
        assert_eq!(parse_bytes("1.5 GiB"), Some(1_610_612_736));
        assert_eq!(parse_bytes("700"), Some(700));
        assert_eq!(parse_bytes("lots"), None);
        assert_eq!(parse_bytes("3 parsecs"), None);
    }
}
