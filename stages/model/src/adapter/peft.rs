//! PEFT's adapter directory: `adapter_config.json` and `adapter_model.safetensors`, written with fixed bytes and read
//! back. Source: PEFT's `LoraConfig` and its checkpoint format guide.
//!
//! Two things that PEFT has no key for travel in the safetensors metadata under `luthier`, where PEFT ignores them: how
//! the base was quantised while the adapter was trained, and the digest of that base.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Digest, StageError, StageResult};
use luthier_formats::model_files::ModelConfig;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::peft_config::{CONFIG, PeftConfig, TENSORS};
use super::set::{AdapterSet, Slot, parameters};
use super::spec::{Initialization, LoraSpec};
use super::targets::Targets;
use crate::decoder::BaseFormat;
use crate::projection::Projection;

/// What an adapter was trained against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterStamp {
    /// Digest of the base model's artifact.
    pub base: Digest,
    /// [`crate::BaseFormat::quantizer_id`].
    pub quantizer: String,
}

/// An adapter read from disk.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFiles {
    pub path: Utf8PathBuf,
    pub slots: Vec<Slot>,
    /// Laid out as the slots say.
    pub values: Vec<f32>,
    /// `base_model_name_or_path`.
    pub base_model: Option<String>,
    /// Absent from adapters of other programs.
    pub stamp: Option<AdapterStamp>,
}

/// Writes an adapter that PEFT loads; equal input gives equal bytes.
///
/// # Errors
/// Any write error.
pub fn write_adapter(
    directory: &Utf8Path,
    spec: &LoraSpec,
    slots: &[Slot],
    values: &[f32],
    base_model: Option<&str>,
    stamp: &AdapterStamp,
) -> StageResult<()> {
    fs_err::create_dir_all(directory)?;
    let mut config = serde_json::to_string_pretty(&peft_config(spec, slots, base_model)).map_err(not_json)?;
    config.push('\n');
    luthier_core::fs::write_atomic(&directory.join(CONFIG), config.as_bytes())?;
    luthier_core::fs::write_atomic(&directory.join(TENSORS), &tensor_file(slots, values, stamp)?)?;
    Ok(())
}

fn not_json(error: serde_json::Error) -> StageError {
    StageError::new("adapter::write", "the adapter's configuration could not be written").caused_by(error)
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

fn peft_config(spec: &LoraSpec, slots: &[Slot], base_model: Option<&str>) -> Value {
    // Last parts of names if they select exactly the slots, else whole names.
    let layers = slots.iter().map(|slot| slot.layer).max().map_or(0, |layer| layer + 1);
    let mut names: Vec<String> = slots.iter().map(|slot| slot.projection.name().to_owned()).collect();
    names.sort();
    names.dedup();
    let everywhere =
        spec.layers.is_none() && (matches!(spec.targets, Targets::AllLinear) || names.len() * layers == slots.len());
    if !everywhere || matches!(spec.targets, Targets::Pattern(_)) {
        names = slots.iter().map(|slot| slot.projection.module(slot.layer)).collect();
    }
    json!({
        "alpha_pattern": spec.alpha_pattern.iter().map(|(key, alpha)| (key.clone(), number(*alpha))).collect::<BTreeMap<_, _>>(),
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": match spec.initialization {
            Initialization::Kaiming => json!(true),
            Initialization::Gaussian => json!("gaussian"),
        },
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": number(spec.alpha),
        "lora_bias": false,
        "lora_dropout": spec.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": spec.rank,
        "rank_pattern": spec.rank_pattern,
        "revision": null,
        "target_modules": names,
        "task_type": "CAUSAL_LM",
        "use_dora": spec.dora,
        "use_rslora": spec.rslora,
    })
}

fn tensor_file(slots: &[Slot], values: &[f32], stamp: &AdapterStamp) -> StageResult<Vec<u8>> {
    let mut tensors: Vec<_> = slots.iter().flat_map(Slot::tensors).collect();
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    let mut header = serde_json::Map::new();
    let stamp = serde_json::to_string(stamp).map_err(not_json)?;
    header.insert("__metadata__".to_owned(), json!({"format": "pt", "luthier": stamp}));
    let mut offset = 0;
    for (name, shape, range) in &tensors {
        let end = offset + 4 * range.len();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut text = serde_json::to_string(&header).map_err(not_json)?;
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let mut bytes = Vec::with_capacity(8 + text.len() + offset);
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    for (_, _, range) in tensors {
        for value in &values[range] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
    Ok(bytes)
}

fn refuse(path: &Utf8Path, what: &str) -> StageError {
    StageError::input("adapter::unsupported", format!("the adapter `{path}` {what}, which is not supported"))
        .hint("merge it with PEFT's `merge_and_unload` and use the merged model")
}

impl AdapterStamp {
    /// That in the header of an adapter's tensors, if there is one.
    #[must_use]
    pub fn of(directory: &Utf8Path) -> Option<Self> {
        let file = fs_err::File::open(directory.join(TENSORS)).ok()?;
        // SAFETY: the map is only read, and dropped here; the file is an immutable artifact.
        let map = unsafe { memmap2::Mmap::map(file.file()) }.ok()?;
        Self::in_tensors(&map)
    }

    /// How the base was kept.
    #[must_use]
    pub fn base_format(&self) -> BaseFormat {
        if self.quantizer == BaseFormat::Nf4.quantizer_id() { BaseFormat::Nf4 } else { BaseFormat::Stored }
    }

    fn in_tensors(bytes: &[u8]) -> Option<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
        serde_json::from_str(header.metadata().as_ref()?.get("luthier")?).ok()
    }
}

impl AdapterFiles {
    /// Reads an adapter made for a model of this shape, by Luthier or by PEFT.
    ///
    /// # Errors
    /// A missing or damaged file, a feature that is not supported, a tensor of another shape than the model's.
    pub fn open(directory: &Utf8Path, model: &ModelConfig) -> StageResult<Self> {
        let config = PeftConfig::read(directory, directory.as_str())?;
        let damaged = |path: &Utf8Path, what: String| {
            StageError::input("adapter::damaged", format!("`{path}` {what}"))
                .hint("train or download the adapter again")
        };
        let tensors_path = directory.join(TENSORS);
        let bytes = fs_err::read(&tensors_path)?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| damaged(&tensors_path, format!("is not a safetensors file: {error}")))?;
        let mut pairs: BTreeMap<(usize, Projection), [Option<Vec<f32>>; 3]> = BTreeMap::new();
        for (name, view) in file.tensors() {
            let Some((layer, projection, factor)) = parse_name(&name, model) else {
                return Err(refuse(directory, &format!("has the tensor `{name}`")));
            };
            let (outputs, inputs) = projection.shape(model);
            let fits = match (factor, view.shape()) {
                (0, [_, columns]) => *columns == inputs,
                (1, [rows, _]) => *rows == outputs,
                (2, [rows]) => *rows == outputs && config.use_dora(),
                _ => false,
            };
            if !fits {
                return Err(StageError::input(
                    "adapter::shape",
                    format!(
                        "tensor `{name}` of `{tensors_path}` is {:?}, but the model's projection is {outputs} × {inputs}",
                        view.shape()
                    ),
                )
                .hint("the adapter belongs to another base model"));
            }
            let values = to_f32(view.dtype(), view.data())
                .ok_or_else(|| damaged(&tensors_path, format!("has `{name}` as {:?}", view.dtype())))?;
            pairs.entry((layer, projection)).or_default()[factor] = Some(values);
        }
        let mut slots = Vec::new();
        let mut factors: [Vec<f32>; 3] = Default::default();
        for ((layer, projection), pair) in pairs {
            let module = projection.module(layer);
            let [Some(a), Some(b), magnitude] = pair else {
                return Err(damaged(&tensors_path, format!("has only one of the two factors of `{module}`")));
            };
            let (outputs, inputs) = projection.shape(model);
            if config.use_dora() && magnitude.is_none() {
                return Err(damaged(&tensors_path, format!("has no magnitudes for `{module}`, but uses DoRA")));
            }
            let (rank, scale) = (config.rank(&module), config.scale(&module));
            if a.len() != rank * inputs || b.len() != outputs * rank {
                return Err(damaged(&tensors_path, format!("has factors of `{module}` that are not of rank {rank}")));
            }
            if !scale.is_finite() {
                let alpha = config.alpha(&module);
                return Err(damaged(&tensors_path, format!("has rank {rank} and alpha {alpha} for `{module}`")));
            }
            slots.push(Slot {
                layer,
                projection,
                rank,
                outputs,
                inputs,
                scale,
                a: factors[0].len(),
                b: factors[1].len(),
                magnitude: magnitude.is_some().then_some(factors[2].len()),
            });
            factors[0].extend(a);
            factors[1].extend(b);
            factors[2].extend(magnitude.unwrap_or_default());
        }
        if slots.is_empty() {
            return Err(damaged(&tensors_path, "holds no adapter".to_owned()));
        }
        let [mut values, b, magnitudes] = factors;
        for slot in &mut slots {
            slot.b += values.len();
            slot.magnitude = slot.magnitude.map(|start| start + values.len() + b.len());
        }
        values.extend(b);
        values.extend(magnitudes);
        debug_assert_eq!(values.len(), parameters(&slots));
        let stamp = AdapterStamp::in_tensors(&bytes);
        let base_model = config.base_model().map(str::to_owned);
        Ok(Self { path: directory.to_owned(), slots, values, base_model, stamp })
    }

    /// Puts it on a device.
    ///
    /// # Errors
    /// Out of memory.
    pub fn load(
        &self,
        device: &std::sync::Arc<dyn luthier_kernels::device::Device>,
        model: &ModelConfig,
    ) -> StageResult<AdapterSet> {
        AdapterSet::from_values(device, model.layers, self.slots.clone(), &self.values)
    }
}

/// Layer, projection and factor (0 for `A`, 1 for `B`, 2 for the magnitudes) of a tensor's name.
fn parse_name(name: &str, model: &ModelConfig) -> Option<(usize, Projection, usize)> {
    let rest = name.strip_prefix("base_model.model.")?;
    let (module, factor) = [(".lora_A.weight", 0), (".lora_B.weight", 1), (".lora_magnitude_vector", 2)]
        .into_iter()
        .find_map(|(suffix, factor)| Some((rest.strip_suffix(suffix)?, factor)))?;
    let layer: usize = module.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()?;
    let projection = Projection::ALL.into_iter().find(|projection| projection.module(layer) == module)?;
    (layer < model.layers).then_some((layer, projection, factor))
}

fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pair = |pair: &[u8]| [pair[0], pair[1]];
    Some(match dtype {
        Dtype::F32 => {
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
        }
        Dtype::F16 => bytes.chunks_exact(2).map(|two| half::f16::from_le_bytes(pair(two)).to_f32()).collect(),
        Dtype::BF16 => bytes.chunks_exact(2).map(|two| half::bf16::from_le_bytes(pair(two)).to_f32()).collect(),
        _ => return None,
    })
}
