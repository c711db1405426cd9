//! Writing a Hugging Face model directory: config.json and safetensors shards, one tensor at a time.
//!
//! Which tensor goes into which shard is settled before the first byte, from the shapes alone, so each file's header can
//! be written first. Equal input gives equal bytes.

use std::io::{BufWriter, Write};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult};
use serde_json::{Map, Value};

use crate::gguf::TensorDecl;
use crate::quant::TensorType;

struct Shard {
    path: Utf8PathBuf,
    /// Indices into the announced tensors.
    tensors: std::ops::Range<usize>,
}

/// A model directory in the making.
pub struct ModelDirectoryWriter {
    directory: Utf8PathBuf,
    tensors: Vec<(TensorDecl, usize)>,
    shards: Vec<Shard>,
    /// The shard being written, and what is left of it.
    open: Option<(usize, BufWriter<fs_err::File>)>,
    next: usize,
}

impl ModelDirectoryWriter {
    /// Creates the directory, writes config.json and lays out the shards, each of `max_shard` bytes at most (one tensor
    /// may be more).
    ///
    /// # Errors
    /// A tensor type that safetensors lacks, a name used twice, or a write error.
    pub fn create(directory: &Utf8Path, config: &Value, tensors: &[TensorDecl], max_shard: u64) -> StageResult<Self> {
        fs_err::create_dir_all(directory)?;
        write_json(&directory.join("config.json"), config)?;
        let mut sized = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let bytes = tensor.bytes().filter(|_| number_type(tensor.tensor_type).is_some()).ok_or_else(|| {
                StageError::new(
                    "safetensors::number_type",
                    format!("tensor `{}` is {}, expected F32, F16 or BF16", tensor.name, tensor.tensor_type),
                )
            })?;
            if sized.iter().any(|(earlier, _): &(TensorDecl, usize)| earlier.name == tensor.name) {
                return Err(StageError::new(
                    "safetensors::duplicate",
                    format!("tensor `{}` is announced twice", tensor.name),
                ));
            }
            sized.push((tensor.clone(), bytes));
        }
        let ranges = split_into_shards(&sized, max_shard);
        let count = ranges.len();
        let shards = ranges.into_iter().enumerate().map(|(index, tensors)| Shard {
            path: directory.join(match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
            }),
            tensors,
        });
        let writer =
            Self { directory: directory.to_owned(), shards: shards.collect(), tensors: sized, open: None, next: 0 };
        writer.write_index()?;
        Ok(writer)
    }

    fn write_index(&self) -> StageResult<()> {
        if self.shards.len() < 2 {
            return Ok(());
        }
        let mut map: Vec<(&str, &str)> = Vec::new();
        for shard in &self.shards {
            let file = shard.path.file_name().unwrap_or_default();
            map.extend(self.tensors[shard.tensors.clone()].iter().map(|(tensor, _)| (tensor.name.as_str(), file)));
        }
        map.sort_unstable();
        let map: Map<String, Value> =
            map.into_iter().map(|(name, file)| (name.to_owned(), Value::from(file))).collect();
        let total: usize = self.tensors.iter().map(|(_, bytes)| bytes).sum();
        let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": map});
        write_json(&self.directory.join("model.safetensors.index.json"), &index)
    }

    /// Writes the next tensor, in the order announced.
    ///
    /// # Errors
    /// Another tensor is due, the bytes are not as many as announced, or a write error.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> StageResult<()> {
        let due = self.tensors.get(self.next);
        if due.is_none_or(|(due, size)| due.name != name || *size != bytes.len()) {
            let due = due.map_or("nothing more".to_owned(), |(due, size)| format!("`{}` of {size} bytes", due.name));
            return Err(StageError::new(
                "safetensors::write_order",
                format!("{due} is due, got `{name}` of {} bytes", bytes.len()),
            ));
        }
        if self.open.is_none() {
            let shard = self.shards.iter().position(|shard| shard.tensors.contains(&self.next)).unwrap_or(0);
            let mut file = BufWriter::with_capacity(1 << 20, fs_err::File::create(&self.shards[shard].path)?);
            file.write_all(&self.header(shard))?;
            self.open = Some((shard, file));
        }
        self.next += 1;
        if let Some((shard, file)) = &mut self.open {
            file.write_all(bytes)?;
            if self.shards[*shard].tensors.end == self.next {
                file.flush()?;
                self.open = None;
            }
        }
        Ok(())
    }

    fn header(&self, shard: usize) -> Vec<u8> {
        let mut entries = Map::new();
        // transformers refuses files that do not say which framework's layout they follow.
        entries.insert("__metadata__".to_owned(), serde_json::json!({"format": "pt"}));
        let mut offset = 0;
        for (tensor, bytes) in &self.tensors[self.shards[shard].tensors.clone()] {
            entries.insert(
                tensor.name.clone(),
                serde_json::json!({
                    "dtype": number_type(tensor.tensor_type), "shape": tensor.shape, "data_offsets": [offset, offset + bytes],
                }),
            );
            offset += bytes;
        }
        let mut json = Value::Object(entries).to_string().into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(&json);
        header
    }

    /// Completes the directory; returns the bytes of all tensors.
    ///
    /// # Errors
    /// A tensor is missing.
    pub fn finish(self) -> StageResult<u64> {
        match self.tensors.get(self.next) {
            Some((tensor, _)) => Err(StageError::new(
                "safetensors::write_order",
                format!("`{}` was closed before tensor `{}` was written", self.directory, tensor.name),
            )),
            None => Ok(self.tensors.iter().map(|(_, bytes)| *bytes as u64).sum()),
        }
    }
}

/// Writes JSON as Hugging Face does: indented by two, with a newline at the end.
///
/// # Errors
/// A write error.
pub fn write_json(path: &Utf8Path, value: &Value) -> StageResult<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| StageError::new("json::write", format!("cannot write `{path}`")).caused_by(error))?;
    bytes.push(b'\n');
    fs_err::write(path, bytes)?;
    Ok(())
}

fn number_type(tensor_type: TensorType) -> Option<&'static str> {
    match tensor_type {
        TensorType::F32 => Some("F32"),
        TensorType::F16 => Some("F16"),
        TensorType::BF16 => Some("BF16"),
        // Bytes, of the 4-bit layout.
        TensorType::I8 => Some("U8"),
        _ => None,
    }
}

fn split_into_shards(tensors: &[(TensorDecl, usize)], max_shard: u64) -> Vec<std::ops::Range<usize>> {
    let mut shards: Vec<std::ops::Range<usize>> = Vec::new();
    let mut used = 0u64;
    for (index, (_, bytes)) in tensors.iter().enumerate() {
        match shards.last_mut() {
            Some(shard) if used + *bytes as u64 <= max_shard => {
                shard.end = index + 1;
                used += *bytes as u64;
            }
            _ => {
                shards.push(index..index + 1);
                used = *bytes as u64;
            }
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_files::SafetensorsSet;

    fn declare(name: &str, shape: &[usize], tensor_type: TensorType) -> TensorDecl {
        TensorDecl { name: name.to_owned(), shape: shape.to_vec(), tensor_type }
    }

    #[test]
    fn shards_are_written_and_read_back() {
        let guard = tempfile::tempdir().unwrap();
        let directory = Utf8Path::from_path(guard.path()).unwrap();
        let tensors = [
            declare("a", &[2, 3], TensorType::F32),
            declare("b", &[5], TensorType::BF16),
            declare("c", &[4], TensorType::F16),
        ];
        let config = serde_json::json!({"model_type": "llama"});
        let mut writer = ModelDirectoryWriter::create(directory, &config, &tensors, 24).unwrap();
        let error = writer.write("b", &[0; 10]).unwrap_err();
        assert_eq!(error.message, "`a` of 24 bytes is due, got `b` of 10 bytes");
        for (name, bytes) in [("a", 24usize), ("b", 10), ("c", 8)] {
            writer.write(name, &(0..bytes).map(|byte| byte as u8).collect::<Vec<_>>()).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 42);
        assert_eq!(
            luthier_core::fs::walk_files(directory).unwrap(),
            [
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json"
            ]
        );
        let set = SafetensorsSet::open_directory(directory).unwrap();
        let b = &set.tensors()["b"];
        assert_eq!((b.shape.as_slice(), b.tensor_type), (&[5][..], TensorType::BF16));
        assert_eq!(set.bytes(b), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(set.bytes(&set.tensors()["a"]).len(), 24);
    }

    #[test]
    fn an_unfinished_directory_is_an_error() {
        let guard = tempfile::tempdir().unwrap();
        let directory = Utf8Path::from_path(guard.path()).unwrap();
        let tensors = [declare("a", &[2], TensorType::F32)];
        let writer = ModelDirectoryWriter::create(directory, &Value::Null, &tensors, 1 << 30).unwrap();
        assert!(writer.finish().unwrap_err().message.ends_with("closed before tensor `a` was written"));
        let quantised = [declare("a", &[32], TensorType::Q8_0)];
        let error = ModelDirectoryWriter::create(directory, &Value::Null, &quantised, 1).err().unwrap();
        assert_eq!(error.message, "tensor `a` is Q8_0, expected F32, F16 or BF16");
    }
}
