//! Codecs of ggml's tensor types: blocks of bytes to `f32` and back.
//!
//! Decoding follows the definition of each block layout exactly: the same products in the same order as ggml's reference,
//! so decoded values are bit-equal to it. Encoding is a search for the block parameters of least squared error; it is
//! deterministic for any number of threads, because every block depends on its own values (and weights) only.

mod decode;
mod tensor_type;

use camino::Utf8Path;
use luthier_core::StageError;
use rayon::prelude::*;

pub use tensor_type::TensorType;

/// Elements that one task handles: large enough to make the task's cost vanish, small enough to balance.
const TASK_ELEMENTS: usize = 1 << 15;

/// Why bytes could not be decoded or numbers encoded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CodecError {
    #[error("type {0} has no codec here")]
    Unsupported(TensorType),
    #[error("{elements} elements of {kind} take {expected} bytes, found {found}")]
    Length { kind: TensorType, elements: usize, expected: usize, found: usize },
    #[error("{elements} elements are no multiple of the block of {kind}, which is {block}")]
    Ragged { kind: TensorType, elements: usize, block: usize },
    #[error("element {index} is {value}, which {kind} cannot represent")]
    NotFinite { kind: TensorType, index: usize, value: f32 },
    #[error("{found} importance weights for rows of {expected} columns")]
    Importance { expected: usize, found: usize },
}

impl CodecError {
    /// The error of a stage, naming file and tensor.
    #[must_use]
    pub fn in_tensor(self, path: &Utf8Path, name: &str) -> StageError {
        let hint = match &self {
            Self::Unsupported(_) => {
                let known: Vec<&str> = TensorType::with_codec().map(TensorType::name).collect();
                format!("use a file of one of these types: {}", known.join(", "))
            }
            Self::Length { .. } | Self::Ragged { .. } | Self::Importance { .. } => {
                "the file is damaged, or its metadata belongs to another model".to_owned()
            }
            Self::NotFinite { .. } => {
                "the model's weights are broken; check the training run's loss for NaN, or export as f32".to_owned()
            }
        };
        StageError::input("tensor::codec", format!("`{path}`: tensor `{name}`: {self}")).hint(hint).caused_by(self)
    }
}

fn check_lengths(kind: TensorType, bytes: usize, elements: usize) -> Result<(), CodecError> {
    if !kind.has_codec() {
        return Err(CodecError::Unsupported(kind));
    }
    let Some(expected) = kind.row_bytes(elements) else {
        return Err(CodecError::Ragged { kind, elements, block: kind.block_len() });
    };
    if bytes != expected {
        return Err(CodecError::Length { kind, elements, expected, found: bytes });
    }
    Ok(())
}

/// Decodes `bytes` into `out`, on the current rayon pool. The result does not depend on the number of threads.
///
/// # Errors
/// No codec, or the lengths do not agree; `out` is then untouched.
pub fn dequantize(kind: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    check_lengths(kind, bytes.len(), out.len())?;
    let task_bytes = TASK_ELEMENTS / kind.block_len() * kind.block_bytes();
    bytes
        .par_chunks(task_bytes)
        .zip(out.par_chunks_mut(TASK_ELEMENTS))
        .for_each(|(bytes, out)| decode::decode(kind, bytes, out));
    Ok(())
}

/// Decodes on the calling thread; for callers that already run in parallel over rows.
///
/// # Errors
/// As [`dequantize`].
pub fn dequantize_row(kind: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    check_lengths(kind, bytes.len(), out.len())?;
    decode::decode(kind, bytes, out);
    Ok(())
}
