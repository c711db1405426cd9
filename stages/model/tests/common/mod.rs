//! Tiny seeded models on disk, and token sets to go with them.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::Digest;
use luthier_formats::tokens::{TokenSample, TokenSet, TokensMeta};
use luthier_kernels::random::Stream;
use luthier_model::adapter::{Initialization, LoraSpec, Targets};
use luthier_model::train::{Duration, OptimizerSpec, Schedule, StateFormat, TrainSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A model directory that is removed with it.
pub struct TinyModel {
    pub directory: TempDir,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    pub config: Value,
}

/// The families that differ in their arithmetic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Family {
    LlamaTied,
    LlamaUntied,
    Qwen2,
    Qwen3,
}

pub const VOCABULARY: usize = 67;

impl TinyModel {
    pub fn new(family: Family) -> Self {
        Self::sized(family, 3, 32, 48, 4, 2, 8)
    }

    pub fn sized(
        family: Family,
        layers: usize,
        hidden: usize,
        intermediate: usize,
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Self {
        let model_type = match family {
            Family::LlamaTied | Family::LlamaUntied => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        };
        let tied = family == Family::LlamaTied;
        let config = json!({
            "model_type": model_type, "vocab_size": VOCABULARY, "hidden_size": hidden,
            "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": head_dim, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "max_position_embeddings": 64, "tie_word_embeddings": tied, "hidden_act": "silu",
            "bos_token_id": 1, "eos_token_id": 2,
        });
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, shape: &[usize], mean: f32, deviation: f32| {
            let mut values = vec![0f32; shape.iter().product()];
            Stream::new(11, &name).fill_normal(0, mean, deviation, &mut values);
            tensors.insert(name, (shape.to_vec(), values));
        };
        add("model.embed_tokens.weight".into(), &[VOCABULARY, hidden], 0.0, 0.5);
        add("model.norm.weight".into(), &[hidden], 1.0, 0.1);
        if !tied {
            add("lm_head.weight".into(), &[VOCABULARY, hidden], 0.0, 0.3);
        }
        for layer in 0..layers {
            let part = |name: &str| format!("model.layers.{layer}.{name}.weight");
            let (query, key) = (heads * head_dim, kv_heads * head_dim);
            add(part("input_layernorm"), &[hidden], 1.0, 0.1);
            add(part("post_attention_layernorm"), &[hidden], 1.0, 0.1);
            for (name, rows, cols) in [
                ("self_attn.q_proj", query, hidden),
                ("self_attn.k_proj", key, hidden),
                ("self_attn.v_proj", key, hidden),
                ("self_attn.o_proj", hidden, query),
                ("mlp.gate_proj", intermediate, hidden),
                ("mlp.up_proj", intermediate, hidden),
                ("mlp.down_proj", hidden, intermediate),
            ] {
                add(part(name), &[rows, cols], 0.0, 1.0 / (cols as f32).sqrt());
                let biased =
                    family == Family::Qwen2 && ["q_proj", "k_proj", "v_proj"].iter().any(|end| name.ends_with(end));
                if biased {
                    add(format!("model.layers.{layer}.{name}.bias"), &[rows], 0.0, 0.2);
                }
            }
            if family == Family::Qwen3 {
                add(part("self_attn.q_norm"), &[head_dim], 1.0, 0.2);
                add(part("self_attn.k_norm"), &[head_dim], 1.0, 0.2);
            }
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let model = Self { directory, tensors, config };
        model.write();
        model
    }

    pub fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.directory.path()).expect("UTF-8")
    }

    pub fn write(&self) {
        let bytes: BTreeMap<&String, Vec<u8>> = self
            .tensors
            .iter()
            .map(|(name, (_, values))| (name, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = self.tensors.iter().map(|(name, (shape, _))| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), &bytes[name]);
            (name.clone(), view.expect("a view"))
        });
        let file = safetensors::serialize(views, None).expect("serialised");
        fs_err::write(self.path().join("model.safetensors"), file).expect("written");
        fs_err::write(self.path().join("config.json"), self.config.to_string()).expect("written");
    }
}

/// `count` samples of 5 to 19 tokens with a random mask; `bins` puts them into bins of that many.
pub fn tokens(count: usize, per_bin: usize, seed: u64) -> TokenSet {
    let stream = Stream::new(seed, "tokens");
    let samples: Vec<TokenSample> = (0..count as u64)
        .map(|sample| {
            let length = 5 + stream.below(1000 * sample, 15);
            let ids = (0..length).map(|index| stream.below(1000 * sample + index + 1, VOCABULARY as u64) as u32);
            let mask = (0..length)
                .map(|index| index > 0 && (index + 1 == length || stream.below(1000 * sample + 500 + index, 2) == 1));
            TokenSample { id: format!("s{sample}"), ids: ids.collect(), mask: mask.collect() }
        })
        .collect();
    set(samples, per_bin)
}

pub fn set(samples: Vec<TokenSample>, per_bin: usize) -> TokenSet {
    let bins: Vec<Vec<u32>> =
        (0..samples.len() as u32).collect::<Vec<_>>().chunks(per_bin).map(<[u32]>::to_vec).collect();
    let meta = TokensMeta {
        version: TokensMeta::VERSION,
        max_length: 64,
        vocab_size: VOCABULARY,
        tokenizer: Digest::of(b"tiny"),
        template: None,
        eos_ids: vec![2],
        packed: per_bin > 1,
        samples: samples.len(),
        bins: bins.len(),
        tokens: samples.iter().map(|sample| sample.ids.len() as u64).sum(),
        trained_tokens: samples.iter().map(|sample| sample.trained() as u64).sum(),
        longest: samples.iter().map(|sample| sample.ids.len()).max().unwrap_or(0),
    };
    TokenSet { samples, bins, meta }
}

pub fn lora(targets: Targets) -> LoraSpec {
    LoraSpec {
        rank: 4,
        alpha: 8.0,
        dropout: 0.0,
        targets,
        layers: None,
        rank_pattern: BTreeMap::new(),
        alpha_pattern: BTreeMap::new(),
        rslora: false,
        dora: false,
        initialization: Initialization::Kaiming,
    }
}

pub fn spec(lora: LoraSpec, steps: u64, batch: usize, accumulate: usize) -> TrainSpec {
    TrainSpec {
        lora,
        optimizer: OptimizerSpec {
            learning_rate: 1e-2,
            schedule: Schedule::Linear,
            decay_steps: None,
            warmup: 0.0,
            weight_decay: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            b_ratio: 1.0,
            states: StateFormat::F32,
        },
        batch,
        accumulate,
        duration: Duration::Steps(steps),
        seed: 7,
        checkpointing: false,
        share_prefix: true,
        neftune: 0.0,
        pages: None,
        offload: false,
    }
}

/// A subdirectory of the model's.
pub fn sub(model: &TinyModel, name: &str) -> Utf8PathBuf {
    model.path().join(name)
}

/// `‖a - b‖ / ‖b‖`.
pub fn relative_error(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let size: f64 = b.iter().map(|b| b * b).sum();
    difference.sqrt() / size.sqrt().max(1e-30)
}
