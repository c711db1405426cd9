//! A decoder whose blocks stay on disk.

use std::sync::Arc;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::ModelConfig;
use luthier_kernels::device::{Component, Device, DeviceExt, Matrix};
use luthier_kernels::rope::Table;

use super::layer_stream::LayerStream;
use super::load::rope_scaling;
use super::shards::{Shard, layer_file, rest_file};
use super::{Block, Decoder};
use crate::error::device_error;
use crate::projection::Projection;

impl Decoder {
    /// Opens the shards that [`super::write_shards`] made of a model with this configuration. Two blocks are resident at a
    /// time, embedding and head are mapped; the values are those of a decoder loaded with [`super::BaseFormat::Nf4`].
    ///
    /// # Errors
    /// A shard that is missing, damaged or another model's; a device that does not compute on host memory.
    pub fn stream(
        device: &Arc<dyn Device>,
        config: &ModelConfig,
        directory: &Utf8Path,
        positions: usize,
    ) -> StageResult<Self> {
        let elsewhere = || {
            StageError::input("train::stream", format!("the device `{}` cannot stream blocks from disk", device.name()))
                .hint("remove `stream: layers`, or set `device: cpu`")
        };
        let on_host = device.adopt(Component::Weights, host_probe()).is_some();
        if !on_host {
            return Err(elsewhere());
        }
        let rest = Shard::open(&rest_file(directory))?;
        let mut held = Vec::new();
        let mut table = |name: &str| -> StageResult<Matrix> {
            let (storage, memory) = rest.matrix(name)?;
            let shape = [config.vocab_size, config.hidden_size];
            let matrix = Matrix::adopt(device.as_ref(), Component::Embeddings, shape, storage, memory)
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
        let (mut blocks, mut maps, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        for layer in 0..config.layers {
            let shard = Shard::open(&layer_file(directory, layer))?;
            let (mut matrices, mut biases) = (Vec::new(), Vec::new());
            for projection in Projection::ALL {
                let (rows, cols) = projection.shape(config);
                let parts = shard.nf4(projection)?;
                let matrix = Matrix::adopt_nf4(device.as_ref(), Component::Weights, [rows, cols], parts)
                    .ok_or_else(|| shard.misshapen(projection.name()))?;
                matrices.push(matrix);
                let attends = matches!(projection, Projection::Query | Projection::Key | Projection::Value);
                biases.push(if config.qkv_bias && attends {
                    Some(vector(&format!("{}.bias", projection.module(layer)), rows)?)
                } else {
                    None
                });
            }
            bytes.push(matrices.iter().map(Matrix::bytes).sum());
            maps.push(Arc::clone(&shard.map));
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
            stream: Some(LayerStream::new(maps, bytes, Arc::clone(device.ledger()))?),
            held,
        })
    }

    /// Tells where the pass is: the matrices of `layer` are used now, those of `next` soon.
    pub(crate) fn enter(&self, layer: usize, next: usize) {
        if let Some(stream) = &self.stream {
            stream.enter(layer, next.min(self.config.layers - 1));
        }
    }
}

/// A byte to ask a device with.
fn host_probe() -> luthier_kernels::device::HostBytes {
    static BYTE: [u8; 1] = [0];
    // SAFETY: a static stays where it is.
    unsafe { luthier_kernels::device::HostBytes::new(&BYTE, Arc::new(())) }
}
