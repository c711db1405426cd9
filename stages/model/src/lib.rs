//! The training engine: decoder blocks with hand-written forward and backward, adapters, optimisers, checkpoints,
//! generation. Runs on the device interface of `luthier-kernels`.

pub mod adapter;
mod decoder;
mod error;
mod infer;
pub mod memory;
pub mod profile;
mod projection;
pub mod train;

pub use decoder::{BaseFormat, Batch, BlockWidths, Capacity, Decoder, LoadOptions, Sizes, Workspace, storage_of};
pub use decoder::{ShardTensor, layer_file, rest_file, rest_tensors, write_layer, write_shard, write_shards};
pub use error::device_error;
pub use infer::{Generated, LanguageModel, LanguageModelOptions, Sampler, Stop};
pub use luthier_kernels::{NUMERIC_CLASS, device, divergence, random, scalar};
pub use projection::Projection;
