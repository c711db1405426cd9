//! An adapter in PEFT's format, as merging sees it: which weights it changes and how.
//!
//! Everything in the directory is either honoured or refused: a key or tensor that is not understood would silently
//! change the model. Source: PEFT's `LoraConfig` and its checkpoint format.

use std::collections::BTreeMap;

use camino::Utf8Path;
use indexmap::IndexMap;
use luthier_core::{Digest, InputArtifact, StageError, StageResult};
use luthier_formats::model_files::{SafetensorsSet, StoredTensor, TensorSpec};
use luthier_formats::quant;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

/// What the trainer says about the base, beside PEFT's own keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Stamp {
    pub base: Digest,
    pub quantizer: String,
}

/// The low-rank change of one weight: `scale · B · A`.
#[derive(Debug, Clone)]
pub(super) struct LowRank {
    pub rank: usize,
    pub scale: f32,
    a: StoredTensor,
    b: StoredTensor,
    magnitude: Option<StoredTensor>,
}

/// What an adapter does to one weight.
#[derive(Debug, Clone)]
pub(super) enum Change {
    LowRank(Box<LowRank>),
    /// The whole tensor, from `modules_to_save`.
    Replace(StoredTensor),
}

/// An open adapter.
pub(super) struct Adapter {
    /// `stage.output` of the pipeline, for tables and messages.
    pub label: String,
    set: SafetensorsSet,
    /// By the name of the weight, sorted.
    pub changes: BTreeMap<String, Change>,
    pub stamp: Option<Stamp>,
}

/// Keys of adapter_config.json that matter when merging. All others concern training only.
#[derive(Deserialize)]
struct PeftConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    lora_bias: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    rank_pattern: Option<IndexMap<String, usize>>,
    #[serde(default)]
    alpha_pattern: Option<IndexMap<String, f64>>,
    #[serde(default)]
    layer_replication: Option<Value>,
    #[serde(default)]
    trainable_token_indices: Option<Value>,
    #[serde(default)]
    target_parameters: Option<Value>,
    #[serde(default)]
    init_lora_weights: Option<Value>,
    #[serde(default)]
    luthier: Option<Stamp>,
}

/// Initialisations that change the base weights, so that the adapter alone does not say what was trained.
const BASE_CHANGING: [&str; 5] = ["pissa", "olora", "loftq", "corda", "mica"];

impl PeftConfig {
    fn refuse(&self, label: &str) -> StageResult<()> {
        let named = |value: &Option<Value>| {
            value.as_ref().is_some_and(|value| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(items) => !items.is_empty(),
                _ => true,
            })
        };
        let initialization = self.init_lora_weights.as_ref().and_then(Value::as_str).unwrap_or_default();
        let reasons = [
            (self.peft_type != "LORA", format!("is of type `{}`, expected `LORA`", self.peft_type)),
            (self.fan_in_fan_out, "sets `fan_in_fan_out`".to_owned()),
            (self.lora_bias, "sets `lora_bias`".to_owned()),
            (self.bias.as_deref().is_some_and(|bias| bias != "none"), "trains biases".to_owned()),
            (named(&self.layer_replication), "replicates layers".to_owned()),
            (named(&self.trainable_token_indices), "trains single token embeddings".to_owned()),
            (named(&self.target_parameters), "targets parameters of experts".to_owned()),
            (
                BASE_CHANGING.iter().any(|name| initialization.starts_with(name)),
                format!("was initialised by `{initialization}`, which changes the base weights too"),
            ),
        ];
        match reasons.into_iter().find(|(wrong, _)| *wrong) {
            None => Ok(()),
            Some((_, reason)) => Err(StageError::input(
                "merge::unsupported_adapter",
                format!("the adapter `{label}` {reason}; merging it would give another model than was trained"),
            )
            .hint("merge it with PEFT's `merge_and_unload` and use the result as `model`")),
        }
    }
}

struct Patterns {
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

impl Patterns {
    fn new(config: &PeftConfig, label: &str) -> StageResult<Self> {
        let compile = |pattern: &str| {
            Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|error| {
                StageError::input(
                    "merge::bad_adapter",
                    format!("the adapter `{label}` has the pattern `{pattern}`, which is not a regular expression that can be used here"),
                )
                .hint("write `rank_pattern` and `alpha_pattern` without look-around")
                .caused_by(error)
            })
        };
        let ranks = config.rank_pattern.iter().flatten().map(|(key, rank)| Ok((compile(key)?, *rank)));
        let alphas = config.alpha_pattern.iter().flatten().map(|(key, alpha)| Ok((compile(key)?, *alpha)));
        Ok(Self { ranks: ranks.collect::<StageResult<_>>()?, alphas: alphas.collect::<StageResult<_>>()? })
    }
}

/// The parts of one module's tensors while they are gathered.
#[derive(Default)]
struct Parts {
    a: Option<StoredTensor>,
    b: Option<StoredTensor>,
    magnitude: Option<StoredTensor>,
}

impl Adapter {
    /// Opens an adapter and matches it with the tensors of a model.
    ///
    /// # Errors
    /// A missing or damaged file, a feature that cannot be honoured, a tensor that fits no weight of the model.
    pub(super) fn open(input: &InputArtifact, specs: &IndexMap<String, TensorSpec>, tied: bool) -> StageResult<Self> {
        let directory = &input.path;
        let config_path = directory.join("adapter_config.json");
        let weights_path = directory.join("adapter_model.safetensors");
        for path in [&config_path, &weights_path] {
            if !path.is_file() {
                return Err(StageError::input("merge::bad_adapter", format!("`{path}` does not exist"))
                    .hint("an adapter is a directory with adapter_config.json and adapter_model.safetensors"));
            }
        }
        let config: PeftConfig = serde_json::from_slice(&fs_err::read(&config_path)?).map_err(|error| {
            StageError::input("merge::bad_adapter", "is not a PEFT configuration")
                .at(config_path.clone(), error.line() as u64, error.column() as u64)
                .hint("an adapter's configuration has at least `peft_type`, `r` and `lora_alpha`")
                .caused_by(error)
        })?;
        config.refuse(&input.from)?;
        let stamp = config.luthier.clone().or_else(|| stamp_of(&weights_path));
        let set = SafetensorsSet::open_files(vec![weights_path])?;
        let mut adapter = Self { label: input.from.clone(), set, changes: BTreeMap::new(), stamp };
        adapter.changes = adapter.read_changes(&config, specs, tied)?;
        Ok(adapter)
    }

    fn read_changes(
        &self,
        config: &PeftConfig,
        specs: &IndexMap<String, TensorSpec>,
        tied: bool,
    ) -> StageResult<BTreeMap<String, Change>> {
        let patterns = Patterns::new(config, &self.label)?;
        let mut changes = BTreeMap::new();
        let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
        for (name, tensor) in self.set.tensors() {
            let Some(inner) = name.strip_prefix("base_model.model.") else {
                return Err(self.unknown_tensor(name));
            };
            if let Some(module) = inner.strip_suffix(".lora_A.weight") {
                modules.entry(module.to_owned()).or_default().a = Some(tensor.clone());
            } else if let Some(module) = inner.strip_suffix(".lora_B.weight") {
                modules.entry(module.to_owned()).or_default().b = Some(tensor.clone());
            } else if let Some(module) = inner.strip_suffix(".lora_magnitude_vector") {
                modules.entry(module.to_owned()).or_default().magnitude = Some(tensor.clone());
            } else if let Some(shape) = weight_shape(inner, specs, tied) {
                if tensor.shape != shape {
                    return Err(self.wrong_shape(name, tensor, &shape));
                }
                changes.insert(inner.to_owned(), Change::Replace(tensor.clone()));
            } else {
                return Err(self.unknown_tensor(name));
            }
        }
        for (module, parts) in modules {
            let weight = format!("{module}.weight");
            let change = self.low_rank(&module, &weight, parts, config, &patterns, specs, tied)?;
            if changes.insert(weight.clone(), change).is_some() {
                return Err(self.bad(format!("has both a low-rank change and a whole tensor for `{weight}`")));
            }
        }
        if changes.is_empty() {
            return Err(self.bad("changes nothing: it holds no tensors".to_owned()));
        }
        Ok(changes)
    }

    #[expect(clippy::too_many_arguments, reason = "the module, its parts and everything they are checked against")]
    fn low_rank(
        &self,
        module: &str,
        weight: &str,
        parts: Parts,
        config: &PeftConfig,
        patterns: &Patterns,
        specs: &IndexMap<String, TensorSpec>,
        tied: bool,
    ) -> StageResult<Change> {
        let (Some(a), Some(b)) = (parts.a, parts.b) else {
            return Err(self.bad(format!("has only one of lora_A and lora_B for `{module}`")));
        };
        let Some(shape) = weight_shape(weight, specs, tied) else {
            return Err(StageError::input(
                "merge::no_such_weight",
                format!("the adapter `{}` changes `{weight}`, which the model does not have", self.label),
            )
            .hint("merge it into the model that it was trained on"));
        };
        let rank = find(&patterns.ranks, module).unwrap_or(config.r);
        let alpha = find(&patterns.alphas, module).unwrap_or(config.lora_alpha);
        let [rows, columns] = shape[..] else {
            return Err(self.bad(format!("has a low-rank change of the vector `{weight}`")));
        };
        for (name, tensor, wanted) in [("lora_A", &a, [rank, columns]), ("lora_B", &b, [rows, rank])] {
            if tensor.shape != wanted {
                return Err(self.wrong_shape(&format!("{module}.{name}.weight"), tensor, &wanted));
            }
        }
        match &parts.magnitude {
            Some(magnitude) if magnitude.shape.iter().product::<usize>() != rows => {
                return Err(self.wrong_shape(&format!("{module}.lora_magnitude_vector"), magnitude, &[rows]));
            }
            None if config.use_dora => {
                return Err(self.bad(format!("uses DoRA but has no magnitudes for `{module}`")));
            }
            Some(_) if !config.use_dora => {
                return Err(self.bad(format!("has magnitudes for `{module}` but does not set `use_dora`")));
            }
            _ => {}
        }
        let divisor = if config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        let scale = (alpha / divisor) as f32;
        if rank == 0 || !scale.is_finite() {
            return Err(self.bad(format!("has rank {rank} and alpha {alpha} for `{module}`")));
        }
        Ok(Change::LowRank(Box::new(LowRank { rank, scale, a, b, magnitude: parts.magnitude })))
    }

    fn bad(&self, what: String) -> StageError {
        StageError::input("merge::bad_adapter", format!("the adapter `{}` {what}", self.label))
            .hint("train or download the adapter again")
    }

    fn unknown_tensor(&self, name: &str) -> StageError {
        StageError::input(
            "merge::unknown_tensor",
            format!(
                "the adapter `{}` has the tensor `{name}`; expected `base_model.model.….lora_A.weight`, `….lora_B.weight`, \
                 `….lora_magnitude_vector` or a weight of the model",
                self.label
            ),
        )
        .hint("save the adapter with PEFT's `save_pretrained`; LoRA on embeddings is not supported")
    }

    fn wrong_shape(&self, name: &str, tensor: &StoredTensor, wanted: &[usize]) -> StageError {
        StageError::input(
            "merge::shape",
            format!("the adapter `{}` has `{name}` of shape {:?}, expected {wanted:?}", self.label, tensor.shape),
        )
        .hint("merge it into the model that it was trained on; resized vocabularies are not supported")
    }

    /// Decodes a tensor of the adapter.
    pub(super) fn read(&self, tensor: &StoredTensor) -> StageResult<Vec<f32>> {
        let mut values = vec![0.0; tensor.shape.iter().product()];
        quant::dequantize(tensor.tensor_type, self.set.bytes(tensor), &mut values)
            .map_err(|error| error.in_tensor(self.set.path_of(tensor), "of the adapter"))?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(self
                .bad(format!("holds {value} where a finite number was expected"))
                .hint("its training diverged; lower the learning rate and train again"));
        }
        Ok(values)
    }

    /// `A [rank, columns]` and `B [rows, rank]`.
    pub(super) fn factors(&self, change: &LowRank) -> StageResult<(Vec<f32>, Vec<f32>)> {
        Ok((self.read(&change.a)?, self.read(&change.b)?))
    }

    pub(super) fn magnitude(&self, change: &LowRank) -> StageResult<Option<Vec<f32>>> {
        change.magnitude.as_ref().map(|magnitude| self.read(magnitude)).transpose()
    }

    /// Whether any change is DoRA's, which cannot be added to others.
    pub(super) fn has_magnitudes(&self) -> bool {
        self.changes.values().any(|change| matches!(change, Change::LowRank(low) if low.magnitude.is_some()))
    }

    pub(super) fn replaces(&self) -> bool {
        self.changes.values().any(|change| matches!(change, Change::Replace(_)))
    }
}

fn find<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

/// The shape of a weight of the model; a tied head has the embedding's.
fn weight_shape(name: &str, specs: &IndexMap<String, TensorSpec>, tied: bool) -> Option<Vec<usize>> {
    let name = if tied && name == "lm_head.weight" { "model.embed_tokens.weight" } else { name };
    specs.get(name).map(|spec| spec.shape.clone())
}

/// The stamp in the metadata of the weights' header, if there is one.
fn stamp_of(path: &Utf8Path) -> Option<Stamp> {
    let file = fs_err::File::open(path).ok()?;
    // SAFETY: the map is only read, and dropped here; the file is an immutable artifact.
    let map = unsafe { memmap2::Mmap::map(file.file()) }.ok()?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&map).ok()?;
    let text = header.metadata().as_ref()?.get("luthier")?.clone();
    serde_json::from_str(&text).ok()
}
