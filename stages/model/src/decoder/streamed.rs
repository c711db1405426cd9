//! A decoder whose blocks stay on disk: mapped where the device computes on host memory, else brought to slots of its own.

use std::sync::Arc;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::ModelConfig;
use luthier_kernels::device::{Component, Device, DeviceExt, Matrix};
use luthier_kernels::rope::Table;
use memmap2::Mmap;

use super::layer_slots::{LayerSlots, cannot_stream};
use super::layer_stream::LayerStream;
use super::load::rope_scaling;
use super::shards::{Shard, layer_file, rest_file};
use super::{Block, Decoder};
use crate::error::device_error;
use crate::projection::Projection;

/// How blocks come and go.
pub(super) enum Streaming {
    Mapped(LayerStream),
    Staged(Box<LayerSlots>),
}

/// What of [`Streaming`] the blocks' matrices are made with.
enum Source {
    Mapped { maps: Vec<Arc<Mmap>>, bytes: Vec<usize> },
    Staged(Box<LayerSlots>),
}

impl Source {
    /// The matrices of the next block.
    fn matrices(&mut self, device: &dyn Device, config: &ModelConfig, shard: &Shard) -> StageResult<Vec<Matrix>> {
        let (maps, bytes) = match self {
            Self::Staged(slots) => return slots.adopt(config, shard),
            Self::Mapped { maps, bytes } => (maps, bytes),
        };
        let matrices = Projection::ALL
            .into_iter()
            .map(|projection| {
                let (rows, cols) = projection.shape(config);
                Matrix::adopt_nf4(device, Component::Weights, [rows, cols], shard.nf4(projection)?)
                    .ok_or_else(|| shard.misshapen(projection.name()))
            })
            .collect::<StageResult<Vec<_>>>()?;
        bytes.push(matrices.iter().map(Matrix::bytes).sum());
        maps.push(Arc::clone(&shard.map));
        Ok(matrices)
    }

    fn start(self, device: &dyn Device) -> StageResult<Streaming> {
        Ok(match self {
            Self::Staged(slots) => Streaming::Staged(slots),
            Self::Mapped { maps, bytes } => {
                Streaming::Mapped(LayerStream::new(maps, bytes, Arc::clone(device.ledger()))?)
            }
        })
    }
}

impl Decoder {
    /// Opens the shards that [`super::write_shards`] made of a model with this configuration. Two blocks are resident at a
    /// time, embedding and head always; the values are those of a decoder loaded with [`super::BaseFormat::Nf4`].
    ///
    /// # Errors
    /// A shard that is missing, damaged or another model's; out of memory.
    pub fn stream(
        device: &Arc<dyn Device>,
        config: &ModelConfig,
        directory: &Utf8Path,
        positions: usize,
    ) -> StageResult<Self> {
        let mut source = match device.transfers() {
            Some(transfers) => Source::Staged(Box::new(LayerSlots::new(device, transfers, config)?)),
            None if device.adopt(Component::Weights, host_probe()).is_some() => {
                Source::Mapped { maps: Vec::new(), bytes: Vec::new() }
            }
            None => return Err(cannot_stream(device.as_ref())),
        };
        let rest = Shard::open(&rest_file(directory))?;
        let mut held = Vec::new();
        let mut table = |name: &str| -> StageResult<Matrix> {
            let (storage, memory) = rest.matrix(name)?;
            let shape = [config.vocab_size, config.hidden_size];
            let device = device.as_ref();
            if device.transfers().is_some() {
                return Matrix::copied(device, Component::Embeddings, shape, storage, &memory)
                    .map_err(device_error)?
                    .ok_or_else(|| rest.misshapen(name));
            }
            let matrix = Matrix::adopt(device, Component::Embeddings, shape, storage, memory)
                .ok_or_else(|| rest.misshapen(name))?;
            held.push(device.ledger().hold(Component::Embeddings, matrix.bytes()));
            Ok(matrix)
        };
        let embedding = table("model.embed_tokens.weight")?;
        let head = if config.tie_embeddings { None } else { Some(table("lm_head.weight")?) };
        let vector = |name: &str, len: usize| {
            let values = rest.vector(name, len)?;
            let mut buffer = device.as_ref().buffer::<f32>(Component::Weights, len).map_err(device_error)?;
            device.as_ref().write(&values, buffer.all_mut());
            Ok::<_, StageError>(buffer)
        };
        let mut blocks = Vec::new();
        for layer in 0..config.layers {
            let shard = Shard::open(&layer_file(directory, layer))?;
            let matrices = source.matrices(device.as_ref(), config, &shard)?;
            let mut biases = Vec::new();
            for projection in Projection::ALL {
                let attends = matches!(projection, Projection::Query | Projection::Key | Projection::Value);
                biases.push(if config.qkv_bias && attends {
                    Some(vector(&format!("{}.bias", projection.module(layer)), projection.shape(config).0)?)
                } else {
                    None
                });
            }
            let norm = |name: &str, len: usize| vector(&format!("model.layers.{layer}.{name}.weight"), len);
            let defect = || StageError::new("model::load", "a block has seven projections");
            blocks.push(Block {
                matrices: matrices.try_into().map_err(|_| defect())?,
                biases: biases.try_into().map_err(|_| defect())?,
                input_norm: norm("input_layernorm", config.hidden_size)?,
                middle_norm: norm("post_attention_layernorm", config.hidden_size)?,
                head_norms: if config.qk_norm {
                    Some([norm("self_attn.q_norm", config.head_dim)?, norm("self_attn.k_norm", config.head_dim)?])
                } else {
                    None
                },
            });
        }
        let positions = positions.min(config.max_positions).max(1);
        let rotary = Table::new(config.head_dim, config.rope_theta, rope_scaling(config)?, positions);
        Ok(Self {
            device: Arc::clone(device),
            config: config.clone(),
            embedding,
            head,
            final_norm: vector("model.norm.weight", config.hidden_size)?,
            blocks,
            rotary: device.rotary(rotary).map_err(device_error)?,
            positions,
            stream: Some(source.start(device.as_ref())?),
            held,
        })
    }

    /// Tells where the pass is: the matrices of `layer` are used now, those of `next` soon.
    pub(crate) fn enter(&self, layer: usize, next: usize) {
        match &self.stream {
            None => {}
            Some(Streaming::Mapped(stream)) => stream.enter(layer, next.min(self.config.layers - 1)),
            Some(Streaming::Staged(slots)) => slots.enter(layer),
        }
    }

    /// Tells that all operations with the matrices of `layer` are queued; those of `next` are wanted soon.
    pub(crate) fn leave(&self, layer: usize, next: usize) {
        if let Some(Streaming::Staged(slots)) = &self.stream {
            slots.leave(layer, next.min(self.config.layers - 1));
        }
    }
}

/// A byte to ask a device with.
fn host_probe() -> luthier_kernels::device::HostBytes {
    static BYTE: [u8; 1] = [0];
    // SAFETY: a static stays where it is.
    unsafe { luthier_kernels::device::HostBytes::new(&BYTE, Arc::new(())) }
}
