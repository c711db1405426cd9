//! Merges against PEFT's, and models in 4 bits.

use camino::Utf8Path;
use luthier_test::{TinyAdapter, TinyModel};

use super::tests::{Setup, read_all};
use super::*;
use crate::testing::Bench;

/// DoRA and rank patterns against PEFT's `merge_and_unload` (`tests/golden/methods`).
#[test]
fn methods_merge_as_peft_does() {
    let golden = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    for (name, base) in
        [("dora", "llama"), ("dora_qwen2", "qwen2"), ("dora_rslora_qwen3", "qwen3"), ("patterns_qwen2", "qwen2")]
    {
        let mut bench = Bench::new();
        bench.input("model", ArtifactKind::Model, &golden.join("llama").join(base));
        bench.input("adapters", ArtifactKind::Adapter, &golden.join("methods").join(name).join("adapter"));
        let done = bench.run(&MergeStage, &json!({"dtype": "f32"})).expect("a merge");
        let bytes =
            fs_err::read(golden.join("methods").join(name).join("expected.safetensors")).expect("a golden file");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut compared = 0;
        for (weight, _, values) in &read_all(&done.out.join("model")) {
            let Ok(view) = file.tensor(&format!("merged.{weight}")) else { continue };
            let expected =
                view.data().chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
            for (value, expected) in values.iter().zip(expected) {
                assert!((value - expected).abs() < 2e-6, "{name} {weight}: {value} {expected}");
            }
            compared += 1;
        }
        assert_eq!(compared, 7, "{name}");
    }
}

#[test]
fn four_bits_are_written_read_and_trained_on() {
    let adapter = TinyAdapter::new(5);
    let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &adapter);
    let plain = read_all(&setup.run(&json!({"dtype": "f32"})).expect("a merge").out.join("model"));
    let out = setup.run(&json!({"dtype": "nf4"})).expect("a merge").out.join("model");
    let files = ModelFiles::open(&out).expect("a model");
    for (name, shape, mut values) in plain {
        assert_eq!(files.nf4(&name).is_some(), name.ends_with("_proj.weight"), "{name}");
        let mut read = vec![0f32; values.len()];
        files.read_f32(&name, &mut read).expect("readable");
        if let Some((stored, packed)) = files.nf4(&name) {
            let quantized = nf4::quantize(&values, shape[0], shape[1], true);
            nf4::dequantize(&quantized.view(), 0..shape[0], &mut values);
            assert_eq!(stored.shape[..], shape[..]);
            assert_eq!(packed, quantized.packed);
        } else {
            for value in &mut values {
                *value = half::bf16::from_f32(*value).to_f32();
            }
        }
        assert_eq!(values, read, "{name}");
    }
    let config = read_config_json(&out).expect("a configuration").0;
    assert_eq!(config["quantization_config"]["bnb_4bit_quant_type"], "nf4");
    // Such a directory is a base like any other; merging into it again takes the quantisation away unless it is asked for.
    let mut bench = crate::train::tests::bench_on(&out);
    let with = json!({"rank": 4, "batch": 4, "steps": 1, "checkpoint_seconds": 0});
    let trained = bench.run(&crate::train::TrainStage, &with).expect("trained");
    bench.input("adapters", ArtifactKind::Adapter, &trained.out.join("adapter"));
    let again = bench.run(&MergeStage, &json!({"dtype": "f32"})).expect("a merge").out.join("model");
    assert!(read_config_json(&again).expect("a configuration").0.get("quantization_config").is_none());
    for name in ["method", "plan"] {
        let mut with = json!({"rank": 4, "batch": 4, "steps": 1});
        if name == "method" {
            with["method"] = json!("lora");
        }
        let plan = crate::plan::predict_memory(&out, None, &with).expect("a plan");
        assert_eq!(plan.bytes.weights, files_weights(&files), "{name}");
    }
}

/// Bytes of the blocks' weights and of the last norm as the engine keeps them.
fn files_weights(files: &ModelFiles) -> usize {
    let size = |(name, spec): (&String, &TensorSpec)| {
        let elements: usize = spec.shape.iter().product();
        match files.nf4(name) {
            Some((_, packed)) => packed.len() + elements.div_ceil(64) + 4 * elements.div_ceil(64).div_ceil(256),
            None if name.contains("embed_tokens") || name == HEAD => 0,
            None => 4 * elements,
        }
    };
    files.specs().iter().map(size).sum()
}

#[test]
fn damaged_four_bit_checkpoints_are_refused_by_name() {
    let mut setup = Setup::new(TinyModel::new(1)).adapter("adapter", &TinyAdapter::new(5));
    let out = setup.run(&json!({"dtype": "nf4"})).expect("a merge").out.join("model");
    let (config, weights) = (out.join("config.json"), out.join("model.safetensors"));
    let (text, bytes) = (fs_err::read_to_string(&config).expect("JSON"), fs_err::read(&weights).expect("weights"));
    let refused = || {
        let error = ModelFiles::open(&out).err().expect("a refusal");
        format!("{}: {} ({})", error.code, error.to_string().replace(out.as_str(), "DIR"), error.hints.join("; "))
    };
    let mut texts = Vec::new();
    fs_err::write(&config, text.replace("\"nf4\"", "\"fp4\"")).expect("written");
    texts.push(refused());
    fs_err::write(&config, &text).expect("written");
    let change = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let place = bytes.windows(from.len()).position(|part| part == from.as_bytes()).expect("the text");
        let mut changed = bytes.clone();
        changed[place..place + to.len()].copy_from_slice(to.as_bytes());
        fs_err::write(&weights, changed).expect("written");
        refused()
    };
    texts.push(change("\"blocksize\":64", "\"blocksize\":32"));
    texts.push(change("\"nested_blocksize\":256", "\"nested_blocksize\":128"));
    texts.push(change("q_proj.weight.quant_map", "q_proj.weight.quant_mop"));
    texts.push(change("\"quant_type\"", "\"quant_tipe\""));
    insta::assert_snapshot!(texts.join("\n"));
}
