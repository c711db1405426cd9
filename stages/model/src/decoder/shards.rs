//! A base model in NF4 on disk, laid out to be mapped: a safetensors file per block for its matrices and one for the
//! rest (embedding, head, norms, biases as they are kept).
//!
//! ```text
//! layer-00000.safetensors   q_proj.packed U8 · q_proj.absmax U8 · q_proj.nested_absmax F32 · q_proj.offset F32 [1] · …
//! rest.safetensors          model.embed_tokens.weight BF16 · model.norm.weight F32 · …
//! ```
//! Codes, scales and offsets are bitsandbytes' (see [`luthier_kernels::nf4`]). Files are written aside and renamed, so a
//! file that is there is whole.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::{ModelConfig, ModelFiles, tensor_specs};
use luthier_kernels::BlockKind;
use luthier_kernels::device::{HostBytes, Nf4Parts, Storage};
use luthier_kernels::nf4::{self, AbsMax, Nf4View};
use memmap2::Mmap;
use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensors};

use super::load::{BaseFormat, check_finite, projection_storage, stored_nf4};
use crate::projection::Projection;

/// Elements of a tensor that are converted at a time.
const ROWS_AT_ONCE: usize = 1 << 20;

/// Where the matrices of a block are.
#[must_use]
pub fn layer_file(directory: &Utf8Path, layer: usize) -> Utf8PathBuf {
    directory.join(format!("layer-{layer:05}.safetensors"))
}

/// Where everything else is.
#[must_use]
pub fn rest_file(directory: &Utf8Path) -> Utf8PathBuf {
    directory.join("rest.safetensors")
}

/// A tensor to write, whose bytes are made when they are wanted.
pub struct ShardTensor<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Box<dyn Fn() -> Cow<'a, [u8]> + 'a>,
    len: usize,
}

impl<'a> ShardTensor<'a> {
    fn new(dtype: Dtype, shape: Vec<usize>, bytes: &'a [u8]) -> Self {
        Self { dtype, shape, len: bytes.len(), bytes: Box::new(move || Cow::Borrowed(bytes)) }
    }

    /// A tensor of `f32`, `f16` or `bf16`.
    #[must_use]
    pub fn borrowed(storage: Storage, shape: Vec<usize>, bytes: &'a [u8]) -> Self {
        let shape = if let Storage::Blocks(_) = storage { vec![bytes.len()] } else { shape };
        Self::new(dtype_of(storage), shape, bytes)
    }

    /// The same, whose bytes `make` gives.
    #[must_use]
    pub fn lazy(storage: Storage, shape: Vec<usize>, make: impl Fn() -> Vec<u8> + 'a) -> Self {
        let len = storage.bytes(shape.iter().product());
        Self { dtype: dtype_of(storage), shape, len, bytes: Box::new(move || Cow::Owned(make())) }
    }
}

fn dtype_of(storage: Storage) -> Dtype {
    match storage {
        Storage::F16 => Dtype::F16,
        Storage::Bf16 => Dtype::BF16,
        Storage::F32 | Storage::Nf4 => Dtype::F32,
        Storage::Blocks(_) => Dtype::U8,
    }
}

impl View for ShardTensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.bytes)()
    }

    fn data_len(&self) -> usize {
        self.len
    }
}

/// Writes tensors to `path`, whole or not at all.
///
/// # Errors
/// The disk.
pub fn write_shard(path: &Utf8Path, tensors: BTreeMap<String, ShardTensor<'_>>) -> StageResult<()> {
    let aside = path.with_extension("partial");
    safetensors::serialize_to_file(tensors, None, aside.as_std_path()).map_err(|error| {
        StageError::new("train::write_shard", format!("`{aside}` could not be written"))
            .caused_by(error)
            .hint("free some disk space: the shards of a model take about half a byte per parameter")
    })?;
    fs_err::rename(&aside, path)?;
    Ok(())
}

/// Writes the matrices of a block.
///
/// # Errors
/// The disk; a view without nested scales.
pub fn write_layer(path: &Utf8Path, matrices: &[(Projection, Nf4View<'_>)]) -> StageResult<()> {
    let offsets: Vec<[u8; 4]> = matrices
        .iter()
        .map(|(_, view)| match view.absmax {
            AbsMax::Nested { offset, .. } => offset.to_le_bytes(),
            AbsMax::Plain(_) => [0; 4],
        })
        .collect();
    let mut tensors = BTreeMap::new();
    for ((projection, view), offset) in matrices.iter().zip(&offsets) {
        let AbsMax::Nested { codes, scales, .. } = view.absmax else {
            return Err(StageError::new("train::write_shard", "a shard holds doubly quantised matrices only"));
        };
        let mut add = |part: &str, dtype, bytes, len| {
            tensors.insert(format!("{}.{part}", projection.name()), ShardTensor::new(dtype, vec![len], bytes));
        };
        add("packed", Dtype::U8, view.packed, view.packed.len());
        add("absmax", Dtype::U8, codes, codes.len());
        add("nested_absmax", Dtype::F32, bytemuck::cast_slice(scales), scales.len());
        add("offset", Dtype::F32, offset.as_slice(), 1);
    }
    write_shard(path, tensors)
}

/// A mapped shard.
pub(crate) struct Shard {
    path: Utf8PathBuf,
    pub map: Arc<Mmap>,
    /// `(type, shape, first byte, end)` by name.
    tensors: BTreeMap<String, (Dtype, Vec<usize>, usize, usize)>,
}

impl Shard {
    /// Maps a file.
    ///
    /// # Errors
    /// `train::damaged_shard`.
    pub fn open(path: &Utf8Path) -> StageResult<Self> {
        let file = fs_err::File::open(path)?;
        // SAFETY: the map is only read, and the file is this program's own, replaced by renaming only.
        let map = Arc::new(unsafe { Mmap::map(file.file()) }?);
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|error| damaged(path, "its header cannot be read").caused_by(error))?;
        let start = header + 8;
        let tensors: BTreeMap<_, _> = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (from, to) = info.data_offsets;
                (name, (info.dtype, info.shape.clone(), start + from, start + to))
            })
            .collect();
        if tensors.values().any(|(_, _, from, to)| from > to || *to > map.len()) {
            return Err(damaged(path, "it ends before its last tensor"));
        }
        Ok(Self { path: path.to_owned(), map, tensors })
    }

    fn find(&self, name: &str, dtype: Option<Dtype>) -> StageResult<HostBytes> {
        let found = self.tensors.get(name).filter(|(found, ..)| dtype.is_none_or(|dtype| *found == dtype));
        let Some((_, _, from, to)) = found else {
            return Err(damaged(&self.path, &format!("it lacks the tensor `{name}`")));
        };
        let owner: Arc<Mmap> = Arc::clone(&self.map);
        // SAFETY: a map stays at its address until it is dropped, and the file behind it is not written to.
        Ok(unsafe { HostBytes::new(&self.map[*from..*to], owner) })
    }

    /// A matrix of the rest, and how it is kept.
    ///
    /// # Errors
    /// `train::damaged_shard`.
    pub fn matrix(&self, name: &str) -> StageResult<(Storage, HostBytes)> {
        for kind in BlockKind::ALL {
            let storage = Storage::Blocks(kind);
            if self.tensors.contains_key(&rest_name(name, storage)) {
                return Ok((storage, self.find(&rest_name(name, storage), Some(Dtype::U8))?));
            }
        }
        let storage = match self.tensors.get(name).map(|(dtype, ..)| *dtype) {
            Some(Dtype::F16) => Storage::F16,
            Some(Dtype::BF16) => Storage::Bf16,
            _ => Storage::F32,
        };
        Ok((storage, self.find(name, None)?))
    }

    /// A vector of the rest.
    ///
    /// # Errors
    /// `train::damaged_shard`.
    pub fn vector(&self, name: &str, len: usize) -> StageResult<Vec<f32>> {
        let bytes = self.find(name, Some(Dtype::F32))?;
        let values: Vec<f32> = bytes
            .as_slice()
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect();
        if values.len() == len {
            Ok(values)
        } else {
            Err(damaged(&self.path, &format!("`{name}` has {} elements, expected {len}", values.len())))
        }
    }

    /// The parts of a block's matrix.
    ///
    /// # Errors
    /// `train::damaged_shard`.
    pub fn nf4(&self, projection: Projection) -> StageResult<Nf4Parts> {
        let part = |name: &str, dtype| self.find(&format!("{}.{name}", projection.name()), Some(dtype));
        let offset = part("offset", Dtype::F32)?;
        let [a, b, c, d] = offset.as_slice() else {
            return Err(damaged(&self.path, "an offset is not one number"));
        };
        Ok(Nf4Parts {
            packed: part("packed", Dtype::U8)?,
            codes: part("absmax", Dtype::U8)?,
            scales: part("nested_absmax", Dtype::F32)?,
            offset: f32::from_le_bytes([*a, *b, *c, *d]),
        })
    }

    /// What says that a tensor does not have the shape that the model's configuration asks for.
    pub fn misshapen(&self, name: &str) -> StageError {
        damaged(&self.path, &format!("`{name}` does not have the shape that the model's configuration asks for"))
    }
}

fn damaged(path: &Utf8Path, what: &str) -> StageError {
    let directory = path.parent().unwrap_or(path);
    StageError::new("train::damaged_shard", format!("`{path}` is not a shard of this model: {what}"))
        .hint(format!("remove the directory, it is made again: rm -r '{directory}'"))
}

/// Writes what of the shards of `files` is not in `directory` yet, a matrix at a time.
///
/// # Errors
/// Those of reading the model; the disk.
pub fn write_shards(files: &ModelFiles, directory: &Utf8Path) -> StageResult<()> {
    let config = files.config();
    fs_err::create_dir_all(directory)?;
    for layer in 0..config.layers {
        let path = layer_file(directory, layer);
        if path.is_file() {
            continue;
        }
        let mut quantized: Vec<(Projection, Option<nf4::Nf4Tensor>, String)> = Vec::new();
        for projection in Projection::ALL {
            let (rows, cols) = projection.shape(config);
            let name = format!("{}.weight", projection.module(layer));
            if projection_storage(files, &name, BaseFormat::Nf4) != Storage::Nf4 {
                return Err(not_streamable(files, &name));
            }
            // What the files hold in NF4 stays as it is.
            let tensor = if stored_nf4(files, &name).is_some() {
                None
            } else {
                let mut values = vec![0f32; rows * cols];
                files.read_f32(&name, &mut values)?;
                check_finite(files, &name, &values)?;
                Some(nf4::quantize(&values, rows, cols, true))
            };
            quantized.push((projection, tensor, name));
        }
        let views: Vec<_> = quantized
            .iter()
            .filter_map(|(projection, tensor, name)| {
                let view = tensor.as_ref().map(nf4::Nf4Tensor::view).or_else(|| stored_nf4(files, name))?;
                Some((*projection, view))
            })
            .collect();
        write_layer(&path, &views)?;
    }
    let path = rest_file(directory);
    if path.is_file() {
        return Ok(());
    }
    let mut kept: Vec<(String, Vec<usize>, Storage, Vec<u8>)> = Vec::new();
    for (name, shape) in rest_tensors(config) {
        let storage = if shape.len() == 2 { super::storage_of(files, &name) } else { Storage::F32 };
        let bytes = read_bytes(files, &name, &shape, storage)?;
        kept.push((name, shape, storage, bytes));
    }
    let tensors = kept
        .iter()
        .map(|(name, shape, storage, bytes)| {
            (rest_name(name, *storage), ShardTensor::borrowed(*storage, shape.clone(), bytes))
        })
        .collect();
    write_shard(&path, tensors)
}

/// The name of a tensor of the rest: blocks of GGUF add theirs.
fn rest_name(name: &str, storage: Storage) -> String {
    match storage {
        Storage::Blocks(kind) => format!("{name}.{}", kind.name()),
        _ => name.to_owned(),
    }
}

/// A tensor as it is kept, converted a few rows at a time.
fn read_bytes(files: &ModelFiles, name: &str, shape: &[usize], storage: Storage) -> StageResult<Vec<u8>> {
    let (rows, cols) = (shape.first().copied().unwrap_or(1), shape.get(1).copied().unwrap_or(1));
    let step = (ROWS_AT_ONCE / cols.max(1)).max(1);
    let mut bytes = Vec::with_capacity(storage.bytes(rows * cols));
    if let Storage::Blocks(_) = storage {
        let mut values = vec![0f32; cols];
        for row in 0..rows {
            files.read_rows_f32(name, row..row + 1, &mut values)?;
            check_finite(files, name, &values)?;
            bytes.extend_from_slice(files.row_bytes(name, row).unwrap_or_default());
        }
        return Ok(bytes);
    }
    for start in (0..rows).step_by(step) {
        let end = (start + step).min(rows);
        let mut values = vec![0f32; (end - start) * cols];
        files.read_rows_f32(name, start..end, &mut values)?;
        check_finite(files, name, &values)?;
        bytes.extend(bytes_of(storage, &values));
    }
    Ok(bytes)
}

fn not_streamable(files: &ModelFiles, name: &str) -> StageError {
    StageError::input(
        "train::stream",
        format!(
            "`{}` holds `{name}` in 4 bits without double quantisation, and blocks are streamed with it",
            files.path()
        ),
    )
    .hint("remove `stream: layers`, or start from the model's unquantised directory")
}

/// Names and shapes of what is not a block's matrix.
#[must_use]
pub fn rest_tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let matrices: Vec<String> = (0..config.layers)
        .flat_map(|layer| Projection::ALL.map(|projection| format!("{}.weight", projection.module(layer))))
        .collect();
    tensor_specs(config)
        .into_iter()
        .filter(|(name, _)| !matrices.contains(name))
        .map(|(name, spec)| (name, spec.shape))
        .collect()
}

/// `values` as they are kept in `storage`.
#[must_use]
pub fn bytes_of(storage: Storage, values: &[f32]) -> Vec<u8> {
    match storage {
        Storage::F16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        Storage::Bf16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
        Storage::F32 | Storage::Nf4 | Storage::Blocks(_) => {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        }
    }
}
