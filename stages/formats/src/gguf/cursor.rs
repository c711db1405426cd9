//! A bounds-checked reader over the bytes of a GGUF header. Every length comes from the file, so none is trusted.

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};

use super::value::{MetaArray, MetaValue};

/// Deepest nesting of arrays in metadata. The format allows any; no real file nests at all.
const DEPTH_LIMIT: usize = 4;

pub(super) struct Cursor<'a> {
    pub(super) path: &'a Utf8Path,
    bytes: &'a [u8],
    at: usize,
    /// What is being read, for messages: ``metadata key `general.name` ``.
    pub(super) what: String,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Utf8Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0, what: "the header".to_owned() }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn error(&self, code: &'static str, message: impl std::fmt::Display) -> StageError {
        StageError::input(code, format!("`{}`: {message}", self.path))
    }

    fn truncated(&self, wanted: impl std::fmt::Display) -> StageError {
        self.error(
            "gguf::truncated",
            format_args!(
                "{} at offset {} needs {wanted} bytes, but the file ends at {}",
                self.what,
                self.at,
                self.bytes.len()
            ),
        )
        .hint("the download is incomplete or damaged; fetch the file again, with `blake3:` set so that it is checked")
    }

    pub(super) fn take(&mut self, count: usize) -> StageResult<&'a [u8]> {
        if count > self.remaining() {
            return Err(self.truncated(count));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> StageResult<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> StageResult<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> StageResult<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things that take at least `least` bytes each; refused if the file cannot hold them.
    pub(super) fn count(&mut self, least: usize) -> StageResult<usize> {
        let count = self.u64()?;
        match usize::try_from(count).ok().and_then(|count| count.checked_mul(least)) {
            Some(bytes) if bytes <= self.remaining() => Ok(bytes / least),
            _ => Err(self.truncated(format_args!("{count} × at least {least}"))),
        }
    }

    pub(super) fn string(&mut self) -> StageResult<String> {
        let start = self.at;
        let count = self.count(1)?;
        let bytes = self.take(count)?;
        String::from_utf8(bytes.to_vec()).map_err(|error| {
            self.error("gguf::not_utf8", format_args!("{} at offset {start} is not UTF-8", self.what)).caused_by(error)
        })
    }

    fn boolean(&mut self) -> StageResult<bool> {
        let [byte] = self.array::<1>()?;
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error(
                "gguf::bad_value",
                format_args!("{} at offset {} is a boolean of value {other}, expected 0 or 1", self.what, self.at - 1),
            )),
        }
    }

    pub(super) fn value(&mut self) -> StageResult<MetaValue> {
        let kind = self.u32()?;
        Ok(match kind {
            0 => MetaValue::U8(u8::from_le_bytes(self.array()?)),
            1 => MetaValue::I8(i8::from_le_bytes(self.array()?)),
            2 => MetaValue::U16(u16::from_le_bytes(self.array()?)),
            3 => MetaValue::I16(i16::from_le_bytes(self.array()?)),
            4 => MetaValue::U32(self.u32()?),
            5 => MetaValue::I32(i32::from_le_bytes(self.array()?)),
            6 => MetaValue::F32(f32::from_le_bytes(self.array()?)),
            7 => MetaValue::Bool(self.boolean()?),
            8 => MetaValue::String(self.string()?),
            9 => MetaValue::Array(self.values(0)?),
            10 => MetaValue::U64(self.u64()?),
            11 => MetaValue::I64(i64::from_le_bytes(self.array()?)),
            12 => MetaValue::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(self.unknown_type(other)),
        })
    }

    fn unknown_type(&self, kind: u32) -> StageError {
        self.error(
            "gguf::bad_value",
            format_args!(
                "{} at offset {} has value type {kind}, expected 0 to 12",
                self.what,
                self.at.saturating_sub(4)
            ),
        )
        .hint("the file is damaged or of a later GGUF version than 3")
    }

    fn values(&mut self, depth: usize) -> StageResult<MetaArray> {
        let kind = self.u32()?;
        if depth >= DEPTH_LIMIT {
            return Err(
                self.error("gguf::bad_value", format_args!("{} nests arrays more than {DEPTH_LIMIT} deep", self.what))
            );
        }
        macro_rules! numbers {
            ($variant:ident, $type:ty) => {{
                const SIZE: usize = size_of::<$type>();
                let count = self.count(SIZE)?;
                let bytes = self.take(count * SIZE)?;
                let mut values = Vec::with_capacity(count);
                for chunk in bytes.chunks_exact(SIZE) {
                    let mut raw = [0u8; SIZE];
                    raw.copy_from_slice(chunk);
                    values.push(<$type>::from_le_bytes(raw));
                }
                MetaArray::$variant(values)
            }};
        }
        Ok(match kind {
            0 => numbers!(U8, u8),
            1 => numbers!(I8, i8),
            2 => numbers!(U16, u16),
            3 => numbers!(I16, i16),
            4 => numbers!(U32, u32),
            5 => numbers!(I32, i32),
            6 => numbers!(F32, f32),
            7 => {
                let count = self.count(1)?;
                MetaArray::Bool((0..count).map(|_| self.boolean()).collect::<StageResult<_>>()?)
            }
            8 => {
                let count = self.count(8)?;
                MetaArray::String((0..count).map(|_| self.string()).collect::<StageResult<_>>()?)
            }
            9 => {
                let count = self.count(12)?;
                MetaArray::Array((0..count).map(|_| self.values(depth + 1)).collect::<StageResult<_>>()?)
            }
            10 => numbers!(U64, u64),
            11 => numbers!(I64, i64),
            12 => numbers!(F64, f64),
            other => return Err(self.unknown_type(other)),
        })
    }
}
