//! NF4 against files that bitsandbytes made (tests/golden/nf4, CPU rounding).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytemuck::pod_read_unaligned;
use luthier_kernels::nf4::{CODE, Flavour, Nf4Scales, dequantize, dynamic_map, quantize_absmax, quantize_flavour};
use luthier_kernels::{AbsMax, Backend, Nf4View};
use serde_json::Value;

const MANIFEST: &str = include_str!("../../tests/golden/nf4/cases.json");
const DATA: &[u8] = include_bytes!("../../tests/golden/nf4/cases.bin");

fn bytes(entry: &Value, size: usize) -> &'static [u8] {
    let count: usize = entry["shape"].as_array().unwrap().iter().map(|side| side.as_u64().unwrap() as usize).product();
    &DATA[entry["offset"].as_u64().unwrap() as usize..][..count * size]
}

fn floats(entry: &Value) -> Vec<f32> {
    bytes(entry, 4).chunks_exact(4).map(pod_read_unaligned).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn manifest() -> Value {
    serde_json::from_str(MANIFEST).unwrap()
}

#[test]
fn tables() {
    let manifest = manifest();
    assert_eq!(bits(&CODE), bits(&floats(&manifest["code"])));
    assert_eq!(bits(dynamic_map()), bits(&floats(&manifest["dynamic_map"])));
}

#[test]
fn codes_and_scales() {
    let manifest = manifest();
    let cases = manifest["cases"].as_array().unwrap();
    assert!(cases.len() >= 20);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let (rows, cols) = (case["rows"].as_u64().unwrap() as usize, case["cols"].as_u64().unwrap() as usize);
        let tensor = quantize_flavour(&floats(&case["input"]), rows, cols, false, Flavour::Cpu);
        assert_eq!(tensor.packed, bytes(&case["packed"], 1), "{name}: packed");
        let Nf4Scales::Plain(absmax) = &tensor.absmax else { panic!("plain was asked for") };
        assert_eq!(bits(absmax), bits(&floats(&case["absmax"])), "{name}: absmax");

        let double = &case["double"];
        let offset = floats(&double["offset"])[0];
        let (codes, scales) = quantize_absmax(absmax, offset, Flavour::Cpu);
        assert_eq!(codes, bytes(&double["codes"], 1), "{name}: nested codes");
        assert_eq!(bits(&scales), bits(&floats(&double["scales"])), "{name}: nested scales");

        let Nf4Scales::Nested { offset: ours, .. } =
            quantize_flavour(&floats(&case["input"]), rows, cols, true, Flavour::Cpu).absmax
        else {
            panic!("nested was asked for")
        };
        // torch adds in an order that depends on its threads; ours is the rounded sum in f64.
        assert!((ours - offset).abs() <= 4.0 * f32::EPSILON * offset.abs(), "{name}: offset {ours} against {offset}");
    }
}

#[test]
fn values() {
    let manifest = manifest();
    for case in manifest["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let (rows, cols) = (case["rows"].as_u64().unwrap() as usize, case["cols"].as_u64().unwrap() as usize);
        let packed = bytes(&case["packed"], 1);
        let double = &case["double"];
        let (plain, scales) = (floats(&case["absmax"]), floats(&double["scales"]));
        let codes = bytes(&double["codes"], 1);
        let nested = AbsMax::Nested { codes, scales: &scales, offset: floats(&double["offset"])[0] };
        let restored: Vec<f32> = (0..codes.len()).map(|block| nested.get(block)).collect();
        assert_eq!(bits(&restored), bits(&floats(&double["absmax"])), "{name}: restored absmax");
        for (absmax, expected) in [(AbsMax::Plain(&plain), &case["dequantized"]), (nested, &double["dequantized"])] {
            let view = Nf4View { packed, absmax, rows, cols };
            for backend in Backend::supported() {
                let mut out = vec![f32::NAN; rows * cols];
                backend.with(|| dequantize(&view, 0..rows, &mut out));
                assert_eq!(bits(&out), bits(&floats(expected)), "{name} {backend}");
                let mut row = vec![f32::NAN; cols];
                backend.with(|| dequantize(&view, rows - 1..rows, &mut row));
                assert_eq!(bits(&row), bits(&out[(rows - 1) * cols..]), "{name} {backend}: last row");
            }
        }
    }
}

#[test]
fn flavours_differ_only_where_they_must() {
    let manifest = manifest();
    for case in manifest["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let (rows, cols) = (case["rows"].as_u64().unwrap() as usize, case["cols"].as_u64().unwrap() as usize);
        let input = floats(&case["input"]);
        // Below 1e-38 the CPU clamps; zero blocks, incomplete ones and ties it rounds in its own way.
        let ordinary = (rows * cols).is_multiple_of(64)
            && !name.starts_with("ties")
            && input.chunks(64).all(|block| block.iter().any(|x| x.abs() >= 1e-37));
        if ordinary {
            let cpu = quantize_flavour(&input, rows, cols, false, Flavour::Cpu);
            let cuda = quantize_flavour(&input, rows, cols, false, Flavour::Cuda);
            assert_eq!(cpu, cuda, "{name}");
        }
    }
}
