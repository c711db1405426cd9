//! An adapter in PEFT's format, as merging sees it: which weights it changes and how.
//!
//! Everything in the directory is either honoured or refused: a key or tensor that is not understood would silently
//! change the model. Source: PEFT's `LoraConfig` and its checkpoint format.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use luthier_core::{InputArtifact, StageError, StageResult};
use luthier_formats::model_files::{SafetensorsSet, StoredTensor, TensorSpec};
use luthier_formats::quant;
use luthier_model::adapter::{AdapterStamp, PeftConfig};

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
    pub stamp: Option<AdapterStamp>,
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
        let config = PeftConfig::read(&input.path, &input.from)?;
        let stamp = AdapterStamp::of(&input.path);
        let set = SafetensorsSet::open_files(vec![input.path.join("adapter_model.safetensors")])?;
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
            let change = self.low_rank(&module, &weight, parts, config, specs, tied)?;
            if changes.insert(weight.clone(), change).is_some() {
                return Err(self.bad(format!("has both a low-rank change and a whole tensor for `{weight}`")));
            }
        }
        if changes.is_empty() {
            return Err(self.bad("changes nothing: it holds no tensors".to_owned()));
        }
        Ok(changes)
    }

    fn low_rank(
        &self,
        module: &str,
        weight: &str,
        parts: Parts,
        config: &PeftConfig,
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
        let (rank, scale) = (config.rank(module), config.scale(module));
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
            None if config.use_dora() => {
                return Err(self.bad(format!("uses DoRA but has no magnitudes for `{module}`")));
            }
            Some(_) if !config.use_dora() => {
                return Err(self.bad(format!("has magnitudes for `{module}` but does not set `use_dora`")));
            }
            _ => {}
        }
        if rank == 0 || !scale.is_finite() {
            return Err(self.bad(format!("has rank {rank} and alpha {} for `{module}`", config.alpha(module))));
        }
        Ok(Change::LowRank(Box::new(LowRank { rank, scale, a, b, magnitude: parts.magnitude })))
    }

    fn bad(&self, what: String) -> StageError {
        StageError::input("adapter::damaged", format!("the adapter `{}` {what}", self.label))
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

/// The shape of a weight of the model; a tied head has the embedding's.
fn weight_shape(name: &str, specs: &IndexMap<String, TensorSpec>, tied: bool) -> Option<Vec<usize>> {
    let name = if tied && name == "lm_head.weight" { "model.embed_tokens.weight" } else { name };
    specs.get(name).map(|spec| spec.shape.clone())
}
