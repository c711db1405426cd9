//! Writing GGUF version 3, one tensor at a time.
//!
//! The header is written first, from the list of tensors to come; then each tensor's bytes in the order announced. No
//! more than one tensor is ever in memory, and that one is the caller's. Equal input gives equal bytes.

use std::io::{BufWriter, Write};

use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use luthier_core::{StageError, StageResult};

use super::value::{MetaArray, MetaValue};
use crate::quant::TensorType;

/// The alignment that readers assume when a file names none.
const ALIGNMENT: usize = 32;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDecl {
    pub name: String,
    /// Row-major: row length last.
    pub shape: Vec<usize>,
    pub tensor_type: TensorType,
}

impl TensorDecl {
    /// Bytes of the encoded tensor; `None` if its rows are not whole blocks.
    #[must_use]
    pub fn bytes(&self) -> Option<usize> {
        let (columns, rows) = match self.shape.split_last() {
            Some((columns, rows)) => (*columns, rows),
            None => (1, &[][..]),
        };
        let row = self.tensor_type.row_bytes(columns)?;
        rows.iter().try_fold(row, |product, dimension| product.checked_mul(*dimension))
    }
}

/// A GGUF file in the making.
#[derive(Debug)]
pub struct GgufWriter {
    path: Utf8PathBuf,
    file: BufWriter<fs_err::File>,
    /// Name and size of each tensor, in order.
    expected: Vec<(String, usize)>,
    next: usize,
    written: u64,
}

impl GgufWriter {
    /// Creates the file and writes its header.
    ///
    /// # Errors
    /// A tensor whose rows are not whole blocks of its type, a name longer than 63 bytes (ggml's limit) or used twice,
    /// or a write error.
    pub fn create(
        path: &Utf8Path,
        metadata: &IndexMap<String, MetaValue>,
        tensors: &[TensorDecl],
    ) -> StageResult<Self> {
        let mut header = Vec::new();
        header.extend_from_slice(b"GGUF");
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_string(&mut header, key);
            header.extend_from_slice(&value_type(value).to_le_bytes());
            put_value(&mut header, value);
        }
        let mut expected: Vec<(String, usize)> = Vec::with_capacity(tensors.len());
        let mut offset = 0usize;
        for tensor in tensors {
            let refuse =
                |message: String| StageError::new("gguf::bad_tensor", format!("tensor `{}` {message}", tensor.name));
            if tensor.name.len() > 63 {
                return Err(refuse("has a name of more than 63 bytes, which ggml refuses".to_owned()));
            }
            if expected.iter().any(|(name, _)| *name == tensor.name) {
                return Err(refuse("is announced twice".to_owned()));
            }
            let Some(bytes) = tensor.bytes() else {
                return Err(refuse(format!(
                    "of shape {:?} does not fill whole blocks of {} ({} each)",
                    tensor.shape,
                    tensor.tensor_type,
                    tensor.tensor_type.block_len()
                )));
            };
            put_string(&mut header, &tensor.name);
            header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for dimension in tensor.shape.iter().rev() {
                header.extend_from_slice(&(*dimension as u64).to_le_bytes());
            }
            header.extend_from_slice(&tensor.tensor_type.id().to_le_bytes());
            header.extend_from_slice(&(offset as u64).to_le_bytes());
            offset += bytes.next_multiple_of(ALIGNMENT);
            expected.push((tensor.name.clone(), bytes));
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        let mut file = BufWriter::with_capacity(1 << 20, fs_err::File::create(path)?);
        file.write_all(&header)?;
        Ok(Self { path: path.to_owned(), file, expected, next: 0, written: header.len() as u64 })
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    /// Another tensor is due, the bytes are not as many as announced, or a write error.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> StageResult<()> {
        match self.expected.get(self.next) {
            Some((due, size)) if due == name && *size == bytes.len() => {}
            Some((due, size)) => {
                return Err(StageError::new(
                    "gguf::write_order",
                    format!("tensor `{due}` of {size} bytes is due, got `{name}` of {}", bytes.len()),
                ));
            }
            None => {
                return Err(StageError::new("gguf::write_order", format!("tensor `{name}` comes after the last one")));
            }
        }
        self.file.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        self.file.write_all(&[0; ALIGNMENT][..padding])?;
        self.written += (bytes.len() + padding) as u64;
        self.next += 1;
        Ok(())
    }

    /// Completes the file; returns its size in bytes.
    ///
    /// # Errors
    /// A tensor is missing, or a write error.
    pub fn finish(mut self) -> StageResult<u64> {
        if let Some((name, _)) = self.expected.get(self.next) {
            return Err(StageError::new(
                "gguf::write_order",
                format!("`{}` was closed before tensor `{name}` was written", self.path),
            ));
        }
        self.file.flush()?;
        Ok(self.written)
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn value_type(value: &MetaValue) -> u32 {
    match value {
        MetaValue::U8(_) => 0,
        MetaValue::I8(_) => 1,
        MetaValue::U16(_) => 2,
        MetaValue::I16(_) => 3,
        MetaValue::U32(_) => 4,
        MetaValue::I32(_) => 5,
        MetaValue::F32(_) => 6,
        MetaValue::Bool(_) => 7,
        MetaValue::String(_) => 8,
        MetaValue::Array(_) => 9,
        MetaValue::U64(_) => 10,
        MetaValue::I64(_) => 11,
        MetaValue::F64(_) => 12,
    }
}

fn put_value(out: &mut Vec<u8>, value: &MetaValue) {
    match value {
        MetaValue::U8(value) => out.push(*value),
        MetaValue::I8(value) => out.extend_from_slice(&value.to_le_bytes()),
        MetaValue::U16(value) => out.extend_from_slice(&value.to_le_bytes()),
        MetaValue::I16(value) => out.extend_from_slice(&value.to_le_bytes()),
        MetaValue::U32(value) => out.extend_from_slice(&value.to_le_bytes()),
        MetaValue::I32(value) => out.extend_from_slice(&value.to_le_bytes()),
        MetaValue::F32(value) => out.extend_from_slice(&value.to_le_bytes()),
        MetaValue::Bool(value) => out.push(u8::from(*value)),
        MetaValue::String(value) => put_string(out, value),
        MetaValue::Array(values) => put_array(out, values),
        MetaValue::U64(value) => out.extend_from_slice(&value.to_le_bytes()),
        MetaValue::I64(value) => out.extend_from_slice(&value.to_le_bytes()),
        MetaValue::F64(value) => out.extend_from_slice(&value.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, values: &MetaArray) {
    let mut start = |kind: u32| {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(values.len() as u64).to_le_bytes());
    };
    macro_rules! numbers {
        ($kind:literal, $values:ident) => {{
            start($kind);
            for value in $values {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }};
    }
    match values {
        MetaArray::U8(values) => numbers!(0, values),
        MetaArray::I8(values) => numbers!(1, values),
        MetaArray::U16(values) => numbers!(2, values),
        MetaArray::I16(values) => numbers!(3, values),
        MetaArray::U32(values) => numbers!(4, values),
        MetaArray::I32(values) => numbers!(5, values),
        MetaArray::F32(values) => numbers!(6, values),
        MetaArray::Bool(values) => {
            start(7);
            out.extend(values.iter().map(|value| u8::from(*value)));
        }
        MetaArray::String(values) => {
            start(8);
            for value in values {
                put_string(out, value);
            }
        }
        MetaArray::Array(values) => {
            start(9);
            for value in values {
                put_array(out, value);
            }
        }
        MetaArray::U64(values) => numbers!(10, values),
        MetaArray::I64(values) => numbers!(11, values),
        MetaArray::F64(values) => numbers!(12, values),
    }
}
