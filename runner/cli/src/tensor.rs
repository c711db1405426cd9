//! Which tensor of a safetensors file a byte belongs to.
//!
//! The format (huggingface/safetensors, `README.md`): eight bytes with the length of a JSON header, the header, then the
//! tensors' bytes at the offsets that the header names.

use std::io::Read;

use camino::Utf8Path;
use serde_json::Value;

/// Larger headers are refused, as the format's own reader does.
const MOST: u64 = 100_000_000;

/// A tensor and the element that holds the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub tensor: String,
    pub dtype: String,
    pub index: u64,
    /// Of the element's first byte in the file, and how many it has.
    pub at: u64,
    pub width: u64,
}

/// `None` if the byte is in the header or the file is not what its name says.
pub fn locate(file: &Utf8Path, byte: u64) -> Option<Element> {
    let mut open = fs_err::File::open(file).ok()?;
    let mut length = [0; 8];
    open.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > MOST {
        return None;
    }
    let mut header = Vec::new();
    open.take(length).read_to_end(&mut header).ok()?;
    let header: Value = serde_json::from_slice(&header).ok()?;
    let within = byte.checked_sub(8 + length)?;
    header.as_object()?.iter().filter(|(name, _)| *name != "__metadata__").find_map(|(name, tensor)| {
        let offsets = tensor["data_offsets"].as_array()?;
        let (from, to) = (offsets.first()?.as_u64()?, offsets.get(1)?.as_u64()?);
        if !(from..to).contains(&within) {
            return None;
        }
        let dtype = tensor["dtype"].as_str()?;
        let width = match dtype {
            "F64" | "I64" | "U64" => 8,
            "F32" | "I32" | "U32" => 4,
            "F16" | "BF16" | "I16" | "U16" => 2,
            _ => 1,
        };
        let index = (within - from) / width;
        let at = 8 + length + from + index * width;
        Some(Element { tensor: name.clone(), dtype: dtype.to_owned(), index, at, width })
    })
}

/// The value of a float element of at most 32 bits in a file; `None` for other types.
pub fn value(file: &Utf8Path, element: &Element) -> Option<f32> {
    use std::io::{Seek, SeekFrom};
    let mut open = fs_err::File::open(file).ok()?;
    open.seek(SeekFrom::Start(element.at)).ok()?;
    let mut bytes = Vec::new();
    open.take(element.width).read_to_end(&mut bytes).ok()?;
    match element.dtype.as_str() {
        "F32" => Some(f32::from_le_bytes(bytes.try_into().ok()?)),
        // The upper half of an f32.
        "BF16" => Some(f32::from_bits(u32::from(u16::from_le_bytes(bytes.try_into().ok()?)) << 16)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_belong_to_elements() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = Utf8Path::from_path(directory.path()).expect("UTF-8").join("x.safetensors");
        let header = r#"{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"v":{"dtype":"BF16","shape":[2],"data_offsets":[16,20]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([1.0_f32, 2.5, -3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend([0x80, 0x3f, 0x20, 0x40]);
        fs_err::write(&path, &bytes).expect("a file");
        let start = 8 + header.len() as u64;
        let element = locate(&path, start + 9).expect("an element");
        assert_eq!((element.tensor.as_str(), element.index, element.at), ("w", 2, start + 8));
        assert_eq!(value(&path, &element), Some(-3.0));
        let element = locate(&path, start + 19).expect("an element");
        assert_eq!((element.tensor.as_str(), element.index), ("v", 1));
        assert_eq!(value(&path, &element), Some(2.5));
        assert_eq!(locate(&path, 12), None, "in the header");
        assert_eq!(locate(&path, start + 20), None, "behind the end");
        fs_err::write(&path, [0xff; 64]).expect("a file");
        assert_eq!(locate(&path, 20), None);
    }
}
