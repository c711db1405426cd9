//! A complete random language model of a few hundred kilobytes, as a Hugging Face directory or a GGUF file.
//!
//! It has everything a real one has: a byte-level BPE tokenizer with merges and special tokens, a ChatML template,
//! grouped queries, tied or separate embeddings. Equal settings give equal bytes on every machine.

use camino::Utf8Path;
use indexmap::IndexMap;
use luthier_formats::gguf::{GgufWriter, MetaValue, TensorDecl};
use luthier_formats::model_files::{Architecture, ModelConfig, ModelDirectoryWriter, tensor_specs, write_json};
use luthier_formats::quant::{self, TensorType};
use serde_json::{Value, json};

use crate::tiny_tokenizer::{self, CHAT_TEMPLATE};

/// Settings of a tiny model; change what a test needs.
#[derive(Debug, Clone)]
pub struct TinyModel {
    pub seed: u64,
    pub config: ModelConfig,
    /// Standard deviation of the matrices. The default keeps logits of a sensible size.
    pub spread: f32,
    /// How the directory stores its tensors.
    pub dtype: TensorType,
}

impl Default for TinyModel {
    fn default() -> Self {
        Self::new(1)
    }
}

impl TinyModel {
    /// Llama: hidden 64, 2 layers, 4 heads on 2 key-value heads of 16, feed-forward 128, 304 tokens, untied, context 256.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let config = ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: tiny_tokenizer::vocabulary().len(),
            hidden_size: 64,
            intermediate_size: 128,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            rms_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            max_positions: 256,
            tie_embeddings: false,
            sliding_window: None,
            qkv_bias: false,
            qk_norm: false,
            bos_id: Some(1),
            eos_ids: vec![2],
            pad_id: Some(2),
        };
        Self { seed, config, spread: 0.08, dtype: TensorType::F32 }
    }

    #[must_use]
    pub fn architecture(mut self, architecture: Architecture) -> Self {
        self.config.architecture = architecture;
        self.config.qkv_bias = architecture == Architecture::Qwen2;
        self.config.qk_norm = architecture == Architecture::Qwen3;
        self
    }

    #[must_use]
    pub fn tied(mut self) -> Self {
        self.config.tie_embeddings = true;
        self
    }

    #[must_use]
    pub fn dtype(mut self, dtype: TensorType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Hugging Face name, shape and values (row-major, Hugging Face order) of every tensor.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        tensor_specs(&self.config)
            .into_iter()
            .map(|(name, spec)| {
                let mut normal = Normal::new(self.seed, &name);
                let count = spec.shape.iter().product();
                let values = (0..count).map(|_| match spec.shape.len() {
                    1 if name.ends_with("norm.weight") => 1.0 + 0.1 * normal.next(),
                    _ => self.spread * normal.next(),
                });
                let values = values.collect();
                (name, spec.shape, values)
            })
            .collect()
    }

    /// Writes config.json, model.safetensors, tokenizer.json, tokenizer_config.json and generation_config.json.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn write_directory(&self, directory: &Utf8Path) {
        let tensors = self.tensors();
        let declarations: Vec<TensorDecl> = tensors
            .iter()
            .map(|(name, shape, _)| TensorDecl { name: name.clone(), shape: shape.clone(), tensor_type: self.dtype })
            .collect();
        let dtype = match self.dtype {
            TensorType::F16 => "float16",
            TensorType::BF16 => "bfloat16",
            _ => "float32",
        };
        let config = self.config.to_json(dtype);
        let mut writer =
            ModelDirectoryWriter::create(directory, &config, &declarations, u64::MAX).expect("a writable directory");
        for (name, _, values) in &tensors {
            let bytes = quant::quantize(self.dtype, values, values.len(), None).expect("finite values");
            writer.write(name, &bytes).expect("a writable directory");
        }
        writer.finish().expect("all tensors written");
        tiny_tokenizer::write_files(directory);
        let generation = json!({"bos_token_id": self.config.bos_id, "eos_token_id": 2, "pad_token_id": 2});
        write_json(&directory.join("generation_config.json"), &generation).expect("a writable directory");
    }

    /// Writes a GGUF file; matrices as `matrices`, vectors as F32.
    ///
    /// # Panics
    /// If the file cannot be written, or `matrices` has blocks that do not divide the rows.
    pub fn write_gguf(&self, path: &Utf8Path, matrices: TensorType) {
        let specs = tensor_specs(&self.config);
        let declarations: Vec<TensorDecl> = specs
            .values()
            .map(|spec| TensorDecl {
                name: spec.gguf_name.clone(),
                shape: spec.shape.clone(),
                tensor_type: if spec.shape.len() == 1 { TensorType::F32 } else { matrices },
            })
            .collect();
        let mut writer = GgufWriter::create(path, &self.gguf_metadata(), &declarations).expect("a writable directory");
        for ((name, shape, values), declaration) in self.tensors().into_iter().zip(&declarations) {
            let order = specs[&name].row_order;
            let columns = if shape.len() == 1 { 1 } else { shape[1] };
            let rows = shape[0];
            let mut permuted = Vec::with_capacity(values.len());
            for row in 0..rows {
                let source = order.hugging_face_row(row);
                permuted.extend_from_slice(&values[source * columns..(source + 1) * columns]);
            }
            let row_length = *shape.last().expect("a shape");
            let bytes =
                quant::quantize(declaration.tensor_type, &permuted, row_length, None).expect("rows of whole blocks");
            writer.write(&declaration.name, &bytes).expect("a writable directory");
        }
        writer.finish().expect("all tensors written");
    }

    fn gguf_metadata(&self) -> IndexMap<String, MetaValue> {
        let config = &self.config;
        let name = config.architecture.gguf_name();
        let number = |value: usize| MetaValue::U32(u32::try_from(value).expect("a small number"));
        let mut metadata = IndexMap::from_iter([
            ("general.architecture".to_owned(), MetaValue::from(name)),
            ("general.type".to_owned(), MetaValue::from("model")),
            ("general.name".to_owned(), MetaValue::from("Tiny")),
            (format!("{name}.block_count"), number(config.layers)),
            (format!("{name}.context_length"), number(config.max_positions)),
            (format!("{name}.embedding_length"), number(config.hidden_size)),
            (format!("{name}.feed_forward_length"), number(config.intermediate_size)),
            (format!("{name}.attention.head_count"), number(config.heads)),
            (format!("{name}.attention.head_count_kv"), number(config.kv_heads)),
            (format!("{name}.attention.key_length"), number(config.head_dim)),
            (format!("{name}.attention.value_length"), number(config.head_dim)),
            (format!("{name}.attention.layer_norm_rms_epsilon"), MetaValue::F32(config.rms_eps as f32)),
            (format!("{name}.rope.freq_base"), MetaValue::F32(config.rope_theta as f32)),
            (format!("{name}.rope.dimension_count"), number(config.head_dim)),
            (format!("{name}.vocab_size"), number(config.vocab_size)),
        ]);
        let tokens = tiny_tokenizer::vocabulary();
        let types: Vec<i32> = (0..tokens.len()).map(|id| if id < 3 { 3 } else { 1 }).collect();
        let tokenizer: [(&str, MetaValue); 9] = [
            ("tokenizer.ggml.model", MetaValue::from("gpt2")),
            ("tokenizer.ggml.pre", MetaValue::from("smollm")),
            ("tokenizer.ggml.tokens", MetaValue::from(tokens)),
            ("tokenizer.ggml.token_type", MetaValue::from(types)),
            ("tokenizer.ggml.merges", MetaValue::from(tiny_tokenizer::merges())),
            ("tokenizer.ggml.bos_token_id", MetaValue::U32(1)),
            ("tokenizer.ggml.eos_token_id", MetaValue::U32(2)),
            ("tokenizer.ggml.padding_token_id", MetaValue::U32(2)),
            ("tokenizer.chat_template", MetaValue::from(CHAT_TEMPLATE)),
        ];
        metadata.extend(tokenizer.into_iter().map(|(key, value)| (key.to_owned(), value)));
        metadata.insert("tokenizer.ggml.add_bos_token".to_owned(), MetaValue::Bool(false));
        metadata.insert("tokenizer.ggml.add_space_prefix".to_owned(), MetaValue::Bool(false));
        metadata
    }
}

/// A PEFT adapter with random matrices, for tests of loading and merging.
#[derive(Debug, Clone)]
pub struct TinyAdapter {
    pub seed: u64,
    pub rank: usize,
    pub alpha: f64,
    /// Projections, such as `q_proj`.
    pub targets: Vec<&'static str>,
    /// Merged over the default adapter_config.json.
    pub config: Value,
    /// What the trainer says about the base, `base` and `quantizer`.
    pub stamp: Option<Value>,
    /// Standard deviation of both matrices.
    pub spread: f32,
}

impl TinyAdapter {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            rank: 4,
            alpha: 8.0,
            targets: vec!["q_proj", "v_proj", "down_proj"],
            config: json!({}),
            stamp: None,
            spread: 0.1,
        }
    }

    /// Name, shape and values of every adapter tensor for `model`.
    #[must_use]
    pub fn tensors(&self, model: &TinyModel) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let mut tensors = Vec::new();
        for (name, spec) in tensor_specs(&model.config) {
            let Some(module) = name.strip_suffix(".weight") else { continue };
            let last = module.rsplit('.').next().unwrap_or_default();
            if !self.targets.contains(&last) || spec.shape.len() != 2 {
                continue;
            }
            for (suffix, shape) in
                [("lora_A", vec![self.rank, spec.shape[1]]), ("lora_B", vec![spec.shape[0], self.rank])]
            {
                let name = format!("base_model.model.{module}.{suffix}.weight");
                let mut normal = Normal::new(self.seed, &name);
                let values = (0..shape.iter().product()).map(|_| self.spread * normal.next()).collect();
                tensors.push((name, shape, values));
            }
        }
        tensors
    }

    /// Writes adapter_config.json and adapter_model.safetensors.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn write(&self, model: &TinyModel, directory: &Utf8Path) {
        fs_err::create_dir_all(directory).expect("a writable directory");
        let mut config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": self.rank,
            "lora_alpha": self.alpha, "lora_dropout": 0.0, "target_modules": self.targets, "bias": "none",
            "fan_in_fan_out": false, "use_rslora": false, "use_dora": false, "rank_pattern": {}, "alpha_pattern": {},
            "modules_to_save": null, "inference_mode": true,
        });
        for (key, value) in self.config.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        write_json(&directory.join("adapter_config.json"), &config).expect("a writable directory");
        let stamp = self.stamp.as_ref().map(|stamp| json!({"format": "pt", "luthier": stamp.to_string()}));
        write_tensors(&directory.join("adapter_model.safetensors"), &self.tensors(model), stamp);
    }
}

/// Writes F32 tensors to one safetensors file.
///
/// # Panics
/// If the file cannot be written.
pub fn write_safetensors(path: &Utf8Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    write_tensors(path, tensors, None);
}

fn write_tensors(path: &Utf8Path, tensors: &[(String, Vec<usize>, Vec<f32>)], metadata: Option<Value>) {
    let mut header = serde_json::Map::new();
    header.extend(metadata.map(|metadata| ("__metadata__".to_owned(), metadata)));
    let mut data: Vec<u8> = Vec::new();
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    fs_err::write(path, bytes).expect("a writable directory");
}

/// Near-normal numbers from integer arithmetic and additions only, so they are the same everywhere.
struct Normal(u64);

impl Normal {
    fn new(seed: u64, name: &str) -> Self {
        let state = name.bytes().fold(seed ^ 0xCBF2_9CE4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        Self(state)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The sum of twelve uniforms has variance 1.
    fn next(&mut self) -> f32 {
        let sum: f32 = (0..12).map(|_| (self.bits() >> 40) as f32 / (1u32 << 24) as f32).sum();
        sum - 6.0
    }
}
