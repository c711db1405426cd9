//! The safetensors files of a Hugging Face model directory, memory-mapped.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use luthier_core::{StageError, StageResult};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::quant::TensorType;

/// Where a tensor lies: which shard, which bytes.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    pub shape: Vec<usize>,
    pub tensor_type: TensorType,
    shard: usize,
    start: usize,
    end: usize,
}

/// Tensors of one or more safetensors files, by name.
#[derive(Debug)]
pub struct SafetensorsSet {
    shards: Vec<(Utf8PathBuf, Arc<Mmap>)>,
    tensors: IndexMap<String, StoredTensor>,
}

impl SafetensorsSet {
    /// Opens `model.safetensors`, or all shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// No weights, a missing or damaged shard, a tensor in two shards, or a number type that is not a float.
    pub fn open_directory(directory: &Utf8Path) -> StageResult<Self> {
        let single = directory.join("model.safetensors");
        let index = directory.join("model.safetensors.index.json");
        if single.is_file() {
            return Self::open_files(vec![single]);
        }
        if index.is_file() {
            return Self::open_files(shards_of_index(directory, &index)?);
        }
        let error = StageError::input(
            "model::no_weights",
            format!("`{directory}` has neither model.safetensors nor model.safetensors.index.json"),
        );
        if directory.join("pytorch_model.bin").is_file() || directory.join("pytorch_model.bin.index.json").is_file() {
            return Err(error.hint(
                "its weights are in PyTorch's pickle format, which can run code; save them again with \
                 `model.save_pretrained(path, safe_serialization=True)`",
            ));
        }
        Err(error.hint("fetch the whole model directory, weights included"))
    }

    /// Opens the given files.
    ///
    /// # Errors
    /// As [`Self::open_directory`].
    pub fn open_files(paths: Vec<Utf8PathBuf>) -> StageResult<Self> {
        let mut shards = Vec::with_capacity(paths.len());
        let mut tensors: IndexMap<String, StoredTensor> = IndexMap::new();
        for (shard, path) in paths.into_iter().enumerate() {
            let file = fs_err::File::open(&path)?;
            // SAFETY: the map is only read; see `GgufFile::open` for what a shrinking file would do.
            let map = Arc::new(unsafe { Mmap::map(file.file()) }?);
            for (name, stored) in read_header(&path, shard, &map)? {
                if tensors.contains_key(&name) {
                    return Err(damaged(&path, format!("tensor `{name}` is in an earlier shard too")));
                }
                tensors.insert(name, stored);
            }
            shards.push((path, map));
        }
        tensors.sort_unstable_keys();
        Ok(Self { shards, tensors })
    }

    #[must_use]
    pub fn tensors(&self) -> &IndexMap<String, StoredTensor> {
        &self.tensors
    }

    /// The file a tensor is in.
    #[must_use]
    pub fn path_of(&self, tensor: &StoredTensor) -> &Utf8Path {
        &self.shards[tensor.shard].0
    }

    /// The map of the file a tensor is in.
    #[must_use]
    pub fn map_of(&self, tensor: &StoredTensor) -> Arc<Mmap> {
        Arc::clone(&self.shards[tensor.shard].1)
    }

    #[must_use]
    pub fn bytes(&self, tensor: &StoredTensor) -> &[u8] {
        &self.shards[tensor.shard].1[tensor.start..tensor.end]
    }
}

fn damaged(path: &Utf8Path, message: String) -> StageError {
    StageError::input("safetensors::damaged", format!("`{path}`: {message}"))
        .hint("the file is incomplete or damaged; fetch it again, with `blake3:` set so that it is checked")
}

fn read_header(path: &Utf8Path, shard: usize, map: &Mmap) -> StageResult<Vec<(String, StoredTensor)>> {
    let (header_bytes, header) = SafeTensors::read_metadata(map)
        .map_err(|error| damaged(path, "is not a valid safetensors file".to_owned()).caused_by(error))?;
    let data_start = header_bytes + 8;
    let mut found = Vec::new();
    for (name, info) in header.tensors() {
        let tensor_type = match info.dtype {
            Dtype::F32 => TensorType::F32,
            Dtype::F16 => TensorType::F16,
            Dtype::BF16 => TensorType::BF16,
            Dtype::F64 => TensorType::F64,
            Dtype::I64 => TensorType::I64,
            Dtype::I32 => TensorType::I32,
            // Bytes are kept apart from numbers by having no codec: here they are codes, states and scales of NF4.
            Dtype::U8 => TensorType::I8,
            other => {
                return Err(StageError::input(
                    "safetensors::number_type",
                    format!("`{path}`: tensor `{name}` is {other:?}, expected F32, F16 or BF16"),
                )
                .hint("use the model's unquantised repository; `method: qlora` quantises while loading"));
            }
        };
        let (start, end) = (data_start + info.data_offsets.0, data_start + info.data_offsets.1);
        if end > map.len() || start > end {
            return Err(damaged(path, format!("tensor `{name}` ends at {end}, the file at {}", map.len())));
        }
        found.push((name, StoredTensor { shape: info.shape.clone(), tensor_type, shard, start, end }));
    }
    Ok(found)
}

fn shards_of_index(directory: &Utf8Path, index: &Utf8Path) -> StageResult<Vec<Utf8PathBuf>> {
    let text = fs_err::read(index)?;
    let json: Value = serde_json::from_slice(&text).map_err(|error| {
        damaged(index, format!("is not JSON (line {}, column {})", error.line(), error.column())).caused_by(error)
    })?;
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
        return Err(damaged(index, "has no `weight_map`".to_owned()));
    };
    let mut names: Vec<&str> = Vec::new();
    for (tensor, file) in map {
        match file.as_str() {
            // A shard is a file of this directory; an index must not reach out of it.
            Some(name) if !name.contains(['/', '\\']) && name != ".." => names.push(name),
            _ => {
                return Err(damaged(
                    index,
                    format!("`weight_map` puts tensor `{tensor}` into {file}, expected a file name"),
                ));
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    for name in &names {
        if !directory.join(name).is_file() {
            return Err(damaged(index, format!("names the shard `{name}`, which is not there")));
        }
    }
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}
