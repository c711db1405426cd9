//! The decoder: frozen weights on a device, and hand-written forward and backward passes over packed tokens.
//!
//! One block, forward; `→` marks what is saved for backward:
//!
//! ```text
//! x → ─ rms (1/rms →) ─ q k v (→ rotated) ─ attention (out, lse →) ─ o ─(+x)─ middle →
//! middle ─ rms (1/rms →) ─ gate up (→) ─ silu(gate)·up ─ down ─(+middle)─ next x
//! ```
//!
//! Everything else is rebuilt in backward from these by the same operations, so a recomputed value has the same bits.
//! Nothing here allocates: a [`Workspace`] is sized once.

mod backward;
mod batch;
mod block;
mod indices;
mod layer_slots;
mod layer_stream;
mod load;
mod loss;
mod offload;
mod operations;
mod shards;
mod sizes;
mod streamed;
mod workspace;

use std::sync::Arc;

use luthier_formats::model_files::ModelConfig;
use luthier_kernels::device::{AttentionShape, Buffer, Device, Head, Held, Matrix, Rotary};

pub use batch::Batch;
pub use load::{BaseFormat, LoadOptions, projection_storage, storage_of};
pub use operations::Storages;
pub use shards::{ShardTensor, layer_file, rest_file, rest_tensors, write_layer, write_shard, write_shards};
pub use sizes::{BlockWidths, Capacity, Sizes};
pub use workspace::Workspace;

pub(crate) use backward::Gradients;
pub(crate) use batch::common_prefix;
pub(crate) use block::{Dropouts, Pass, Pieces};
pub(crate) use indices::{StepNumbers, Uploaded};
pub(crate) use layer_slots::BlockLayout;
pub(crate) use layer_stream::RESIDENT;
pub(crate) use offload::LANDINGS;
pub(crate) use operations::operations;
pub(crate) use sizes::{low_offsets, raw_offsets, stride};

use crate::projection::Projection;

/// One block's frozen weights.
pub(crate) struct Block {
    /// By [`Projection`].
    pub matrices: [Matrix; Projection::ALL.len()],
    pub biases: [Option<Buffer<f32>>; Projection::ALL.len()],
    pub input_norm: Buffer<f32>,
    pub middle_norm: Buffer<f32>,
    /// Norms of each head of q and k, where the family has them.
    pub head_norms: Option<[Buffer<f32>; 2]>,
}

/// A decoder-only model's frozen weights.
pub struct Decoder {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) config: ModelConfig,
    pub(crate) embedding: Matrix,
    /// Absent when tied to the embedding.
    pub(crate) head: Option<Matrix>,
    pub(crate) final_norm: Buffer<f32>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) rotary: Rotary,
    /// Positions that the rotary table covers.
    pub(crate) positions: usize,
    /// Where the blocks' matrices stay on disk.
    stream: Option<streamed::Streaming>,
    /// Counts what is mapped for as long as the decoder lives.
    #[expect(dead_code, reason = "a guard is only dropped")]
    held: Vec<Held>,
}

impl Decoder {
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The longest sequence that can be run.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Whether blocks come and go.
    pub(crate) fn is_streamed(&self) -> bool {
        self.stream.is_some()
    }

    pub(crate) fn eps(&self) -> f32 {
        self.config.rms_eps as f32
    }

    pub(crate) fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim,
            scale: (1.0 / (self.config.head_dim as f64).sqrt()) as f32,
            window: self.config.sliding_window,
            soft_cap: None,
        }
    }

    pub(crate) fn head(&self, chunk_rows: usize) -> Head<'_> {
        Head {
            weight: self.head.as_ref().unwrap_or(&self.embedding).operand(),
            vocabulary: self.config.vocab_size,
            hidden: self.config.hidden_size,
            chunk_rows,
        }
    }
}
