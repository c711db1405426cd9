//! Files that our own writer makes, read back; and every way of damaging one.

use camino::Utf8PathBuf;
use proptest::prelude::*;

use super::*;
use crate::gguf::{GgufWriter, MetaArray, TensorDecl};

fn sample_metadata() -> IndexMap<String, MetaValue> {
    IndexMap::from_iter([
        ("general.architecture".to_owned(), MetaValue::from("llama")),
        ("a.u8".to_owned(), MetaValue::U8(7)),
        ("a.i64".to_owned(), MetaValue::I64(-3)),
        ("a.f64".to_owned(), MetaValue::F64(0.1)),
        ("a.bool".to_owned(), MetaValue::Bool(true)),
        ("a.strings".to_owned(), MetaValue::from(vec!["Ġa".to_owned(), String::new()])),
        (
            "a.nested".to_owned(),
            MetaValue::Array(MetaArray::Array(vec![MetaArray::U16(vec![1, 2]), MetaArray::Bool(vec![])])),
        ),
    ])
}

/// Writes a file of two tensors and returns its bytes.
fn sample(directory: &Utf8Path) -> (Utf8PathBuf, Vec<u8>) {
    let path = directory.join("sample.gguf");
    let tensors = [
        TensorDecl { name: "matrix".to_owned(), shape: vec![3, 5], tensor_type: TensorType::F32 },
        TensorDecl { name: "blocks".to_owned(), shape: vec![2, 32], tensor_type: TensorType::Q8_0 },
    ];
    let mut writer = GgufWriter::create(&path, &sample_metadata(), &tensors).unwrap();
    let matrix: Vec<u8> = (0..15).flat_map(|value| (value as f32).to_le_bytes()).collect();
    writer.write("matrix", &matrix).unwrap();
    let blocks = quant::quantize(TensorType::Q8_0, &[0.5; 64], 32, None).unwrap();
    writer.write("blocks", &blocks).unwrap();
    let size = writer.finish().unwrap();
    let bytes = fs_err::read(&path).unwrap();
    assert_eq!(size, bytes.len() as u64);
    (path, bytes)
}

fn temporary() -> (tempfile::TempDir, Utf8PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
    (directory, path)
}

#[test]
fn what_was_written_is_read() {
    let (_guard, directory) = temporary();
    let (path, _) = sample(&directory);
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.version(), 3);
    assert_eq!(*file.all_metadata(), sample_metadata());
    let matrix = file.require_tensor("matrix").unwrap();
    assert_eq!((matrix.shape.as_slice(), matrix.rows(), matrix.columns()), (&[3, 5][..], 3, 5));
    assert!(matrix.offset.is_multiple_of(32));
    let mut values = vec![0.0; 15];
    file.read_f32("matrix", &mut values).unwrap();
    assert_eq!(values, (0..15).map(|value| value as f32).collect::<Vec<_>>());
    let error = file.read_f32("matrix", &mut [0.0; 14]).unwrap_err();
    assert_eq!(error.message, "tensor `matrix` has 15 elements, the buffer holds 14");
    let error = file.require_tensor("matrx").unwrap_err();
    assert_eq!(error.hints, ["the nearest name in the file is `matrix`"]);
}

#[test]
fn version_two_is_read_too() {
    let (_guard, directory) = temporary();
    let (path, mut bytes) = sample(&directory);
    bytes[4] = 2;
    fs_err::write(&path, bytes).unwrap();
    assert_eq!(GgufFile::open(&path).unwrap().version(), 2);
}

#[test]
fn every_truncation_is_an_error_that_says_where() {
    let (_guard, directory) = temporary();
    let (path, bytes) = sample(&directory);
    for length in 0..bytes.len() - 28 {
        fs_err::write(&path, &bytes[..length]).unwrap();
        let error = GgufFile::open(&path).unwrap_err();
        assert!(
            error.code == "gguf::truncated" || (error.code == "gguf::not_gguf" && length < 4),
            "{length}: {} {error}",
            error.code
        );
        assert!(!error.hints.is_empty());
    }
    fs_err::write(&path, &bytes[..bytes.len() - 40]).unwrap();
    let error = GgufFile::open(&path).unwrap_err();
    assert!(error.message.contains("tensor `blocks` (Q8_0, shape [2, 32]) needs 68 bytes at offset"), "{error}");
}

#[test]
fn error_texts() {
    let (_guard, directory) = temporary();
    let (path, bytes) = sample(&directory);
    let show = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut damaged = bytes.clone();
        edit(&mut damaged);
        fs_err::write(&path, damaged).unwrap();
        let error = GgufFile::open(&path).unwrap_err();
        format!("{}: {}", error.code, error.message.replace(directory.as_str(), "DIR"))
    };
    let texts = [
        show(&|bytes| bytes[0] = b'X'),
        show(&|bytes| bytes[4] = 9),
        show(&|bytes| bytes[4..8].copy_from_slice(&3u32.to_be_bytes())),
        show(&|bytes| bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes())),
        show(&|bytes| bytes[16..24].copy_from_slice(&1_000_000u64.to_le_bytes())),
        show(&|bytes| bytes[24..32].copy_from_slice(&(1u64 << 63).to_le_bytes())),
        // The value type of the first key, after its length and 20 bytes of name.
        show(&|bytes| bytes[52] = 13),
        show(&|bytes| bytes[32] = 0xFF),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r##"
gguf::not_gguf: `DIR/sample.gguf`: starts with `XGUF`, expected `GGUF`
gguf::version: `DIR/sample.gguf`: is GGUF version 9, expected 2 or 3
gguf::version: `DIR/sample.gguf`: is a big-endian GGUF file, expected little-endian
gguf::truncated: `DIR/sample.gguf`: the tensor count at offset 16 needs 18446744073709551615 × at least 24 bytes, but the file ends at 544
gguf::truncated: `DIR/sample.gguf`: the metadata count at offset 24 needs 1000000 × at least 13 bytes, but the file ends at 544
gguf::truncated: `DIR/sample.gguf`: the name of metadata key 0 at offset 32 needs 9223372036854775808 × at least 1 bytes, but the file ends at 544
gguf::bad_value: `DIR/sample.gguf`: metadata key `general.architecture` at offset 52 has value type 13, expected 0 to 12
gguf::not_utf8: `DIR/sample.gguf`: the name of metadata key 0 at offset 24 is not UTF-8
"##);
}

#[test]
fn hostile_tensor_headers_are_refused() {
    let (_guard, directory) = temporary();
    let (path, bytes) = sample(&directory);
    let name = bytes.windows(6).position(|window| window == b"matrix").unwrap();
    let (dimensions, first, kind, offset) = (name + 6, name + 10, name + 26, name + 30);
    let with = |at: usize, patch: &[u8]| {
        let mut damaged = bytes.clone();
        damaged[at..at + patch.len()].copy_from_slice(patch);
        fs_err::write(&path, damaged).unwrap();
        GgufFile::open(&path).unwrap_err().message.replace(directory.as_str(), "DIR")
    };
    let texts = [
        with(dimensions, &5u32.to_le_bytes()),
        with(first, &0u64.to_le_bytes()),
        with(first, &u64::MAX.to_le_bytes()),
        with(first, &(1u64 << 62).to_le_bytes()),
        with(kind, &77u32.to_le_bytes()),
        with(kind, &(TensorType::Q4_0 as u32).to_le_bytes()),
        with(offset, &7u64.to_le_bytes()),
        with(offset, &(u64::MAX - 31).to_le_bytes()),
        with(offset, &64u64.to_le_bytes()),
        with(name, b"blocks"),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r##"
`DIR/sample.gguf`: tensor `matrix` has 5 dimensions, expected at most 4
`DIR/sample.gguf`: tensor `matrix` has a dimension of 0, expected 1 or more
`DIR/sample.gguf`: tensor `matrix` has shape [3, 18446744073709551615], which no file can hold
`DIR/sample.gguf`: tensor `matrix` has shape [3, 4611686018427387904], which no file can hold
`DIR/sample.gguf`: tensor `matrix` has type number 77, which ggml does not define
`DIR/sample.gguf`: tensor `matrix` has rows of 5 elements, expected a multiple of 32 (Q4_0)
`DIR/sample.gguf`: tensor `matrix` has offset 7, expected a multiple of 32
`DIR/sample.gguf`: tensor `matrix` (F32, shape [3, 5]) needs 60 bytes at offset 384 + 18446744073709551584, but the file ends at 544
`DIR/sample.gguf`: tensors `matrix` and `blocks` overlap at offset 448
`DIR/sample.gguf`: tensor `blocks` appears twice
"##);
}

#[test]
fn writer_keeps_its_order() {
    let (_guard, directory) = temporary();
    let path = directory.join("order.gguf");
    let tensors = [TensorDecl { name: "a".to_owned(), shape: vec![4], tensor_type: TensorType::F32 }];
    let mut writer = GgufWriter::create(&path, &IndexMap::new(), &tensors).unwrap();
    assert_eq!(writer.write("a", &[0; 15]).unwrap_err().message, "tensor `a` of 16 bytes is due, got `a` of 15");
    assert!(writer.finish().unwrap_err().message.ends_with("was closed before tensor `a` was written"));
    let ragged = [TensorDecl { name: "a".to_owned(), shape: vec![2, 48], tensor_type: TensorType::Q4_0 }];
    assert_eq!(
        GgufWriter::create(&path, &IndexMap::new(), &ragged).unwrap_err().message,
        "tensor `a` of shape [2, 48] does not fill whole blocks of Q4_0 (32 each)"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any byte changed anywhere: an error or a file whose tensors can be read, never a panic.
    #[test]
    fn damaged_files_never_panic(at in 0usize..700, value in any::<u8>(), second in 0usize..700, other in any::<u8>()) {
        let (_guard, directory) = temporary();
        let (path, mut bytes) = sample(&directory);
        let length = bytes.len();
        bytes[at % length] = value;
        bytes[second % length] = other;
        fs_err::write(&path, &bytes).unwrap();
        if let Ok(file) = GgufFile::open(&path) {
            for (name, info) in file.tensors() {
                let mut out = vec![0.0; info.elements()];
                let _ = file.read_f32(name, &mut out);
            }
        }
    }
}
