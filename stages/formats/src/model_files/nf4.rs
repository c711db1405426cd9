//! Matrices in the 4-bit checkpoint layout of bitsandbytes, as transformers saves them: beside `NAME` (packed codes,
//! `[elements / 2, 1]`) lie `NAME.absmax`, `NAME.quant_map`, with double quantisation `NAME.nested_absmax` and
//! `NAME.nested_quant_map`, and `NAME.quant_state.bitsandbytes__nf4`, JSON as bytes. Source: bitsandbytes' `QuantState`.

use std::ops::Range;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use serde::Deserialize;
use serde_json::json;

use super::safetensors_set::{SafetensorsSet, StoredTensor};
use crate::gguf::TensorDecl;
use crate::quant::TensorType;

/// Elements that share a scale.
const BLOCK: usize = 64;
/// Scales that share a second-level scale.
const NESTED_BLOCK: usize = 256;
/// Bytes of a written quantisation state; JSON may end in spaces, and the offset's digits are not known beforehand.
const STATE_BYTES: usize = 256;
/// Names of the tensors beside the codes, for which `NAME.` is a prefix.
const COMPANIONS: [&str; 6] = [
    "absmax",
    "quant_map",
    "nested_absmax",
    "nested_quant_map",
    "quant_state.bitsandbytes__nf4",
    "quant_state.bitsandbytes__fp4",
];

/// The scales of the blocks of 64.
#[derive(Debug, Clone, PartialEq)]
pub enum Nf4Scales {
    Plain(Vec<f32>),
    /// `map[code] · scales[block / 256] + offset`.
    Nested {
        codes: Vec<u8>,
        map: Vec<f32>,
        scales: Vec<f32>,
        offset: f32,
    },
}

/// A stored 4-bit matrix; codes are mapped from disk, scales are read.
#[derive(Debug, Clone)]
pub struct StoredNf4 {
    pub shape: [usize; 2],
    /// The sixteen values.
    pub map: [f32; 16],
    pub scales: Nf4Scales,
    codes: StoredTensor,
}

#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    #[serde(default)]
    nested_blocksize: Option<usize>,
    #[serde(default)]
    nested_offset: Option<f64>,
}

/// `NAME` if `tensor` is a companion of the codes `NAME`.
#[must_use]
pub(super) fn owner(tensor: &str) -> Option<&str> {
    COMPANIONS.iter().find_map(|suffix| tensor.strip_suffix(suffix)?.strip_suffix('.'))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
}

impl StoredNf4 {
    /// The matrix whose codes are `name`; `None` if it is not in this layout.
    ///
    /// # Errors
    /// FP4 or other block sizes; a companion that is missing or of another length.
    pub(super) fn open(set: &SafetensorsSet, name: &str) -> StageResult<Option<Self>> {
        let companion = |suffix: &str| set.tensors().get(&format!("{name}.{suffix}"));
        if companion("quant_state.bitsandbytes__fp4").is_some() {
            return Err(unsupported(format!("tensor `{name}` is quantised to FP4, expected NF4")));
        }
        let (Some(state), Some(codes)) = (companion("quant_state.bitsandbytes__nf4"), set.tensors().get(name)) else {
            return Ok(None);
        };
        let path = set.path_of(codes);
        let state: State = serde_json::from_slice(set.bytes(state)).map_err(|error| {
            damaged(path, format!("`{name}.quant_state.bitsandbytes__nf4` is not a state: {error}"))
        })?;
        if state.quant_type != "nf4" || state.blocksize != BLOCK {
            return Err(unsupported(format!(
                "tensor `{name}` is `{}` in blocks of {}, expected `nf4` in blocks of {BLOCK}",
                state.quant_type, state.blocksize
            )));
        }
        let [rows, columns] = state.shape[..] else {
            return Err(damaged(
                path,
                format!("the state of `{name}` has the shape {:?}, expected two sides", state.shape),
            ));
        };
        let elements = rows.checked_mul(columns).ok_or_else(|| {
            damaged(path, format!("the state of `{name}` has the impossible shape {:?}", state.shape))
        })?;
        let blocks = elements.div_ceil(BLOCK);
        let take = |suffix: &str, tensor_type: TensorType, length: usize| -> StageResult<&[u8]> {
            let tensor = companion(suffix).ok_or_else(|| damaged(path, format!("lacks `{name}.{suffix}`")))?;
            let count: usize = tensor.shape.iter().product();
            if tensor.tensor_type != tensor_type || count != length {
                return Err(damaged(
                    path,
                    format!(
                        "`{name}.{suffix}` holds {count} values of {}, expected {length} of {tensor_type}",
                        tensor.tensor_type
                    ),
                ));
            }
            Ok(set.bytes(tensor))
        };
        if codes.tensor_type != TensorType::I8 || set.bytes(codes).len() != elements.div_ceil(2) {
            return Err(damaged(
                path,
                format!(
                    "`{name}` holds {} bytes, expected {} for {rows} × {columns}",
                    set.bytes(codes).len(),
                    elements.div_ceil(2)
                ),
            ));
        }
        let scales = match state.nested_offset {
            None => Nf4Scales::Plain(floats(take("absmax", TensorType::F32, blocks)?)),
            Some(offset) => {
                let nested = state.nested_blocksize.unwrap_or(NESTED_BLOCK);
                if nested != NESTED_BLOCK {
                    return Err(unsupported(format!(
                        "the scales of `{name}` are in blocks of {nested}, expected {NESTED_BLOCK}"
                    )));
                }
                Nf4Scales::Nested {
                    codes: take("absmax", TensorType::I8, blocks)?.to_vec(),
                    map: floats(take("nested_quant_map", TensorType::F32, 256)?),
                    scales: floats(take("nested_absmax", TensorType::F32, blocks.div_ceil(NESTED_BLOCK))?),
                    offset: offset as f32,
                }
            }
        };
        let mut map = [0f32; 16];
        map.copy_from_slice(&floats(take("quant_map", TensorType::F32, 16)?));
        let stored = Self { shape: [rows, columns], map, scales, codes: codes.clone() };
        if !stored.is_finite() {
            return Err(StageError::input(
                "model::not_finite",
                format!("the scales of tensor `{name}` of `{path}` are not all finite numbers"),
            )
            .hint("the file is damaged or the model diverged when it was made; fetch it again"));
        }
        Ok(Some(stored))
    }

    fn is_finite(&self) -> bool {
        let all = |values: &[f32]| values.iter().all(|value| value.is_finite());
        all(&self.map)
            && match &self.scales {
                Nf4Scales::Plain(scales) => all(scales),
                Nf4Scales::Nested { map, scales, offset, .. } => all(map) && all(scales) && offset.is_finite(),
            }
    }

    /// The packed codes, the element of even index in the high nibble.
    pub(super) fn packed<'a>(&self, set: &'a SafetensorsSet) -> &'a [u8] {
        set.bytes(&self.codes)
    }

    fn scale(&self, block: usize) -> f32 {
        match &self.scales {
            Nf4Scales::Plain(scales) => scales[block],
            Nf4Scales::Nested { codes, map, scales, offset } => {
                map[codes[block] as usize] * scales[block / NESTED_BLOCK] + offset
            }
        }
    }

    /// Decodes some rows.
    pub(super) fn read_rows(&self, set: &SafetensorsSet, rows: Range<usize>, out: &mut [f32]) {
        let packed = self.packed(set);
        let start = rows.start * self.shape[1];
        let (mut block, mut scale) = (usize::MAX, 0.0);
        for (index, out) in out.iter_mut().enumerate() {
            let at = start + index;
            if at / BLOCK != block {
                block = at / BLOCK;
                scale = self.scale(block);
            }
            let byte = packed[at / 2];
            *out = self.map[(if at & 1 == 0 { byte >> 4 } else { byte & 15 }) as usize] * scale;
        }
    }
}

fn damaged(path: &Utf8Path, what: String) -> StageError {
    StageError::input("model::bad_nf4", format!("`{path}`: {what}"))
        .hint("the file is incomplete or damaged; fetch it again, or save it again with transformers")
}

fn unsupported(what: String) -> StageError {
    StageError::input("model::unsupported", what)
        .hint("use a checkpoint in NF4 with blocks of 64, or the unquantised model with `method: qlora`")
}

/// The parts of a matrix to be written, with double quantisation.
#[derive(Debug, Clone, Copy)]
pub struct Nf4Parts<'a> {
    pub packed: &'a [u8],
    /// Codes of the scales.
    pub codes: &'a [u8],
    pub scales: &'a [f32],
    pub offset: f32,
    /// The sixteen values.
    pub map: &'a [f32],
    /// The values of the codes of the scales.
    pub nested_map: &'a [f32],
}

/// The tensors that stand for a matrix `name`, in the order that [`nf4_tensors`] gives their bytes.
#[must_use]
pub fn nf4_declarations(name: &str, [rows, columns]: [usize; 2]) -> Vec<TensorDecl> {
    let elements = rows * columns;
    let blocks = elements.div_ceil(BLOCK);
    let declare = |suffix: &str, shape: Vec<usize>, tensor_type: TensorType| TensorDecl {
        name: if suffix.is_empty() { name.to_owned() } else { format!("{name}.{suffix}") },
        shape,
        tensor_type,
    };
    vec![
        declare("", vec![elements.div_ceil(2), 1], TensorType::I8),
        declare("absmax", vec![blocks], TensorType::I8),
        declare("nested_absmax", vec![blocks.div_ceil(NESTED_BLOCK)], TensorType::F32),
        declare("nested_quant_map", vec![256], TensorType::F32),
        declare("quant_map", vec![16], TensorType::F32),
        declare("quant_state.bitsandbytes__nf4", vec![STATE_BYTES], TensorType::I8),
    ]
}

/// Name and bytes of each of [`nf4_declarations`]; `dtype` is what the matrix is dequantised to, such as `bfloat16`.
#[must_use]
pub fn nf4_tensors(
    name: &str,
    [rows, columns]: [usize; 2],
    dtype: &str,
    parts: Nf4Parts<'_>,
) -> Vec<(String, Vec<u8>)> {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let state = json!({
        "quant_type": "nf4", "blocksize": BLOCK, "dtype": dtype, "shape": [rows, columns],
        "nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": f64::from(parts.offset),
    });
    let mut state = state.to_string().into_bytes();
    debug_assert!(state.len() <= STATE_BYTES, "two sides and one offset have few digits");
    state.resize(STATE_BYTES, b' ');
    let names = nf4_declarations(name, [rows, columns]).into_iter().map(|declaration| declaration.name);
    let contents = [
        parts.packed.to_vec(),
        parts.codes.to_vec(),
        bytes(parts.scales),
        bytes(parts.nested_map),
        bytes(parts.map),
        state,
    ];
    names.zip(contents).collect()
}

/// `quantization_config` of config.json for matrices written by [`nf4_tensors`].
#[must_use]
pub fn nf4_quantization_config(dtype: &str) -> serde_json::Value {
    json!({
        "_load_in_4bit": true, "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": dtype, "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": true, "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false, "llm_int8_skip_modules": null, "llm_int8_threshold": 6.0,
        "load_in_4bit": true, "load_in_8bit": false, "quant_method": "bitsandbytes",
    })
}
