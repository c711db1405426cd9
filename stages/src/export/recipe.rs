//! Which type each tensor gets.
//!
//! The mixed recipes (`q4_k_m` and its kin) are those of llama.cpp for dense models, so a file has the size and quality
//! that its name promises: https://github.com/ggml-org/llama.cpp, `llama-quant.cpp`, for the choice per tensor, and
//! `ggml.h` for the numbers of file types.

use luthier_formats::model_files::ModelConfig;
use luthier_formats::quant::TensorType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use TensorType::{BF16, F16, F32, IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};

/// What a GGUF file is stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FileType {
    F32,
    F16,
    Bf16,
    #[serde(rename = "q8_0")]
    Q8,
    #[serde(rename = "q6_k")]
    Q6K,
    #[serde(rename = "q5_k_m")]
    Q5KM,
    #[serde(rename = "q5_k_s")]
    Q5KS,
    #[serde(rename = "q5_1")]
    Q51,
    #[serde(rename = "q5_0")]
    Q50,
    #[serde(rename = "q4_k_m")]
    Q4KM,
    #[serde(rename = "q4_k_s")]
    Q4KS,
    #[serde(rename = "q4_1")]
    Q41,
    #[serde(rename = "q4_0")]
    Q40,
    #[serde(rename = "iq4_nl")]
    Iq4Nl,
    #[serde(rename = "iq4_xs")]
    Iq4Xs,
    #[serde(rename = "q3_k_l")]
    Q3KL,
    #[serde(rename = "q3_k_m")]
    Q3KM,
    #[serde(rename = "q3_k_s")]
    Q3KS,
    #[serde(rename = "q2_k")]
    Q2K,
}

/// (file type, its name, `general.file_type`, the type of most tensors)
const TABLE: &[(FileType, &str, u32, TensorType)] = &[
    (FileType::F32, "f32", 0, F32),
    (FileType::F16, "f16", 1, F16),
    (FileType::Bf16, "bf16", 32, BF16),
    (FileType::Q8, "q8_0", 7, Q8_0),
    (FileType::Q6K, "q6_k", 18, Q6_K),
    (FileType::Q5KM, "q5_k_m", 17, Q5_K),
    (FileType::Q5KS, "q5_k_s", 16, Q5_K),
    (FileType::Q51, "q5_1", 9, Q5_1),
    (FileType::Q50, "q5_0", 8, Q5_0),
    (FileType::Q4KM, "q4_k_m", 15, Q4_K),
    (FileType::Q4KS, "q4_k_s", 14, Q4_K),
    (FileType::Q41, "q4_1", 3, Q4_1),
    (FileType::Q40, "q4_0", 2, Q4_0),
    (FileType::Iq4Nl, "iq4_nl", 25, IQ4_NL),
    (FileType::Iq4Xs, "iq4_xs", 30, IQ4_XS),
    (FileType::Q3KL, "q3_k_l", 13, Q3_K),
    (FileType::Q3KM, "q3_k_m", 12, Q3_K),
    (FileType::Q3KS, "q3_k_s", 11, Q3_K),
    (FileType::Q2K, "q2_k", 10, Q2_K),
];

impl FileType {
    fn row(self) -> &'static (Self, &'static str, u32, TensorType) {
        TABLE.iter().find(|row| row.0 == self).unwrap_or(&TABLE[0])
    }

    /// `general.file_type`.
    pub(super) fn number(self) -> u32 {
        self.row().2
    }

    pub(super) fn base(self) -> TensorType {
        self.row().3
    }

    fn is_plain(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }
}

/// Layers whose value and down projections matter most: the first and last eighth, and every third between.
fn matters_more(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// The type of a tensor, by its GGUF name and row-major shape.
pub(super) fn tensor_type(file: FileType, config: &ModelConfig, name: &str, shape: &[usize]) -> TensorType {
    if shape.len() < 2 || name.ends_with("_norm.weight") {
        return F32;
    }
    if file.is_plain() {
        return file.base();
    }
    let wanted = wanted_type(file, config, name);
    fit(wanted, shape.last().copied().unwrap_or(1))
}

fn wanted_type(file: FileType, config: &ModelConfig, name: &str) -> TensorType {
    let base = file.base();
    let is_head = name == "output.weight" || (name == "token_embd.weight" && config.tie_embeddings);
    if is_head {
        return if file == FileType::Q8 { Q8_0 } else { Q6_K };
    }
    let mut parts = name.split('.');
    let layer: usize = match (parts.next(), parts.next().and_then(|part| part.parse().ok())) {
        (Some("blk"), Some(layer)) => layer,
        _ => return base,
    };
    let layers = config.layers;
    let many_queries_per_key = config.heads / config.kv_heads >= 4;
    match (parts.next(), file) {
        (Some("attn_v"), FileType::Q2K) => {
            if many_queries_per_key {
                Q4_K
            } else {
                Q3_K
            }
        }
        (Some("attn_v"), FileType::Q3KM) => {
            if layer < 2 {
                Q5_K
            } else {
                Q4_K
            }
        }
        (Some("attn_v"), FileType::Q3KL) => Q5_K,
        (Some("attn_v"), FileType::Iq4Nl | FileType::Iq4Xs) if many_queries_per_key => Q5_K,
        (Some("attn_v" | "ffn_down"), FileType::Q4KM | FileType::Q5KM) if matters_more(layer, layers) => Q6_K,
        (Some("attn_v"), FileType::Q4KS) if layer < 4 => Q5_K,
        (Some("ffn_down"), FileType::Q2K) => Q3_K,
        (Some("ffn_down"), FileType::Q3KM) if layer < layers / 16 => Q5_K,
        (Some("ffn_down"), FileType::Q3KM) if matters_more(layer, layers) => Q4_K,
        (Some("ffn_down"), FileType::Q3KL) => Q5_K,
        (Some("ffn_down"), FileType::Q4KS | FileType::Iq4Nl | FileType::Iq4Xs) if layer < layers / 8 => Q5_K,
        (Some("attn_output"), FileType::Q2K) => Q3_K,
        (Some("attn_output"), FileType::Q3KM) => Q4_K,
        (Some("attn_output"), FileType::Q3KL) => Q5_K,
        _ => base,
    }
}

/// A type whose blocks divide the row: a block of 32 where one of 256 does not fit, halves where neither does.
fn fit(wanted: TensorType, columns: usize) -> TensorType {
    let smaller = match wanted {
        _ if columns.is_multiple_of(wanted.block_len()) => return wanted,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        Q2_K | Q3_K => Q4_0,
        IQ4_XS => IQ4_NL,
        _ => F16,
    };
    if columns.is_multiple_of(smaller.block_len()) { smaller } else { F16 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use luthier_formats::model_files::tensor_specs;
    use luthier_test::TinyModel;

    use super::*;

    fn config(hidden: usize, layers: usize, tied: bool) -> ModelConfig {
        ModelConfig {
            hidden_size: hidden,
            intermediate_size: 1536,
            layers,
            tie_embeddings: tied,
            heads: hidden / 64,
            kv_heads: 1,
            head_dim: 64,
            ..TinyModel::new(1).config
        }
    }

    fn counts(file: FileType, config: &ModelConfig) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for spec in tensor_specs(config).values() {
            let chosen = tensor_type(file, config, &spec.gguf_name, &spec.shape);
            assert!(chosen == F32 || spec.shape.last().unwrap().is_multiple_of(chosen.block_len()));
            *counts.entry(chosen.name()).or_default() += 1;
        }
        counts.iter().map(|(name, count)| format!("{name}×{count}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn recipes_of_a_model_that_fits() {
        let config = config(512, 16, false);
        let table: Vec<String> = TABLE.iter().map(|row| format!("{:8}{}", row.1, counts(row.0, &config))).collect();
        insta::assert_snapshot!(table.join("\n"), @r##"
f32     F32×147
f16     F16×114 F32×33
bf16    BF16×114 F32×33
q8_0    F32×33 Q8_0×114
q6_k    F32×33 Q6_K×114
q5_k_m  F32×33 Q5_K×97 Q6_K×17
q5_k_s  F32×33 Q5_K×113 Q6_K×1
q5_1    F32×33 Q5_1×113 Q6_K×1
q5_0    F32×33 Q5_0×113 Q6_K×1
q4_k_m  F32×33 Q4_K×97 Q6_K×17
q4_k_s  F32×33 Q4_K×107 Q5_K×6 Q6_K×1
q4_1    F32×33 Q4_1×113 Q6_K×1
q4_0    F32×33 Q4_0×113 Q6_K×1
iq4_nl  F32×33 IQ4_NL×95 Q5_K×18 Q6_K×1
iq4_xs  F32×33 IQ4_XS×95 Q5_K×18 Q6_K×1
q3_k_l  F32×33 Q3_K×65 Q5_K×48 Q6_K×1
q3_k_m  F32×33 Q3_K×73 Q4_K×37 Q5_K×3 Q6_K×1
q3_k_s  F32×33 Q3_K×113 Q6_K×1
q2_k    F32×33 Q2_K×65 Q3_K×32 Q4_K×16 Q6_K×1
"##);
    }

    #[test]
    fn rows_of_576_fall_back_to_small_blocks() {
        let config = config(576, 30, true);
        let table: Vec<String> = TABLE.iter().map(|row| format!("{:8}{}", row.1, counts(row.0, &config))).collect();
        insta::assert_snapshot!(table.join("\n"), @r##"
f32     F32×272
f16     F16×211 F32×61
bf16    BF16×211 F32×61
q8_0    F32×61 Q8_0×211
q6_k    F32×61 Q6_K×30 Q8_0×181
q5_k_m  F32×61 Q5_1×166 Q5_K×16 Q6_K×14 Q8_0×15
q5_k_s  F32×61 Q5_1×180 Q5_K×30 Q8_0×1
q5_1    F32×61 Q5_1×210 Q8_0×1
q5_0    F32×61 Q5_0×210 Q8_0×1
q4_k_m  F32×61 Q4_K×16 Q5_0×166 Q6_K×14 Q8_0×15
q4_k_s  F32×61 Q4_K×27 Q5_0×176 Q5_1×4 Q5_K×3 Q8_0×1
q4_1    F32×61 Q4_1×210 Q8_0×1
q4_0    F32×61 Q4_0×210 Q8_0×1
iq4_nl  F32×61 IQ4_NL×177 Q5_1×30 Q5_K×3 Q8_0×1
iq4_xs  F32×61 IQ4_NL×150 IQ4_XS×27 Q5_1×30 Q5_K×3 Q8_0×1
q3_k_l  F32×61 Q4_0×120 Q5_1×60 Q5_K×30 Q8_0×1
q3_k_m  F32×61 Q3_K×16 Q4_0×120 Q4_K×13 Q5_0×58 Q5_1×2 Q5_K×1 Q8_0×1
q3_k_s  F32×61 Q3_K×30 Q4_0×180 Q8_0×1
q2_k    F32×61 Q3_K×30 Q4_0×150 Q5_0×30 Q8_0×1
"##);
    }

    #[test]
    fn rows_that_no_block_divides_are_halves() {
        assert_eq!(fit(Q4_K, 48), F16);
        assert_eq!(fit(Q4_0, 48), F16);
        assert_eq!(fit(Q4_K, 96), Q5_0);
    }

    #[test]
    fn names_are_those_of_the_configuration() {
        for row in TABLE {
            assert_eq!(serde_json::to_value(row.0).unwrap(), row.1);
        }
    }
}
