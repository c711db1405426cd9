//! Blocks and files that ggml, gguf-py and llama.cpp made (`tests/golden/gguf`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use camino::{Utf8Path, Utf8PathBuf};
use luthier_formats::gguf::GgufFile;
use luthier_formats::model_files::{ModelFiles, SafetensorsSet};
use luthier_formats::quant::{self, TensorType};
use serde_json::Value;

fn golden(name: &str) -> Utf8PathBuf {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

struct Blocks {
    manifest: Value,
    blob: Vec<u8>,
}

impl Blocks {
    fn open() -> Self {
        let manifest = serde_json::from_slice(&fs_err::read(golden("gguf/blocks.json")).unwrap()).unwrap();
        Self { manifest, blob: fs_err::read(golden("gguf/blocks.bin")).unwrap() }
    }

    fn bytes(&self, entry: &Value) -> &[u8] {
        let size = if entry["dtype"] == "f32" { 4 } else { 1 };
        let count: u64 =
            entry["shape"].as_array().unwrap().iter().map(|dimension| dimension.as_u64().unwrap()).product();
        let start = entry["offset"].as_u64().unwrap() as usize;
        &self.blob[start..start + count as usize * size]
    }

    fn floats(&self, entry: &Value) -> Vec<f32> {
        self.bytes(entry).chunks_exact(4).map(|raw| f32::from_le_bytes(raw.try_into().unwrap())).collect()
    }

    fn types(&self) -> impl Iterator<Item = (TensorType, &Value)> {
        let types = self.manifest["types"].as_object().unwrap();
        types.iter().map(|(name, entry)| (TensorType::from_name(name).unwrap(), entry))
    }

    fn row_names(&self) -> Vec<&str> {
        self.manifest["rows"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
    }
}

const COLUMNS: usize = 256;

fn decode(kind: TensorType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / kind.block_bytes() * kind.block_len()];
    quant::dequantize(kind, bytes, &mut out).unwrap();
    out
}

#[test]
fn ggml_blocks_decode_to_the_same_bits() {
    let blocks = Blocks::open();
    let mut checked = 0;
    for (kind, entry) in blocks.types() {
        assert_eq!(
            (kind.id() as u64, kind.row_bytes(COLUMNS).unwrap() as u64),
            (entry["type"].as_u64().unwrap(), entry["row_bytes"].as_u64().unwrap())
        );
        let (found, expected) = (decode(kind, blocks.bytes(&entry["quantized"])), blocks.floats(&entry["dequantized"]));
        assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
            assert!(same, "{kind} row {} column {}: {found} against {expected}", index / COLUMNS, index % COLUMNS);
        }
        checked += 1;
    }
    assert_eq!(checked, 12);
}

/// The types whose encoding is a formula rather than a search.
#[test]
fn plain_blocks_encode_to_the_same_bytes() {
    let blocks = Blocks::open();
    let input = blocks.floats(&blocks.manifest["input"]);
    for (kind, entry) in blocks.types() {
        if kind.block_len() == 256 {
            continue;
        }
        let expected = blocks.bytes(&entry["quantized"]);
        let row_bytes = kind.row_bytes(COLUMNS).unwrap();
        for (row, name) in blocks.row_names().iter().enumerate() {
            let values = &input[row * COLUMNS..(row + 1) * COLUMNS];
            let found = quant::quantize(kind, values, COLUMNS, None).unwrap();
            assert_eq!(found, expected[row * row_bytes..(row + 1) * row_bytes], "{kind} row `{name}`");
        }
    }
}

/// Squared error, each value weighted by what the search says it costs: `rms + |x|`, and unweighted.
fn errors(values: &[f32], decoded: &[f32]) -> (f64, f64) {
    let square: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64;
    values.iter().zip(decoded).fold((0.0, 0.0), |(weighted, plain), (x, y)| {
        let error = (f64::from(*x) - f64::from(*y)).powi(2);
        (weighted + (square.sqrt() + f64::from(x.abs())) * error, plain + error)
    })
}

fn range_of(row: usize) -> std::ops::Range<usize> {
    row * COLUMNS..(row + 1) * COLUMNS
}

/// The searched types choose other bytes than ggml; they must not be worse ones.
#[test]
fn searched_blocks_are_no_worse_than_ggmls() {
    let blocks = Blocks::open();
    let input = blocks.floats(&blocks.manifest["input"]);
    for (kind, entry) in blocks.types() {
        if kind.block_len() != 256 {
            continue;
        }
        let theirs = blocks.floats(&entry["dequantized"]);
        let (mut ratios, mut worst) = (Vec::new(), (0.0, ""));
        for (row, name) in blocks.row_names().iter().enumerate() {
            let range = range_of(row);
            let ours = decode(kind, &quant::quantize(kind, &input[range.clone()], COLUMNS, None).unwrap());
            let (mine, plain) = errors(&input[range.clone()], &ours);
            let (other, other_plain) = errors(&input[range.clone()], &theirs[range]);
            println!("{kind} {name:20} weighted {mine:.4e} / {other:.4e}   plain {plain:.4e} / {other_plain:.4e}");
            // Below 2^-9 of the values both have found the levels, and what is left is the luck of rounding scale and
            // minimum to half precision; the types' own steps are 2^-5 and more.
            let floor = 2f64.powi(-18) * errors(&input[range_of(row)], &[0.0; COLUMNS]).0;
            let ratio = (mine + floor) / (other + floor);
            ratios.push(ratio.ln());
            if ratio > worst.0 {
                worst = (ratio, *name);
            }
        }
        let mean = (ratios.iter().sum::<f64>() / ratios.len() as f64).exp();
        println!("{kind}: mean ratio {mean:.4}, worst {:.4} ({})", worst.0, worst.1);
        assert!(mean <= 1.0, "{kind}: error is {mean} of ggml's");
        assert!(worst.0 <= 1.05, "{kind}: error of row `{}` is {} of ggml's", worst.1, worst.0);
    }
}

/// Every tensor of a GGUF file against the same tensor of a directory, each value within `tolerance` of its row's peak.
fn compare(gguf: &str, directory: &str, tolerance: f32) {
    let (gguf, directory) = (ModelFiles::open(&golden(gguf)).unwrap(), ModelFiles::open(&golden(directory)).unwrap());
    assert_eq!(gguf.names().collect::<Vec<_>>(), directory.names().collect::<Vec<_>>());
    for (name, spec) in directory.specs() {
        let count = spec.shape.iter().product();
        let (mut found, mut expected) = (vec![0.0; count], vec![0.0; count]);
        gguf.read_f32(name, &mut found).unwrap();
        directory.read_f32(name, &mut expected).unwrap();
        let columns = spec.shape.last().unwrap();
        for (row, (found, expected)) in found.chunks(*columns).zip(expected.chunks(*columns)).enumerate() {
            let peak = expected.iter().fold(0.0f32, |peak, value| peak.max(value.abs()));
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= tolerance * peak, "{name} row {row}: {found} against {expected}");
            }
        }
    }
    let (found, expected) = (gguf.config(), directory.config());
    assert_eq!(
        (found.layers, found.heads, found.kv_heads, found.head_dim, found.rms_eps, found.rope_theta),
        (expected.layers, expected.heads, expected.kv_heads, expected.head_dim, expected.rms_eps, expected.rope_theta)
    );
}

#[test]
fn files_of_gguf_py_and_llama_cpp_are_read() {
    compare("gguf/llama_tied-f32.gguf", "llama/llama_tied", 0.0);
    // Half a step of Q8_0, which is a 127th of the block's peak, and the rounding of the step itself.
    compare("gguf/llama-q8_0.gguf", "llama/llama", 0.5 / 127.0 + 1.0 / 2048.0);
    assert_eq!(GgufFile::open(&golden("gguf/llama-q8_0.gguf")).unwrap().version(), 3);
}

#[test]
fn directories_of_transformers_are_read() {
    for name in ["llama", "llama_tied", "llama_scaled_rope", "mistral", "qwen2", "qwen3"] {
        let files = ModelFiles::open(&golden("llama").join(name)).unwrap();
        assert_eq!(
            files.config().tie_embeddings,
            name == "llama_tied" || files.shape("lm_head.weight").is_none(),
            "{name}"
        );
        let adapter = golden("llama").join(name).join("adapter/adapter_model.safetensors");
        let set = SafetensorsSet::open_files(vec![adapter]).unwrap();
        assert!(set.tensors().keys().all(|key| key.starts_with("base_model.model.model.layers.")), "{name}");
    }
}
