//! config.json of a model that never had one: written from what a GGUF header says.

use serde_json::{Value, json};

use super::architecture::Architecture;
use super::config::ModelConfig;

impl ModelConfig {
    /// A config.json that transformers loads as this model; `dtype` is `float32`, `float16` or `bfloat16`.
    #[must_use]
    pub fn to_json(&self, dtype: &str) -> Value {
        let eos = match self.eos_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let mut json = json!({
            "architectures": [self.architecture.class_name()],
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_id,
            "eos_token_id": eos,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "model_type": self.architecture.model_type(),
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": self.pad_id,
            "rms_norm_eps": self.rms_eps,
            "rope_scaling": self.rope_scaling.as_ref().and_then(super::RopeScaling::to_json),
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_embeddings,
            "torch_dtype": dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        match self.architecture {
            Architecture::Llama => {
                json["attention_bias"] = json!(false);
                json["mlp_bias"] = json!(false);
            }
            Architecture::Mistral => json["sliding_window"] = json!(self.sliding_window),
            Architecture::Qwen2 => json["use_sliding_window"] = json!(false),
            Architecture::Qwen3 => {
                json["attention_bias"] = json!(false);
                json["use_sliding_window"] = json!(false);
            }
        }
        json
    }
}
