//! Codecs of ggml's tensor types: blocks of bytes to `f32` and back.
//!
//! Decoding follows the definition of each block layout exactly: the same products in the same order as ggml's reference,
//! so decoded values are bit-equal to it. Encoding is a search for the block parameters of least squared error; it is
//! deterministic for any number of threads, because every block depends on its own values (and weights) only.

mod decode;
mod encode;
mod encode_k;
mod fit;
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

/// The largest magnitude that a type's half-precision scale is sure to carry.
fn largest(kind: TensorType) -> f32 {
    match kind {
        TensorType::F32 | TensorType::BF16 => f32::MAX,
        _ => 65_504.0,
    }
}

/// Encodes rows of `columns` values on the current rayon pool. The bytes do not depend on the number of threads.
///
/// `importance`, if given, holds one weight per column: the mean squared activation that the column is multiplied with.
/// Q8_0 and the plain types ignore it. Shapes: `values` is any number of rows, row-major.
///
/// # Errors
/// No codec, rows that are not whole blocks, or a value that is not finite or too large for the type.
pub fn quantize(
    kind: TensorType,
    values: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
) -> Result<Vec<u8>, CodecError> {
    if !kind.has_codec() {
        return Err(CodecError::Unsupported(kind));
    }
    let block = kind.block_len();
    if columns == 0 || kind.row_bytes(columns).is_none() || !values.len().is_multiple_of(columns) {
        return Err(CodecError::Ragged { kind, elements: if columns == 0 { values.len() } else { columns }, block });
    }
    if let Some(importance) = importance.filter(|importance| importance.len() != columns) {
        return Err(CodecError::Importance { expected: columns, found: importance.len() });
    }
    let limit = largest(kind);
    if let Some(index) = values.par_iter().position_first(|value| value.is_nan() || value.abs() > limit) {
        return Err(CodecError::NotFinite { kind, index, value: values[index] });
    }
    let mut out = vec![0; values.len() / block * kind.block_bytes()];
    let task_blocks = TASK_ELEMENTS / block;
    out.par_chunks_mut(task_blocks * kind.block_bytes()).zip(values.par_chunks(TASK_ELEMENTS)).enumerate().for_each(
        |(task, (out, values))| {
            for (index, (bytes, x)) in
                out.chunks_exact_mut(kind.block_bytes()).zip(values.chunks_exact(block)).enumerate()
            {
                let column = (task * TASK_ELEMENTS + index * block) % columns;
                let weights = importance.map_or(&[][..], |importance| &importance[column..column + block]);
                encode::encode(kind, x, weights, bytes);
            }
        },
    );
    Ok(out)
}

/// The most by which [`quantize`] may change a value, relative to the largest magnitude of its block, and absolutely.
///
/// The first is what the format's levels allow with room for a rounded scale; the second, half the smallest
/// half-precision number times the largest factor that a format puts on it.
#[must_use]
pub fn tolerance(kind: TensorType) -> (f32, f32) {
    let relative = match kind {
        TensorType::F32 => 0.0,
        TensorType::BF16 => 1.0 / 256.0,
        TensorType::F16 => 1.0 / 2048.0,
        TensorType::Q8_0 => 1.0 / 120.0,
        TensorType::Q6_K => 1.0 / 15.0,
        TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q5_K => 1.0 / 7.0,
        TensorType::Q2_K => 1.0,
        TensorType::Q3_K => 0.6,
        _ => 0.35,
    };
    let absolute = match (kind, kind.block_len()) {
        (TensorType::F32 | TensorType::BF16, _) => 0.0,
        (_, 256) => 2f32.powi(-13),
        _ => 2f32.powi(-18),
    };
    (relative, absolute)
}

#[cfg(test)]
mod tests;
