//! Loading a decoder from a model's files.

use std::sync::Arc;

use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::{ModelConfig, ModelFiles, Nf4Scales, RopeScaling};
use luthier_formats::quant::TensorType;
use luthier_kernels::device::{Buffer, Component, Device, DeviceExt, Held, HostBytes, Matrix, Storage};
use luthier_kernels::rope::{Scaling, Table};
use luthier_kernels::{AbsMax, BlockKind, BlockView, Nf4View, nf4};

use super::{Block, Decoder};
use crate::error::device_error;
use crate::projection::Projection;

/// How the blocks' matrices are kept. Embedding, head and norms are always kept as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseFormat {
    /// `f16`, `bf16` and GGUF's Q4_0, Q4_1 and Q8_0 as they are; everything else as `f32`.
    Stored,
    /// NF4 with double quantisation.
    Nf4,
}

impl BaseFormat {
    /// Names how the base was kept, for the stamp of an adapter.
    #[must_use]
    pub fn quantizer_id(self) -> &'static str {
        match self {
            Self::Stored => "none",
            Self::Nf4 => "bitsandbytes-nf4-64-double",
        }
    }
}

/// What to load, beside the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    pub base: BaseFormat,
    /// The longest sequence to make rotary tables for; the model's own limit caps it.
    pub positions: usize,
}

/// A matrix of the files that is NF4 with double quantisation already, by the tables that the engine has.
pub(super) fn stored_nf4<'a>(files: &'a ModelFiles, name: &str) -> Option<Nf4View<'a>> {
    let (stored, packed) = files.nf4(name)?;
    let Nf4Scales::Nested { codes, map, scales, offset } = &stored.scales else { return None };
    let known = stored.map == nf4::CODE && map.as_slice() == nf4::dynamic_map();
    let [rows, cols] = stored.shape;
    known.then_some(Nf4View { packed, absmax: AbsMax::Nested { codes, scales, offset: *offset }, rows, cols })
}

/// The type that a projection is kept in: NF4 that the files hold stays as it is, and NF4 of another kind than the
/// engine's (without double quantisation) is kept as `f32`, since quantising it again would change it.
#[must_use]
pub fn projection_storage(files: &ModelFiles, name: &str, base: BaseFormat) -> Storage {
    match base {
        BaseFormat::Nf4 if files.nf4(name).is_none() => Storage::Nf4,
        _ => storage_of(files, name),
    }
}

/// The type that a tensor is kept in.
#[must_use]
pub fn storage_of(files: &ModelFiles, name: &str) -> Storage {
    if files.nf4(name).is_some() {
        return if stored_nf4(files, name).is_some() { Storage::Nf4 } else { Storage::F32 };
    }
    match files.dtype(name) {
        Some(TensorType::F16) => Storage::F16,
        Some(TensorType::BF16) => Storage::Bf16,
        Some(TensorType::Q4_0) => Storage::Blocks(BlockKind::Q4_0),
        Some(TensorType::Q4_1) => Storage::Blocks(BlockKind::Q4_1),
        Some(TensorType::Q8_0) => Storage::Blocks(BlockKind::Q8_0),
        _ => Storage::F32,
    }
}

/// Elements from which on a matrix is left in its file.
const WORTH_MAPPING: usize = 1 << 20;

struct Loader<'a> {
    files: &'a ModelFiles,
    device: &'a dyn Device,
    /// Counts what is mapped.
    held: Vec<Held>,
}

/// Refuses a tensor with values that are not finite.
pub(super) fn check_finite(files: &ModelFiles, name: &str, values: &[f32]) -> StageResult<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(not_finite(files, name, &values[index].to_string())),
    }
}

fn not_finite(files: &ModelFiles, name: &str, what: &str) -> StageError {
    StageError::input(
        "model::not_finite",
        format!("tensor `{name}` of `{}` holds {what} where a finite number was expected", files.path()),
    )
    .hint("the file is damaged or the model diverged when it was made; fetch it again")
}

impl Loader<'_> {
    fn read(&self, name: &str, rows: std::ops::Range<usize>, out: &mut [f32]) -> StageResult<()> {
        self.files.read_rows_f32(name, rows, out)?;
        check_finite(self.files, name, out)
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2], component: Component, storage: Storage) -> StageResult<Matrix> {
        if storage == Storage::Nf4
            && let Some(view) = stored_nf4(self.files, name)
        {
            return Matrix::of_nf4(self.device, component, &view).map_err(device_error);
        }
        if let Some(matrix) = self.mapped(name, shape, component, storage)? {
            return Ok(matrix);
        }
        if let Storage::Blocks(kind) = storage {
            self.check_blocks(name, shape[0], kind)?;
            let row = |index| self.files.row_bytes(name, index).unwrap_or_default();
            return Matrix::of_blocks(self.device, component, shape, kind, row).map_err(device_error);
        }
        Matrix::load(self.device, component, shape, storage, &mut |rows, out| self.read(name, rows, out), device_error)
    }

    /// Refuses blocks with values that are not finite.
    fn check_blocks(&self, name: &str, rows: usize, kind: BlockKind) -> StageResult<()> {
        let finite = |row| self.files.row_bytes(name, row).is_some_and(|bytes| BlockView { kind, bytes }.is_finite());
        match (0..rows).find(|row| !finite(*row)) {
            None => Ok(()),
            Some(row) => Err(not_finite(self.files, name, &format!("a block of row {row} whose scale is not"))),
        }
    }

    /// The matrix where it lies in the file, if it is stored as it is kept and the device reads host memory.
    fn mapped(
        &mut self,
        name: &str,
        shape: [usize; 2],
        component: Component,
        storage: Storage,
    ) -> StageResult<Option<Matrix>> {
        if storage == Storage::Nf4
            || (matches!(storage, Storage::F32 | Storage::F16 | Storage::Bf16) && shape[0] * shape[1] < WORTH_MAPPING)
        {
            return Ok(None);
        }
        let Some((map, bytes)) = self.files.mapped(name) else { return Ok(None) };
        // SAFETY: a map stays at its address until it is dropped; the file behind it is an immutable artifact.
        let memory = unsafe { HostBytes::new(bytes, map) };
        let Some(matrix) = Matrix::adopt(self.device, component, shape, storage, memory) else { return Ok(None) };
        if let Storage::Blocks(kind) = storage {
            self.check_blocks(name, shape[0], kind)?;
            self.held.push(self.device.ledger().hold(component, matrix.bytes()));
            return Ok(Some(matrix));
        }
        let step = (WORTH_MAPPING / shape[1].max(1)).max(1);
        let mut values = vec![0f32; step.min(shape[0]) * shape[1]];
        for start in (0..shape[0]).step_by(step) {
            let end = (start + step).min(shape[0]);
            self.read(name, start..end, &mut values[..(end - start) * shape[1]])?;
        }
        self.held.push(self.device.ledger().hold(component, matrix.bytes()));
        Ok(Some(matrix))
    }

    fn vector(&self, name: &str, len: usize) -> StageResult<Buffer<f32>> {
        let mut values = vec![0f32; len];
        self.read(name, 0..len, &mut values)?;
        let mut buffer = self.device.buffer(Component::Weights, len).map_err(device_error)?;
        self.device.write(&values, buffer.all_mut());
        Ok(buffer)
    }
}

impl Decoder {
    /// Loads all weights onto `device`.
    ///
    /// # Errors
    /// A tensor that is missing, misshapen or not finite; rope scaling that is not supported; out of memory.
    pub fn load(device: &Arc<dyn Device>, files: &ModelFiles, options: LoadOptions) -> StageResult<Self> {
        let mut result = None;
        device.run(&mut || result = Some(Self::load_inside(device, files, options)));
        result.unwrap_or_else(|| Err(StageError::new("model::load", "the device did not run")))
    }

    fn load_inside(device: &Arc<dyn Device>, files: &ModelFiles, options: LoadOptions) -> StageResult<Self> {
        let config = files.config().clone();
        let mut loader = Loader { files, device: device.as_ref(), held: Vec::new() };
        let mut table = |name: &str| {
            let shape = [config.vocab_size, config.hidden_size];
            loader.matrix(name, shape, Component::Embeddings, storage_of(files, name))
        };
        let embedding = table("model.embed_tokens.weight")?;
        let head = if config.tie_embeddings { None } else { Some(table("lm_head.weight")?) };
        let mut blocks = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            blocks.push(load_block(&mut loader, &config, layer, options.base)?);
        }
        let positions = options.positions.min(config.max_positions).max(1);
        let table = Table::new(config.head_dim, config.rope_theta, rope_scaling(&config)?, positions);
        Ok(Self {
            device: Arc::clone(device),
            embedding,
            head,
            final_norm: loader.vector("model.norm.weight", config.hidden_size)?,
            blocks,
            rotary: device.rotary(table).map_err(device_error)?,
            positions,
            config,
            stream: None,
            held: loader.held,
        })
    }
}

fn load_block(loader: &mut Loader<'_>, config: &ModelConfig, layer: usize, base: BaseFormat) -> StageResult<Block> {
    let mut matrices = Vec::with_capacity(Projection::ALL.len());
    let mut biases = Vec::with_capacity(Projection::ALL.len());
    for projection in Projection::ALL {
        let name = format!("{}.weight", projection.module(layer));
        let (rows, cols) = projection.shape(config);
        let storage = projection_storage(loader.files, &name, base);
        matrices.push(loader.matrix(&name, [rows, cols], Component::Weights, storage)?);
        let biased = config.qkv_bias && matches!(projection, Projection::Query | Projection::Key | Projection::Value);
        biases.push(if biased {
            Some(loader.vector(&format!("{}.bias", projection.module(layer)), rows)?)
        } else {
            None
        });
    }
    let norm = |name: &str| loader.vector(&format!("model.layers.{layer}.{name}.weight"), config.hidden_size);
    let head_norm =
        |name: &str| loader.vector(&format!("model.layers.{layer}.self_attn.{name}.weight"), config.head_dim);
    let defect = |_| StageError::new("model::load", "a block has seven projections");
    Ok(Block {
        matrices: matrices.try_into().map_err(|_: Vec<Matrix>| defect(()))?,
        biases: biases.try_into().map_err(|_: Vec<Option<Buffer<f32>>>| defect(()))?,
        input_norm: norm("input_layernorm")?,
        middle_norm: norm("post_attention_layernorm")?,
        head_norms: if config.qk_norm { Some([head_norm("q_norm")?, head_norm("k_norm")?]) } else { None },
    })
}

pub(super) fn rope_scaling(config: &ModelConfig) -> StageResult<Scaling> {
    Ok(match &config.rope_scaling {
        None => Scaling::None,
        Some(RopeScaling::Linear { factor }) => Scaling::Linear { factor: *factor as f32 },
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions }) => {
            Scaling::Llama3 {
                factor: *factor as f32,
                low_freq_factor: *low_freq_factor as f32,
                high_freq_factor: *high_freq_factor as f32,
                original_max_position: *original_max_positions as u32,
            }
        }
        Some(RopeScaling::Divisors { .. }) => {
            return Err(StageError::input(
                "model::rope_scaling",
                "the GGUF file lists rotary divisors that are not those of a known scaling",
            )
            .hint("use the model's Hugging Face directory, whose config.json names the scaling"));
        }
    })
}
