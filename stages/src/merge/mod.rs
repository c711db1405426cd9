//! `merge`: adds adapters to a model's weights and writes a plain model.
//!
//! Tensor by tensor: read as `f32`, add `scale · B · A` in `f32`, cast once, write. Peak memory is a few times the largest
//! tensor. Everything is checked before the first byte is written: an adapter that cannot be honoured exactly is refused.

mod adapter;
mod combine;
mod config;
mod difference;
mod gap;

use indexmap::IndexMap;
use luthier_core::{
    ArtifactKind, ConfigIssue, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, Stage, StageContext, StageError,
    StageOutcome, StageResult, config_schema, parse_config,
};
use luthier_formats::decontaminated::Decontaminated;
use luthier_formats::gguf::TensorDecl;
use luthier_formats::model_files::{
    ModelDirectoryWriter, ModelFiles, Nf4Parts, TensorSpec, copy_companions, nf4_declarations, nf4_quantization_config,
    nf4_tensors, read_config_json,
};
use luthier_formats::quant;
use luthier_kernels::{NUMERIC_CLASS, nf4};
use luthier_model::BaseFormat;
use serde_json::{Value, json};

use adapter::{Adapter, Change};
use combine::Contribution;
use config::{MergeBase, MergeConfig, MergeType};
use difference::Difference;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Adds adapters to a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct MergeStage;

impl Stage for MergeStage {
    fn kind(&self) -> &'static str {
        "merge"
    }

    fn recipe_version(&self) -> u32 {
        2
    }

    fn about(&self) -> &'static str {
        "adds one or more adapters to a model's weights, tensor by tensor, and writes a plain model"
    }

    fn schema(&self) -> Value {
        config_schema::<MergeConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/merge.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        &[
            InputPort {
                name: "model",
                accepts: &[ArtifactKind::Model],
                required: true,
                many: false,
                about: "the model that the adapters were trained on",
            },
            InputPort {
                name: "adapters",
                accepts: &[ArtifactKind::Adapter],
                required: true,
                many: true,
                about: "one or more adapters in PEFT's format",
            },
            InputPort {
                name: "data",
                accepts: &[ArtifactKind::Tokens],
                required: false,
                many: false,
                about: "tokens on which the loss before and after the merge is compared",
            },
        ]
    }

    fn outputs_about(&self) -> &'static str {
        "`model`: a Hugging Face model directory (safetensors, config.json, tokenizer)"
    }

    fn prepare(&self, with: &Value, _env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let config: MergeConfig = parse_config(with)?;
        let issues = config.check(with);
        if !issues.is_empty() {
            return Err(issues);
        }
        let config = serde_json::to_value(&config).unwrap_or_default();
        Ok(Prepared {
            key: config.clone(),
            config,
            outputs: vec![OutputDecl::new("model", ArtifactKind::Model)],
            sources: Vec::new(),
            resources: Resources::ALL_THREADS,
            numeric_class: Some(NUMERIC_CLASS.to_owned()),
        })
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let config: MergeConfig = context.config()?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(context.threads()).build().map_err(|error| {
            StageError::new("merge::threads", "could not start the worker threads").caused_by(error)
        })?;
        let mut merge = pool.install(|| Merge::open(context, config))?;
        pool.install(|| merge.run())?;
        merge.measure_gap()?;
        Ok(merge.outcome)
    }
}

/// A merge whose inputs are open and fit together.
struct Merge<'a, 'b> {
    context: &'a StageContext<'b>,
    config: MergeConfig,
    files: ModelFiles,
    adapters: Vec<Adapter>,
    weights: Vec<f32>,
    /// The model is tied and gets a head of its own.
    untie: bool,
    outcome: StageOutcome,
}

impl<'a, 'b> Merge<'a, 'b> {
    fn open(context: &'a StageContext<'b>, config: MergeConfig) -> StageResult<Self> {
        let model = context.input("model")?;
        let files = ModelFiles::open(&model.path)?;
        let tied = files.config().tie_embeddings;
        let adapters: Vec<Adapter> = context
            .inputs("adapters")
            .iter()
            .map(|input| Adapter::open(input, files.specs(), tied))
            .collect::<StageResult<_>>()?;
        if adapters.is_empty() {
            return Err(StageError::input("stage::missing_input", "input `adapters` is not connected")
                .hint("add `adapters: STAGE` under `in:`"));
        }
        let weights = match &config.weights {
            Some(weights) if weights.len() == adapters.len() => weights.iter().map(|weight| *weight as f32).collect(),
            Some(weights) => {
                return Err(StageError::input(
                    "merge::weights",
                    format!("`weights` has {} numbers for {} adapters", weights.len(), adapters.len()),
                )
                .hint("give one number per adapter, in the order of `in.adapters`"));
            }
            None => vec![1.0 / adapters.len() as f32; adapters.len()],
        };
        let mut merge = Self { context, config, files, adapters, weights, untie: false, outcome: StageOutcome::new() };
        merge.check_stamps()?;
        merge.check_combination()?;
        merge.check_tied(tied)?;
        Ok(merge)
    }

    /// An adapter is trained against one base, stored one way; anything else is another model.
    fn check_stamps(&mut self) -> StageResult<()> {
        let model = self.context.input("model")?;
        for adapter in &self.adapters {
            let Some(stamp) = &adapter.stamp else {
                if self.config.base == MergeBase::Dequantized {
                    self.outcome.warn(format!(
                        "adapter `{}` does not say how its base was quantised; merged into NF4 with double quantisation",
                        adapter.label
                    ));
                }
                continue;
            };
            if stamp.base != model.digest {
                let message = format!(
                    "adapter `{}` was trained on another base ({}) than `{}` ({})",
                    adapter.label,
                    stamp.base.short(),
                    model.from,
                    model.digest.short()
                );
                if !self.config.allow_other_base {
                    return Err(StageError::input("merge::other_base", message).hint(
                        "connect `model` to the stage that the adapter was trained on, or set `allow_other_base: true`",
                    ));
                }
                self.outcome.warn(message);
            }
            if self.config.base == MergeBase::Dequantized && stamp.base_format() != BaseFormat::Nf4 {
                return Err(StageError::input(
                    "merge::other_quantizer",
                    format!(
                        "adapter `{}` was trained against weights kept as `{}`, not `{}`, so `base: dequantized` \
                         would only add error",
                        adapter.label,
                        stamp.quantizer,
                        BaseFormat::Nf4.quantizer_id()
                    ),
                )
                .hint("set `base: original`"));
            }
        }
        Ok(())
    }

    fn check_combination(&self) -> StageResult<()> {
        if let [only] = &self.adapters[..] {
            return match only.has_magnitudes() && self.weights != [1.0] {
                false => Ok(()),
                true => Err(StageError::input(
                    "merge::cannot_combine",
                    format!("adapter `{}` uses DoRA, whose change cannot be weighted", only.label),
                )
                .hint("remove `weights`")),
            };
        }
        for adapter in &self.adapters {
            let what = match adapter {
                adapter if adapter.has_magnitudes() => "uses DoRA",
                adapter if adapter.replaces() => "replaces whole tensors (`modules_to_save`)",
                _ => continue,
            };
            return Err(StageError::input(
                "merge::cannot_combine",
                format!("adapter `{}` {what}, which cannot be combined with other adapters", adapter.label),
            )
            .hint("merge it alone, and the others into its result, one `merge` stage each"));
        }
        Ok(())
    }

    fn check_tied(&mut self, tied: bool) -> StageResult<()> {
        if !tied {
            return Ok(());
        }
        let Some((adapter, name)) = self.adapters.iter().find_map(|adapter| {
            [EMBEDDING, HEAD].into_iter().find(|name| adapter.changes.contains_key(*name)).map(|name| (adapter, name))
        }) else {
            return Ok(());
        };
        if !self.config.untie {
            return Err(StageError::input(
                "merge::tied",
                format!(
                    "adapter `{}` changes `{name}`, but the model ties its head to its embedding: the merged model would \
                     lose the change or make it twice",
                    adapter.label
                ),
            )
            .hint("set `untie: true` to give the merged model a head of its own"));
        }
        self.untie = true;
        Ok(())
    }

    fn declarations(&self) -> Vec<(String, TensorSpec)> {
        let mut specs: IndexMap<String, TensorSpec> = self.files.specs().clone();
        if self.untie
            && let Some(embedding) = specs.get(EMBEDDING).cloned()
        {
            specs.insert(HEAD.to_owned(), TensorSpec { gguf_name: "output.weight".to_owned(), ..embedding });
        }
        specs.into_iter().collect()
    }

    fn model_config(&self) -> StageResult<Value> {
        let dtype = self.config.dtype.torch_name();
        let mut json = match self.files.directory() {
            Some(directory) => read_config_json(directory)?.0,
            None => self.files.config().to_json(dtype),
        };
        // transformers 5 renamed the key; a file has one of the two.
        let key = if json.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        json[key] = json!(dtype);
        if let Some(json) = json.as_object_mut() {
            json.shift_remove("quantization_config");
        }
        if self.config.dtype == MergeType::Nf4 {
            json["quantization_config"] = nf4_quantization_config(dtype);
        }
        if self.untie {
            json["tie_word_embeddings"] = json!(false);
        }
        Ok(json)
    }

    fn run(&mut self) -> StageResult<()> {
        let output = self.context.output("model");
        let specs = self.declarations();
        let tensor_type = self.config.dtype.tensor_type();
        let declarations: Vec<TensorDecl> = specs
            .iter()
            .flat_map(|(name, spec)| match (self.is_4bit(name), &spec.shape[..]) {
                (true, [rows, columns]) => nf4_declarations(name, [*rows, *columns]),
                _ => vec![TensorDecl { name: name.clone(), shape: spec.shape.clone(), tensor_type }],
            })
            .collect();
        let mut writer =
            ModelDirectoryWriter::create(&output, &self.model_config()?, &declarations, self.config.max_shard)?;
        copy_companions(&self.files, &output)?;
        let adapters = self.context.inputs("adapters").iter().map(|adapter| adapter.path.as_path());
        if let Some(record) = Decontaminated::merged(&self.context.input("model")?.path, adapters)? {
            record.record(&output)?;
        }
        let total: usize = declarations.iter().filter_map(TensorDecl::bytes).sum();
        let mut done = 0;
        let mut changed: Vec<(String, Difference)> = Vec::new();
        for (name, spec) in &specs {
            self.context.check_cancelled()?;
            let (stored, difference) = self.merge_tensor(name, spec)?;
            for (name, bytes) in stored {
                writer.write(&name, &bytes)?;
                done += bytes.len();
            }
            changed.extend(difference.map(|difference| (name.clone(), difference)));
            self.context.progress(done as u64, total as u64, "bytes", name.as_str());
        }
        let written = writer.finish()?;
        let all = changed.iter().fold(Difference::default(), |all, (_, difference)| all.plus(*difference));
        if all.changed == 0 {
            self.outcome.warn(format!(
                "no weight changed after the cast to {tensor_type}: the adapters are zero, or too small for the type"
            ));
        }
        self.outcome
            .metric("adapters", self.adapters.len() as f64, "")
            .metric("tensors", specs.len() as f64, "")
            .metric("changed_tensors", changed.len() as f64, "")
            .metric("changed_share", all.share(), "")
            .metric("mean_change", all.mean(), "")
            .metric("largest_change", all.largest, "")
            .metric("bytes", written as f64, "bytes")
            .section(difference::table(&changed));
        Ok(())
    }

    fn measure_gap(&mut self) -> StageResult<()> {
        let Some(data) = self.context.optional_input("data") else { return Ok(()) };
        let inputs = self.context.inputs("adapters");
        let adapter = match (&self.adapters[..], inputs) {
            ([only], [input]) if !only.replaces() => {
                let format = match (self.config.base, &only.stamp) {
                    (MergeBase::Dequantized, _) => BaseFormat::Nf4,
                    (MergeBase::Original, Some(stamp)) => stamp.base_format(),
                    (MergeBase::Original, None) => BaseFormat::Stored,
                };
                Some((input.path.as_path(), format))
            }
            _ => None,
        };
        let merged = self.context.output("model");
        let gap = gap::Gap {
            base: &self.context.input("model")?.path,
            merged: &merged,
            adapter,
            samples: self.config.gap_samples,
        };
        gap.measure(self.context, &data.path, &mut self.outcome)
    }

    fn is_4bit(&self, name: &str) -> bool {
        self.config.dtype == MergeType::Nf4 && name.ends_with("_proj.weight")
    }

    /// The tensors that one merged tensor is stored as, by name, and `values` as a reader gets them back.
    fn store(&self, name: &str, [rows, columns]: [usize; 2], values: &mut [f32]) -> StageResult<Stored> {
        if self.is_4bit(name) {
            let quantized = nf4::quantize(values, rows, columns, true);
            nf4::dequantize(&quantized.view(), 0..rows, values);
            let nf4::Nf4Scales::Nested { codes, scales, offset } = &quantized.absmax else {
                unreachable!("double quantisation was asked for")
            };
            let parts = Nf4Parts {
                packed: &quantized.packed,
                codes,
                scales,
                offset: *offset,
                map: &nf4::CODE,
                nested_map: nf4::dynamic_map(),
            };
            return Ok(nf4_tensors(name, [rows, columns], self.config.dtype.torch_name(), parts));
        }
        let tensor_type = self.config.dtype.tensor_type();
        let bytes = quant::quantize(tensor_type, values, columns, None).map_err(|error| {
            let error = error.in_tensor(self.files.path(), name);
            if tensor_type == quant::TensorType::F16 { error.hint("set `dtype: bf16` or `dtype: f32`") } else { error }
        })?;
        decode(tensor_type, &bytes, values, self.files.path(), name)?;
        Ok(vec![(name.to_owned(), bytes)])
    }

    /// What is stored of one merged tensor, and its difference from the base if an adapter changes it.
    fn merge_tensor(&self, name: &str, spec: &TensorSpec) -> StageResult<(Stored, Option<Difference>)> {
        let (rows, columns) = match spec.shape[..] {
            [rows, columns] => (rows, columns),
            _ => (1, spec.shape.iter().product()),
        };
        let source = if self.untie && name == HEAD { EMBEDDING } else { name };
        let mut values = vec![0.0; rows * columns];
        self.files.read_f32(source, &mut values)?;
        let stored_4bit = self.files.nf4(source).is_some();
        if self.config.base == MergeBase::Dequantized && name.ends_with("_proj.weight") && !stored_4bit {
            let quantized = nf4::quantize(&values, rows, columns, true);
            nf4::dequantize(&quantized.view(), 0..rows, &mut values);
        }
        let parts: Vec<(usize, &Adapter, &Change)> = self
            .adapters
            .iter()
            .enumerate()
            .filter_map(|(index, adapter)| Some((index, adapter, adapter.changes.get(name)?)))
            .collect();
        if parts.is_empty() {
            return Ok((self.store(name, [rows, columns], &mut values)?, None));
        }
        let mut before = values.clone();
        self.store(name, [rows, columns], &mut before)?;
        let mut low_rank = Vec::new();
        for (index, adapter, change) in parts {
            match change {
                Change::Replace(tensor) => values = adapter.read(tensor)?,
                Change::LowRank(change) => {
                    low_rank.push(Contribution { adapter, index, change, weight: self.weights[index] });
                }
            }
        }
        combine::add(&self.config, name, &low_rank, rows, columns, &mut values)?;
        if let [only] = &low_rank[..]
            && let Some(magnitude) = only.adapter.magnitude(only.change)?
        {
            combine::apply_magnitude(&mut values, columns, &magnitude);
        }
        let stored = self.store(name, [rows, columns], &mut values)?;
        Ok((stored, Some(Difference::between(&before, &values))))
    }
}

/// Names and bytes of the tensors that one tensor is stored as.
type Stored = Vec<(String, Vec<u8>)>;

fn decode(
    tensor_type: quant::TensorType,
    bytes: &[u8],
    out: &mut [f32],
    path: &camino::Utf8Path,
    name: &str,
) -> StageResult<()> {
    quant::dequantize(tensor_type, bytes, out).map_err(|error| error.in_tensor(path, name))
}

#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod tests;
