//! One view of a model on disk, be it a GGUF file or a Hugging Face directory: Hugging Face tensor names, Hugging Face
//! row order, values as `f32`.
//!
//! Opening a model checks that it has exactly the tensors its configuration implies, each of the right shape. Reading
//! decodes from the memory map; nothing is kept.

mod architecture;
mod companions;
mod config;
mod config_json;
mod directory_writer;
mod names;
mod nf4;
mod rope_scaling;
mod safetensors_set;
mod tokenizer_metadata;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use luthier_core::{StageError, StageResult, nearest};
use memmap2::Mmap;
use rayon::prelude::*;
use serde_json::Value;

pub use architecture::Architecture;
pub use companions::copy_companions;
pub use config::ModelConfig;
pub use directory_writer::{ModelDirectoryWriter, write_json};
pub use names::{RowOrder, TensorSpec, tensor_specs};
pub use nf4::{Nf4Parts, Nf4Scales, StoredNf4, nf4_declarations, nf4_quantization_config, nf4_tensors};
pub use rope_scaling::RopeScaling;
pub use safetensors_set::{SafetensorsSet, StoredTensor};
pub use tokenizer_metadata::tokenizer_metadata;

use crate::gguf::GgufFile;
use crate::quant::{self, TensorType};

enum Source {
    Gguf(GgufFile),
    Directory(SafetensorsSet),
}

/// An open model.
pub struct ModelFiles {
    path: Utf8PathBuf,
    config: ModelConfig,
    specs: IndexMap<String, TensorSpec>,
    source: Source,
    /// Matrices in the 4-bit layout of bitsandbytes.
    nf4: BTreeMap<String, StoredNf4>,
}

/// Reads and checks config.json of a model directory.
///
/// # Errors
/// Missing, not JSON, or refused by [`ModelConfig::from_json`]; with the file's location.
pub fn read_config_json(directory: &Utf8Path) -> StageResult<(Value, ModelConfig)> {
    let path = directory.join("config.json");
    if !path.is_file() {
        return Err(StageError::input("model::no_config", format!("`{directory}` has no config.json"))
            .hint("a model is one .gguf file or a Hugging Face directory with config.json and *.safetensors"));
    }
    let bytes = fs_err::read(&path)?;
    let json: Value = serde_json::from_slice(&bytes).map_err(|error| {
        StageError::input("model::bad_config", "config.json is not JSON")
            .at(path.clone(), error.line() as u64, error.column() as u64)
            .hint("fetch the file again")
            .caused_by(error)
    })?;
    let config = ModelConfig::from_json(&json).map_err(|error| error.at(path, 0, 0))?;
    Ok((json, config))
}

/// The configuration of a model, without a look at its weights beyond the header.
///
/// # Errors
/// As [`ModelConfig::from_json`] and [`ModelConfig::from_gguf`].
pub fn read_model_config(path: &Utf8Path) -> StageResult<ModelConfig> {
    if fs_err::metadata(path)?.is_dir() {
        Ok(read_config_json(path)?.1)
    } else {
        ModelConfig::from_gguf(&GgufFile::open(path)?)
    }
}

impl ModelFiles {
    /// Opens a GGUF file or a Hugging Face model directory.
    ///
    /// # Errors
    /// Neither of the two, a damaged file, a tensor missing, of the wrong shape, or unexpected; each named.
    pub fn open(path: &Utf8Path) -> StageResult<Self> {
        let (mut config, source) = if fs_err::metadata(path)?.is_dir() {
            let (_, config) = read_config_json(path)?;
            (config, Source::Directory(SafetensorsSet::open_directory(path)?))
        } else {
            let file = GgufFile::open(path)?;
            (ModelConfig::from_gguf(&file)?, Source::Gguf(file))
        };
        // A tied model may carry its head a second time; transformers then reads the embedding, and so do we.
        if let (Source::Directory(set), true) = (&source, config.tie_embeddings)
            && !set.tensors().contains_key("model.embed_tokens.weight")
            && set.tensors().contains_key("lm_head.weight")
        {
            return Err(StageError::input(
                "model::missing_tensor",
                format!("`{path}` has `lm_head.weight` but no `model.embed_tokens.weight`"),
            )
            .hint("save the model again with transformers"));
        }
        config.max_positions = config.max_positions.max(1);
        let mut files =
            Self { path: path.to_owned(), specs: tensor_specs(&config), config, source, nf4: BTreeMap::new() };
        if let Source::Directory(set) = &files.source {
            for name in files.specs.keys() {
                if let Some(stored) = StoredNf4::open(set, name)? {
                    files.nf4.insert(name.clone(), stored);
                }
            }
        }
        files.check()?;
        Ok(files)
    }

    #[must_use]
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The GGUF file, if the model is one.
    #[must_use]
    pub fn gguf(&self) -> Option<&GgufFile> {
        if let Source::Gguf(file) = &self.source { Some(file) } else { None }
    }

    /// The directory, if the model is one.
    #[must_use]
    pub fn directory(&self) -> Option<&Utf8Path> {
        if let Source::Directory(_) = &self.source { Some(&self.path) } else { None }
    }

    /// Hugging Face names of all tensors: embedding, layers, final norm, head unless tied.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.specs.keys().map(String::as_str)
    }

    #[must_use]
    pub fn specs(&self) -> &IndexMap<String, TensorSpec> {
        &self.specs
    }

    #[must_use]
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.specs.get(name).map(|spec| spec.shape.clone())
    }

    /// How the tensor is stored.
    #[must_use]
    pub fn dtype(&self, name: &str) -> Option<TensorType> {
        self.find(name).map(|(tensor_type, _)| tensor_type)
    }

    /// The matrix `name` and its packed codes, if it is stored in the 4-bit layout of bitsandbytes.
    #[must_use]
    pub fn nf4(&self, name: &str) -> Option<(&StoredNf4, &[u8])> {
        let stored = self.nf4.get(name)?;
        let Source::Directory(set) = &self.source else { return None };
        Some((stored, stored.packed(set)))
    }

    /// Decodes a whole tensor, row-major in Hugging Face order, on the current rayon pool.
    ///
    /// # Errors
    /// No such tensor, or `out` is not exactly as long as it.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> StageResult<()> {
        let rows = self.require(name)?.shape.first().copied().unwrap_or(1);
        self.read_rows_f32(name, 0..rows, out)
    }

    /// Decodes some rows of a tensor; a vector's rows are its elements.
    ///
    /// # Errors
    /// No such tensor or rows, or `out` of another length.
    pub fn read_rows_f32(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> StageResult<()> {
        let spec = self.require(name)?;
        let (count, columns) = match spec.shape.as_slice() {
            [count, columns] => (*count, *columns),
            [count] => (*count, 1),
            _ => (1, 1),
        };
        if rows.start > rows.end || rows.end > count || out.len() != (rows.end - rows.start) * columns {
            return Err(StageError::new(
                "model::buffer_length",
                format!("rows {rows:?} of tensor `{name}` {:?} do not fill a buffer of {}", spec.shape, out.len()),
            ));
        }
        if let (Some(stored), Source::Directory(set)) = (self.nf4.get(name), &self.source) {
            stored.read_rows(set, rows, out);
            return Ok(());
        }
        let Some((tensor_type, bytes)) = self.find(name) else { return Err(self.missing(name)) };
        if columns == 1 {
            return self.read_vector(name, spec, rows, tensor_type, bytes, out);
        }
        let row_bytes = bytes.len() / count;
        let order = self.row_order(spec);
        if order == RowOrder::Same {
            let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
            return quant::dequantize(tensor_type, bytes, out).map_err(|error| error.in_tensor(&self.path, name));
        }
        out.par_chunks_mut(columns)
            .enumerate()
            .try_for_each(|(index, out)| {
                let row = order.gguf_row(rows.start + index);
                quant::dequantize_row(tensor_type, &bytes[row * row_bytes..(row + 1) * row_bytes], out)
            })
            .map_err(|error| error.in_tensor(&self.path, name))
    }

    fn read_vector(
        &self,
        name: &str,
        spec: &TensorSpec,
        rows: Range<usize>,
        tensor_type: TensorType,
        bytes: &[u8],
        out: &mut [f32],
    ) -> StageResult<()> {
        let mut all = vec![0.0; spec.shape[0]];
        quant::dequantize_row(tensor_type, bytes, &mut all).map_err(|error| error.in_tensor(&self.path, name))?;
        let order = self.row_order(spec);
        for (out, row) in out.iter_mut().zip(rows) {
            *out = all[order.gguf_row(row)];
        }
        Ok(())
    }

    /// The stored bytes of a tensor and the map that keeps them in place, where its rows are in Hugging Face order.
    #[must_use]
    pub fn mapped(&self, name: &str) -> Option<(Arc<Mmap>, &[u8])> {
        if self.row_order(self.specs.get(name)?) != RowOrder::Same {
            return None;
        }
        let (_, bytes) = self.find(name)?;
        let map = match &self.source {
            Source::Gguf(file) => file.map(),
            Source::Directory(set) => set.map_of(set.tensors().get(name)?),
        };
        Some((map, bytes))
    }

    /// The stored bytes of one row of a matrix, in Hugging Face order.
    #[must_use]
    pub fn row_bytes(&self, name: &str, row: usize) -> Option<&[u8]> {
        let spec = self.specs.get(name)?;
        let (_, bytes) = self.find(name)?;
        let width = bytes.len() / spec.shape.first()?;
        let row = self.row_order(spec).gguf_row(row);
        bytes.get(row * width..(row + 1) * width)
    }

    fn row_order(&self, spec: &TensorSpec) -> RowOrder {
        if matches!(self.source, Source::Gguf(_)) { spec.row_order } else { RowOrder::Same }
    }

    fn require(&self, name: &str) -> StageResult<&TensorSpec> {
        self.specs.get(name).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> StageError {
        let error = StageError::input("model::missing_tensor", format!("`{}` has no tensor `{name}`", self.path));
        match nearest(name, self.names()) {
            Some(near) if near != name => error.hint(format!("the nearest name of this model is `{near}`")),
            _ => error.hint("the file is incomplete, or its configuration belongs to another model"),
        }
    }

    fn find(&self, name: &str) -> Option<(TensorType, &[u8])> {
        match &self.source {
            Source::Gguf(file) => {
                let info = file.tensor(&self.specs.get(name)?.gguf_name)?;
                Some((info.tensor_type, file.bytes(info)))
            }
            Source::Directory(set) => {
                let tensor = set.tensors().get(name)?;
                Some((tensor.tensor_type, set.bytes(tensor)))
            }
        }
    }

    /// The stored shape and, for messages, the stored name.
    fn stored_shape(&self, name: &str, spec: &TensorSpec) -> Option<(String, Vec<usize>)> {
        if let Some(stored) = self.nf4.get(name) {
            return Some((name.to_owned(), stored.shape.to_vec()));
        }
        match &self.source {
            Source::Gguf(file) => file.tensor(&spec.gguf_name).map(|info| (spec.gguf_name.clone(), info.shape.clone())),
            Source::Directory(set) => set.tensors().get(name).map(|tensor| (name.to_owned(), tensor.shape.clone())),
        }
    }

    fn check(&self) -> StageResult<()> {
        for (name, spec) in &self.specs {
            let Some((stored_name, shape)) = self.stored_shape(name, spec) else {
                let stored_name = if self.gguf().is_some() { &spec.gguf_name } else { name };
                return Err(StageError::input(
                    "model::missing_tensor",
                    format!("`{}` lacks the tensor `{stored_name}` of shape {:?}", self.path, spec.shape),
                )
                .hint("the file is incomplete, or its configuration belongs to another model"));
            };
            let kind = self.dtype(name).filter(|_| !self.nf4.contains_key(name));
            if kind == Some(TensorType::I8) {
                return Err(StageError::input(
                    "safetensors::number_type",
                    format!("`{}`: tensor `{stored_name}` is U8, expected F32, F16 or BF16", self.path),
                )
                .hint("use the model's unquantised repository; `method: qlora` quantises while loading"));
            }
            if shape != spec.shape {
                return Err(StageError::input(
                    "model::shape",
                    format!("`{}`: tensor `{stored_name}` has shape {shape:?}, expected {:?}", self.path, spec.shape),
                )
                .hint("its configuration belongs to another model, or the vocabulary was resized without it"));
            }
            if let Some(kind) = kind.filter(|kind| !kind.has_codec()) {
                return Err(quant::CodecError::Unsupported(kind).in_tensor(&self.path, &stored_name));
            }
        }
        self.check_unexpected()
    }

    /// A tensor that the forward pass would not use means another model than the configuration says.
    fn check_unexpected(&self) -> StageResult<()> {
        let known: std::collections::BTreeSet<&str> = match &self.source {
            Source::Gguf(_) => self.specs.values().map(|spec| spec.gguf_name.as_str()).collect(),
            Source::Directory(_) => self.specs.keys().map(String::as_str).collect(),
        };
        let stored: Vec<&str> = match &self.source {
            Source::Gguf(file) => file.tensors().keys().map(String::as_str).collect(),
            Source::Directory(set) => set.tensors().keys().map(String::as_str).collect(),
        };
        let derived = |name: &str| {
            name == "rope_freqs.weight"
                || name.ends_with(".rotary_emb.inv_freq")
                || (name == "lm_head.weight" && self.config.tie_embeddings)
                || nf4::owner(name).is_some_and(|owner| self.nf4.contains_key(owner))
        };
        match stored.into_iter().find(|name| !known.contains(name) && !derived(name)) {
            None => Ok(()),
            Some(name) => Err(StageError::input(
                "model::unexpected_tensor",
                format!(
                    "`{}` has the tensor `{name}`, which a {} model of this configuration does not use",
                    self.path, self.config.architecture
                ),
            )
            .hint("this variant of the family is not supported; leaving the tensor out would change the model")),
        }
    }
}
