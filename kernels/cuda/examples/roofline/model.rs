//! The models, by their published configurations.

use luthier_formats::model_files::ModelConfig;
use luthier_kernels::device::FloatType;
use luthier_model::{Capacity, Sizes};

/// A decoder of the Llama family with tied or untied embeddings.
pub struct Model {
    pub name: &'static str,
    pub hidden: f64,
    pub layers: f64,
    pub heads: f64,
    pub kv_heads: f64,
    pub head_dim: f64,
    pub intermediate: f64,
    pub vocabulary: f64,
}

pub const MODELS: [Model; 3] = [
    Model {
        name: "1B",
        hidden: 2048.0,
        layers: 16.0,
        heads: 32.0,
        kv_heads: 8.0,
        head_dim: 64.0,
        intermediate: 8192.0,
        vocabulary: 128_256.0,
    },
    Model {
        name: "8B",
        hidden: 4096.0,
        layers: 32.0,
        heads: 32.0,
        kv_heads: 8.0,
        head_dim: 128.0,
        intermediate: 14_336.0,
        vocabulary: 128_256.0,
    },
    Model {
        name: "70B",
        hidden: 8192.0,
        layers: 80.0,
        heads: 64.0,
        kv_heads: 8.0,
        head_dim: 128.0,
        intermediate: 28_672.0,
        vocabulary: 128_256.0,
    },
];

impl Model {
    /// Rows of logits that exist at once in a training of `tokens` tokens, all of them trained.
    pub fn chunk_rows(&self, tokens: usize) -> f64 {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": self.vocabulary as u64, "hidden_size": self.hidden as u64,
            "intermediate_size": self.intermediate as u64, "num_hidden_layers": self.layers as u64,
            "num_attention_heads": self.heads as u64, "num_key_value_heads": self.kv_heads as u64,
            "head_dim": self.head_dim as u64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "max_position_embeddings": 131_072, "tie_word_embeddings": false, "hidden_act": "silu",
        });
        let capacity = Capacity { tokens, trained: tokens, sequences: 1, whole: 0 };
        // Adapters of rank 16 add a thousandth to the room of backward.
        let sizes = ModelConfig::from_json(&config)
            .map(|config| Sizes::new(&config, &[], capacity, true, false, true, FloatType::Bf16));
        sizes.map_or(0.0, |sizes| sizes.chunk_rows as f64)
    }

    pub fn query(&self) -> f64 {
        self.heads * self.head_dim
    }

    pub fn key(&self) -> f64 {
        self.kv_heads * self.head_dim
    }

    /// Outputs and inputs of the seven projections of a layer.
    pub fn projections(&self) -> [[f64; 2]; 7] {
        let (query, key) = (self.query(), self.key());
        [
            [query, self.hidden],
            [key, self.hidden],
            [key, self.hidden],
            [self.hidden, query],
            [self.intermediate, self.hidden],
            [self.intermediate, self.hidden],
            [self.hidden, self.intermediate],
        ]
    }

    /// Weights of a layer's projections.
    pub fn weights(&self) -> f64 {
        self.projections().iter().map(|[outputs, inputs]| outputs * inputs).sum()
    }
}
