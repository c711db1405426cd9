//! A GGUF file, memory-mapped.
//!
//! Opening checks everything the file says about itself: counts, lengths, types, dimensions and offsets. Afterwards every
//! tensor lies wholly inside the file, does not overflow, and starts aligned, so reading one cannot fail for its bounds.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use luthier_core::{StageError, StageResult, nearest};
use memmap2::Mmap;

use super::cursor::Cursor;
use super::value::MetaValue;
use crate::quant::{self, TensorType};

/// The most dimensions ggml knows.
const MAX_DIMENSIONS: u32 = 4;

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Row-major: the slowest dimension first, the row length last. The file stores them the other way round.
    pub shape: Vec<usize>,
    pub tensor_type: TensorType,
    /// From the start of the file.
    pub offset: usize,
    pub bytes: usize,
}

impl TensorInfo {
    /// Elements of a row: the last dimension.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// All dimensions but the last, multiplied.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    #[must_use]
    pub fn elements(&self) -> usize {
        self.rows() * self.columns()
    }
}

/// An open GGUF file of version 2 or 3.
#[derive(Debug)]
pub struct GgufFile {
    path: Utf8PathBuf,
    map: Arc<Mmap>,
    version: u32,
    metadata: IndexMap<String, MetaValue>,
    tensors: IndexMap<String, TensorInfo>,
}

impl GgufFile {
    /// Maps and checks a file. Source: the GGUF specification, versions 2 and 3.
    ///
    /// # Errors
    /// Not a GGUF file, another version or byte order, or anything in it that does not add up; each names the key or
    /// tensor and the offset.
    pub fn open(path: &Utf8Path) -> StageResult<Self> {
        let file = fs_err::File::open(path)?;
        // SAFETY: the map is only read. Inputs of a stage are immutable artifacts; a file that another program truncates
        // meanwhile would raise SIGBUS, as with every memory-mapped model loader.
        let map = Arc::new(unsafe { Mmap::map(file.file()) }?);
        let (version, metadata, tensors) = parse(path, &map)?;
        Ok(Self { path: path.to_owned(), map, version, metadata, tensors })
    }

    #[must_use]
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&MetaValue> {
        self.metadata.get(key)
    }

    /// All metadata in file order.
    #[must_use]
    pub fn all_metadata(&self) -> &IndexMap<String, MetaValue> {
        &self.metadata
    }

    /// All tensors in file order.
    #[must_use]
    pub fn tensors(&self) -> &IndexMap<String, TensorInfo> {
        &self.tensors
    }

    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// A tensor's place.
    ///
    /// # Errors
    /// There is none of this name; suggests the nearest.
    pub fn require_tensor(&self, name: &str) -> StageResult<&TensorInfo> {
        self.tensor(name).ok_or_else(|| {
            let error = StageError::input("gguf::missing_tensor", format!("`{}` has no tensor `{name}`", self.path));
            match nearest(name, self.tensors.keys().map(String::as_str)) {
                Some(near) => error.hint(format!("the nearest name in the file is `{near}`")),
                None => error.hint("the file may be one part of a split model, or an adapter or projector only"),
            }
        })
    }

    /// The map of the file.
    #[must_use]
    pub fn map(&self) -> Arc<Mmap> {
        Arc::clone(&self.map)
    }

    /// The stored bytes of a tensor.
    #[must_use]
    pub fn bytes(&self, info: &TensorInfo) -> &[u8] {
        &self.map[info.offset..info.offset + info.bytes]
    }

    /// Decodes a whole tensor, in the file's own row order.
    ///
    /// # Errors
    /// No such tensor, `out` of another length, or a type without a codec.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> StageResult<()> {
        let info = self.require_tensor(name)?;
        if out.len() != info.elements() {
            return Err(StageError::new(
                "gguf::buffer_length",
                format!("tensor `{name}` has {} elements, the buffer holds {}", info.elements(), out.len()),
            ));
        }
        quant::dequantize(info.tensor_type, self.bytes(info), out).map_err(|error| error.in_tensor(&self.path, name))
    }

    /// A required metadata value, converted.
    ///
    /// # Errors
    /// The key is missing, or of another type than `expected` says.
    pub fn require<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a MetaValue) -> Option<T>,
    ) -> StageResult<T> {
        let Some(value) = self.metadata(key) else {
            return Err(StageError::input(
                "gguf::missing_key",
                format!("`{}` has no metadata key `{key}` ({expected})", self.path),
            )
            .hint("convert the model again with a current converter"));
        };
        convert(value).ok_or_else(|| {
            StageError::input(
                "gguf::bad_value",
                format!("`{}`: metadata key `{key}` is {}, expected {expected}", self.path, value.type_name()),
            )
        })
    }
}

type Parsed = (u32, IndexMap<String, MetaValue>, IndexMap<String, TensorInfo>);

fn parse(path: &Utf8Path, bytes: &[u8]) -> StageResult<Parsed> {
    let mut cursor = Cursor::new(path, bytes);
    let version = parse_version(&mut cursor)?;
    cursor.what = "the tensor count".to_owned();
    let tensor_count = cursor.count(24)?;
    cursor.what = "the metadata count".to_owned();
    let key_count = cursor.count(13)?;
    let mut metadata = IndexMap::with_capacity(key_count.min(4096));
    for index in 0..key_count {
        cursor.what = format!("the name of metadata key {index}");
        let key = cursor.string()?;
        cursor.what = format!("metadata key `{key}`");
        let value = cursor.value()?;
        if metadata.contains_key(&key) {
            return Err(cursor.error("gguf::duplicate", format_args!("metadata key `{key}` appears twice")));
        }
        metadata.insert(key, value);
    }
    let alignment = alignment(&cursor, &metadata)?;
    let mut headers = Vec::with_capacity(tensor_count.min(1 << 16));
    for index in 0..tensor_count {
        cursor.what = format!("the name of tensor {index}");
        let name = cursor.string()?;
        cursor.what = format!("tensor `{name}`");
        headers.push((parse_tensor_header(&mut cursor)?, name));
    }
    let data_start = cursor.position().next_multiple_of(alignment);
    let mut tensors = IndexMap::with_capacity(headers.len());
    for (header, name) in headers {
        let info = header.place(&cursor, &name, data_start, alignment, bytes.len())?;
        if tensors.contains_key(&name) {
            return Err(cursor.error("gguf::duplicate", format_args!("tensor `{name}` appears twice")));
        }
        tensors.insert(name, info);
    }
    check_overlap(&cursor, &tensors)?;
    Ok((version, metadata, tensors))
}

fn parse_version(cursor: &mut Cursor<'_>) -> StageResult<u32> {
    let not_gguf = |cursor: &Cursor<'_>, found: &[u8]| {
        cursor
            .error("gguf::not_gguf", format_args!("starts with `{}`, expected `GGUF`", found.escape_ascii()))
            .hint("give a `.gguf` file, or a directory with config.json and safetensors")
    };
    let magic = match cursor.take(4) {
        Ok(magic) => magic,
        Err(_) => return Err(not_gguf(cursor, b"")),
    };
    if magic != b"GGUF" {
        return Err(not_gguf(cursor, magic));
    }
    let version = cursor.u32()?;
    match version {
        2 | 3 => Ok(version),
        swapped if swapped.swap_bytes() == 3 => Err(cursor
            .error("gguf::version", "is a big-endian GGUF file, expected little-endian")
            .hint("download the little-endian file, or convert it with gguf-py's convert-endian script")),
        other => Err(cursor
            .error("gguf::version", format_args!("is GGUF version {other}, expected 2 or 3"))
            .hint("convert the model again with a current converter")),
    }
}

fn alignment(cursor: &Cursor<'_>, metadata: &IndexMap<String, MetaValue>) -> StageResult<usize> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(32) };
    match value.as_u64() {
        Some(alignment) if alignment.is_power_of_two() && (8..=1 << 20).contains(&alignment) => Ok(alignment as usize),
        _ => Err(cursor.error(
            "gguf::bad_value",
            format_args!("metadata key `general.alignment` is {value:?}, expected a power of two from 8 to 1048576"),
        )),
    }
}

struct TensorHeader {
    shape: Vec<usize>,
    tensor_type: TensorType,
    offset: u64,
    bytes: usize,
}

fn parse_tensor_header(cursor: &mut Cursor<'_>) -> StageResult<TensorHeader> {
    let count = cursor.u32()?;
    if count > MAX_DIMENSIONS {
        return Err(cursor.error(
            "gguf::bad_tensor",
            format_args!("{} has {count} dimensions, expected at most {MAX_DIMENSIONS}", cursor.what),
        ));
    }
    let mut shape = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let dimension = cursor.u64()?;
        match usize::try_from(dimension) {
            Ok(dimension) if dimension > 0 => shape.push(dimension),
            _ => {
                return Err(cursor.error(
                    "gguf::bad_tensor",
                    format_args!("{} has a dimension of {dimension}, expected 1 or more", cursor.what),
                ));
            }
        }
    }
    shape.reverse();
    let id = cursor.u32()?;
    let tensor_type = TensorType::from_id(id).ok_or_else(|| {
        cursor
            .error(
                "gguf::unknown_type",
                format_args!("{} has type number {id}, which ggml does not define", cursor.what),
            )
            .hint("the file is damaged, or made by a newer program; export it as F16 or Q8_0")
    })?;
    let offset = cursor.u64()?;
    let columns = shape.last().copied().unwrap_or(1);
    let rows = shape.iter().rev().skip(1).try_fold(1usize, |product, dimension| product.checked_mul(*dimension));
    let bytes = tensor_type.row_bytes(columns).zip(rows).and_then(|(row, rows)| row.checked_mul(rows));
    let elements = rows.and_then(|rows| rows.checked_mul(columns)).and_then(|elements| elements.checked_mul(4));
    match (bytes, elements) {
        (Some(bytes), Some(_)) => Ok(TensorHeader { shape, tensor_type, offset, bytes }),
        _ if !columns.is_multiple_of(tensor_type.block_len()) => Err(cursor.error(
            "gguf::bad_tensor",
            format_args!(
                "{} has rows of {columns} elements, expected a multiple of {} ({tensor_type})",
                cursor.what,
                tensor_type.block_len()
            ),
        )),
        _ => Err(cursor
            .error("gguf::bad_tensor", format_args!("{} has shape {shape:?}, which no file can hold", cursor.what))),
    }
}

impl TensorHeader {
    fn place(
        self,
        cursor: &Cursor<'_>,
        name: &str,
        data_start: usize,
        alignment: usize,
        file_bytes: usize,
    ) -> StageResult<TensorInfo> {
        let offset = usize::try_from(self.offset).ok();
        if offset.is_none_or(|offset| !offset.is_multiple_of(alignment)) {
            return Err(cursor.error(
                "gguf::bad_tensor",
                format_args!("tensor `{name}` has offset {}, expected a multiple of {alignment}", self.offset),
            ));
        }
        let start = offset.and_then(|offset| offset.checked_add(data_start));
        let end = start.and_then(|start| start.checked_add(self.bytes));
        match (start, end) {
            (Some(offset), Some(end)) if end <= file_bytes => {
                Ok(TensorInfo { shape: self.shape, tensor_type: self.tensor_type, offset, bytes: self.bytes })
            }
            _ => Err(cursor
                .error(
                    "gguf::truncated",
                    format_args!(
                        "tensor `{name}` ({}, shape {:?}) needs {} bytes at offset {data_start} + {}, but the file ends at \
                         {file_bytes}",
                        self.tensor_type, self.shape, self.bytes, self.offset
                    ),
                )
                .hint("the download is incomplete or damaged; fetch the file again, with `blake3:` set so that it is checked")),
        }
    }
}

fn check_overlap(cursor: &Cursor<'_>, tensors: &IndexMap<String, TensorInfo>) -> StageResult<()> {
    let mut places: Vec<(usize, usize, &str)> =
        tensors.iter().map(|(name, info)| (info.offset, info.offset + info.bytes, name.as_str())).collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        if pair[0].1 > pair[1].0 {
            return Err(cursor.error(
                "gguf::bad_tensor",
                format_args!("tensors `{}` and `{}` overlap at offset {}", pair[0].2, pair[1].2, pair[1].0),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
