use serde_json::json;

use super::*;

#[test]
fn transformers_five_keeps_rope_in_one_place() {
    let mut json = json!({
        "model_type": "llama", "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "tie_word_embeddings": true, "eos_token_id": [128001, 128008, 128009],
        "rope_theta": 500000.0,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    });
    let old = ModelConfig::from_json(&json).unwrap();
    let mut rope = json["rope_scaling"].clone();
    rope["rope_theta"] = json["rope_theta"].clone();
    json["rope_parameters"] = rope;
    let object = json.as_object_mut().unwrap();
    object.remove("rope_theta");
    object.remove("rope_scaling");
    assert_eq!(ModelConfig::from_json(&json).unwrap(), old);
    assert_eq!((old.head_dim, old.query_size(), old.key_value_size()), (64, 2048, 512));
    assert_eq!(old.eos_ids, [128_001, 128_008, 128_009]);
    assert_eq!(old.rope_theta, 500_000.0);
}

#[test]
fn what_is_written_is_what_is_read() {
    for model_type in ["llama", "mistral", "qwen2", "qwen3"] {
        let config = ModelConfig::from_json(&json!({
            "model_type": model_type, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96,
            "num_hidden_layers": 2, "vocab_size": 100, "head_dim": 32, "sliding_window": 128, "bos_token_id": 1,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        }))
        .unwrap();
        assert_eq!(config.sliding_window, (model_type == "mistral").then_some(128));
        assert_eq!(ModelConfig::from_json(&config.to_json("float32")).unwrap(), config);
    }
}

#[test]
fn numbers_from_single_precision_print_short() {
    assert_eq!(shortest_f32(f64::from(1e-5f32)), 1e-5);
    assert_eq!(shortest_f32(100_000.0), 100_000.0);
}
