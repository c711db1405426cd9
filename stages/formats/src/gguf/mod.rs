//! GGUF files: reading (versions 2 and 3, memory-mapped) and writing (version 3, streaming).
//!
//! Row-major shapes everywhere: the reversed order that the file stores never leaves this module.

mod cursor;
mod file;
mod value;
mod writer;

pub use file::{GgufFile, TensorInfo};
pub use value::{MetaArray, MetaValue};
pub use writer::{GgufWriter, TensorDecl};
