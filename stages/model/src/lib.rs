//! The training engine: decoder blocks with hand-written forward and backward, adapters, optimisers, checkpoints,
//! generation. Runs on the device interface of `luthier-kernels`.

pub mod adapter;
mod decoder;
mod error;
mod infer;
mod projection;

pub use decoder::{BaseFormat, Batch, BlockWidths, Capacity, Decoder, LoadOptions, Sizes, Workspace};
pub use error::device_error;
pub use infer::{Generated, LanguageModel, LanguageModelOptions, Stop};
pub use projection::Projection;
