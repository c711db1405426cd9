//! The tiny model read from each of its forms, and models that do not add up.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use camino::Utf8PathBuf;
use luthier_formats::model_files::{Architecture, ModelConfig, ModelFiles, read_model_config, write_json};
use luthier_formats::quant::TensorType;
use luthier_test::TinyModel;
use serde_json::{Value, json};

fn temporary() -> (tempfile::TempDir, Utf8PathBuf) {
    let guard = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
    (guard, path)
}

/// `expected` is the tiny model's own table; tensors of `files` must equal it bit by bit.
fn assert_equal_tensors(files: &ModelFiles, tiny: &TinyModel) {
    let expected = tiny.tensors();
    assert_eq!(files.names().len(), expected.len());
    for (name, shape, values) in expected {
        assert_eq!(files.shape(&name).as_deref(), Some(shape.as_slice()), "{name}");
        let mut found = vec![0.0; values.len()];
        files.read_f32(&name, &mut found).unwrap();
        assert_eq!(found, values, "{name}");
    }
}

#[test]
fn directory_and_gguf_are_the_same_model() {
    for architecture in [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3] {
        let (_guard, root) = temporary();
        let tiny = TinyModel::new(7).architecture(architecture);
        tiny.write_directory(&root.join("hf"));
        tiny.write_gguf(&root.join("tiny.gguf"), TensorType::F32);
        let directory = ModelFiles::open(&root.join("hf")).unwrap();
        let gguf = ModelFiles::open(&root.join("tiny.gguf")).unwrap();
        assert_equal_tensors(&directory, &tiny);
        assert_equal_tensors(&gguf, &tiny);
        assert_eq!(*directory.config(), tiny.config);
        // A GGUF file of Mistral says `llama`.
        let family = if architecture == Architecture::Mistral { Architecture::Llama } else { architecture };
        assert_eq!(*gguf.config(), ModelConfig { architecture: family, ..tiny.config.clone() });
        assert_eq!(read_model_config(&root.join("hf")).unwrap(), tiny.config);
    }
}

#[test]
fn rows_of_a_permuted_tensor_are_rows_of_the_whole() {
    let (_guard, root) = temporary();
    let tiny = TinyModel::new(3).tied();
    tiny.write_gguf(&root.join("tiny.gguf"), TensorType::Q8_0);
    let files = ModelFiles::open(&root.join("tiny.gguf")).unwrap();
    assert!(files.config().tie_embeddings);
    assert_eq!(files.shape("lm_head.weight"), None);
    let name = "model.layers.1.self_attn.k_proj.weight";
    assert_eq!(files.dtype(name), Some(TensorType::Q8_0));
    let mut whole = vec![0.0; 32 * 64];
    files.read_f32(name, &mut whole).unwrap();
    let mut part = vec![0.0; 5 * 64];
    files.read_rows_f32(name, 13..18, &mut part).unwrap();
    assert_eq!(part, whole[13 * 64..18 * 64]);
    let error = files.read_rows_f32(name, 30..33, &mut part[..3 * 64]).unwrap_err();
    assert_eq!(
        error.message,
        "rows 30..33 of tensor `model.layers.1.self_attn.k_proj.weight` [32, 64] do not fill a buffer of 192"
    );
}

#[test]
fn half_precision_directories_are_read() {
    let (_guard, root) = temporary();
    let tiny = TinyModel::new(5).dtype(TensorType::BF16);
    tiny.write_directory(&root);
    let files = ModelFiles::open(&root).unwrap();
    let (name, _, values) = &tiny.tensors()[1];
    let mut found = vec![0.0; values.len()];
    files.read_f32(name, &mut found).unwrap();
    for (found, value) in found.iter().zip(values) {
        assert_eq!(*found, half::bf16::from_f32(*value).to_f32());
    }
}

/// Applies `edit` to config.json and returns the error of opening.
fn with_config(edit: impl Fn(&mut Value)) -> String {
    let (_guard, root) = temporary();
    TinyModel::new(1).write_directory(&root);
    let path = root.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    edit(&mut config);
    write_json(&path, &config).unwrap();
    match ModelFiles::open(&root) {
        Ok(_) => "opened".to_owned(),
        Err(error) => {
            assert!(!error.hints.is_empty(), "{error}");
            format!("{}: {}", error.code, error.to_string().replace(root.as_str(), "DIR"))
        }
    }
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let texts = [
        with_config(|config| config["model_type"] = json!("lama")),
        with_config(|config| config["model_type"] = json!("gpt_neox")),
        with_config(|config| config["vocab_size"] = json!(305)),
        with_config(|config| config["num_hidden_layers"] = json!(3)),
        with_config(|config| config["num_hidden_layers"] = json!(1)),
        with_config(|config| config["num_key_value_heads"] = json!(3)),
        with_config(|config| config["hidden_size"] = json!(-1)),
        with_config(|config| config["head_dim"] = json!(15)),
        with_config(|config| config["attention_bias"] = json!(true)),
        with_config(|config| config["hidden_act"] = json!("gelu")),
        with_config(|config| config["quantization_config"] = json!({"quant_method": "bitsandbytes"})),
        with_config(|config| config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0})),
        with_config(|config| config["eos_token_id"] = json!("</s>")),
        with_config(|config| drop(config.as_object_mut().unwrap().remove("hidden_size"))),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r##"
model::unknown_architecture: DIR/config.json: `model_type` is `lama`, expected one of `llama`, `mistral`, `qwen2`, `qwen3`
model::unknown_architecture: DIR/config.json: `model_type` is `gpt_neox`, expected one of `llama`, `mistral`, `qwen2`, `qwen3`
model::shape: `DIR`: tensor `model.embed_tokens.weight` has shape [304, 64], expected [305, 64]
model::missing_tensor: `DIR` lacks the tensor `model.layers.2.input_layernorm.weight` of shape [64]
model::unexpected_tensor: `DIR` has the tensor `model.layers.1.input_layernorm.weight`, which a llama model of this configuration does not use
model::bad_config: DIR/config.json: `config.json`: 4 heads are no multiple of 3 key-value heads
model::bad_config: DIR/config.json: config.json: `hidden_size` is -1, expected an integer of at least 1
model::bad_config: DIR/config.json: `config.json`: the head dimension 15 is odd, so it cannot be rotated
model::unsupported: DIR/config.json: config.json sets `attention_bias: true`, which is not supported
model::unsupported: DIR/config.json: config.json: `hidden_act` is `gelu`, expected `silu`
model::unsupported: DIR/config.json: config.json says that the weights are quantised (`bitsandbytes`), which is read only for `bitsandbytes, nf4`
model::rope_scaling: DIR/config.json: config.json: rope scaling `yarn` is not known, expected `default`, `linear` or `llama3`
model::bad_config: DIR/config.json: config.json: `eos_token_id` holds "</s>", expected a token id
model::bad_config: DIR/config.json: config.json has no `hidden_size`, expected an integer
"##);
}

#[test]
fn directories_that_are_no_models_are_refused() {
    let (_guard, root) = temporary();
    let show = || {
        let error = ModelFiles::open(&root).err().unwrap();
        format!("{}: {} ({})", error.code, error.to_string().replace(root.as_str(), "DIR"), error.hints.join("; "))
    };
    let mut texts = vec![show()];
    fs_err::write(root.join("config.json"), "{\"model_type\":").unwrap();
    texts.push(show());
    TinyModel::new(1).write_directory(&root);
    let weights = root.join("model.safetensors");
    let bytes = fs_err::read(&weights).unwrap();
    fs_err::write(&weights, &bytes[..bytes.len() - 5]).unwrap();
    texts.push(show());
    fs_err::remove_file(&weights).unwrap();
    texts.push(show());
    fs_err::write(root.join("pytorch_model.bin"), "").unwrap();
    texts.push(show());
    let index = root.join("model.safetensors.index.json");
    fs_err::write(&index, r#"{"weight_map": {"a": "../../secret"}}"#).unwrap();
    texts.push(show());
    fs_err::write(&index, r#"{"weight_map": {"a": "model-00001-of-00001.safetensors"}}"#).unwrap();
    texts.push(show());
    insta::assert_snapshot!(texts.join("\n"), @r##"
model::no_config: `DIR` has no config.json (a model is one .gguf file or a Hugging Face directory with config.json and *.safetensors)
model::bad_config: DIR/config.json:1:14: config.json is not JSON (fetch the file again)
safetensors::damaged: `DIR/model.safetensors`: is not a valid safetensors file (the file is incomplete or damaged; fetch it again, with `blake3:` set so that it is checked)
model::no_weights: `DIR` has neither model.safetensors nor model.safetensors.index.json (fetch the whole model directory, weights included)
model::no_weights: `DIR` has neither model.safetensors nor model.safetensors.index.json (its weights are in PyTorch's pickle format, which can run code; save them again with `model.save_pretrained(path, safe_serialization=True)`)
safetensors::damaged: `DIR/model.safetensors.index.json`: `weight_map` puts tensor `a` into "../../secret", expected a file name (the file is incomplete or damaged; fetch it again, with `blake3:` set so that it is checked)
safetensors::damaged: `DIR/model.safetensors.index.json`: names the shard `model-00001-of-00001.safetensors`, which is not there (the file is incomplete or damaged; fetch it again, with `blake3:` set so that it is checked)
"##);
}

#[test]
fn a_gguf_without_a_key_or_tensor_names_it() {
    let (_guard, root) = temporary();
    let path = root.join("tiny.gguf");
    TinyModel::new(1).write_gguf(&path, TensorType::F32);
    let bytes = fs_err::read(&path).unwrap();
    let show = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut damaged = bytes.clone();
        damaged[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs_err::write(&path, damaged).unwrap();
        ModelFiles::open(&path).err().unwrap().to_string().replace(root.as_str(), "DIR")
    };
    let texts = [
        show("llama.block_count", "llama.block_cuont"),
        show("general.architecture", "general.architectura"),
        show("blk.1.ffn_up.weight", "blk.1.ffn_um.weight"),
        show("blk.0.attn_norm.weight", "blk.7.attn_norm.weight"),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r##"
`DIR/tiny.gguf` has no metadata key `llama.block_count` (an integer)
`DIR/tiny.gguf` has no metadata key `general.architecture` (a string)
`DIR/tiny.gguf` lacks the tensor `blk.1.ffn_up.weight` of shape [128, 64]
`DIR/tiny.gguf` lacks the tensor `blk.0.attn_norm.weight` of shape [64]
"##);
}
