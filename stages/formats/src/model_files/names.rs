//! Tensor names and shapes of a model, in Hugging Face terms, and their names in GGUF.

use indexmap::IndexMap;

use super::config::ModelConfig;

/// How the rows of a tensor are ordered in a GGUF file, against Hugging Face.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    Same,
    /// Within each head of this many rows, row `2j + p` of GGUF is row `p * rows/2 + j` of Hugging Face.
    Interleaved {
        head_dim: usize,
    },
}

impl RowOrder {
    /// Where row `row` of Hugging Face is in the GGUF file.
    #[must_use]
    pub fn gguf_row(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (side, pair) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * pair + side
            }
        }
    }

    /// The inverse of [`Self::gguf_row`].
    #[must_use]
    pub fn hugging_face_row(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                head * head_dim + (within % 2) * (head_dim / 2) + within / 2
            }
        }
    }
}

/// One tensor that a model of some configuration has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// `[rows, columns]`, or `[length]`.
    pub shape: Vec<usize>,
    pub gguf_name: String,
    pub row_order: RowOrder,
}

/// Every tensor of the model by its Hugging Face name, in canonical order: embedding, layers, final norm, head.
#[must_use]
pub fn tensor_specs(config: &ModelConfig) -> IndexMap<String, TensorSpec> {
    let mut specs = IndexMap::new();
    let mut add = |name: String, gguf_name: String, shape: &[usize], row_order: RowOrder| {
        specs.insert(name, TensorSpec { shape: shape.to_vec(), gguf_name, row_order });
    };
    let interleaved = match config.architecture.permutes_query_key() {
        true => RowOrder::Interleaved { head_dim: config.head_dim },
        false => RowOrder::Same,
    };
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (query, key_value) = (config.query_size(), config.key_value_size());
    let vocabulary = [config.vocab_size, hidden];
    add("model.embed_tokens.weight".to_owned(), "token_embd.weight".to_owned(), &vocabulary, RowOrder::Same);
    for layer in 0..config.layers {
        let matrices = [
            ("self_attn.q_proj", "attn_q", [query, hidden], interleaved),
            ("self_attn.k_proj", "attn_k", [key_value, hidden], interleaved),
            ("self_attn.v_proj", "attn_v", [key_value, hidden], RowOrder::Same),
            ("self_attn.o_proj", "attn_output", [hidden, query], RowOrder::Same),
            ("mlp.gate_proj", "ffn_gate", [inner, hidden], RowOrder::Same),
            ("mlp.up_proj", "ffn_up", [inner, hidden], RowOrder::Same),
            ("mlp.down_proj", "ffn_down", [hidden, inner], RowOrder::Same),
        ];
        let mut norm = |name: &str, gguf: &str, length: usize| {
            add(
                format!("model.layers.{layer}.{name}.weight"),
                format!("blk.{layer}.{gguf}.weight"),
                &[length],
                RowOrder::Same,
            );
        };
        norm("input_layernorm", "attn_norm", hidden);
        if config.qk_norm {
            norm("self_attn.q_norm", "attn_q_norm", config.head_dim);
            norm("self_attn.k_norm", "attn_k_norm", config.head_dim);
        }
        norm("post_attention_layernorm", "ffn_norm", hidden);
        for (index, (name, gguf, shape, order)) in matrices.into_iter().enumerate() {
            let (name, gguf) = (format!("model.layers.{layer}.{name}"), format!("blk.{layer}.{gguf}"));
            add(format!("{name}.weight"), format!("{gguf}.weight"), &shape, order);
            if config.qkv_bias && index < 3 {
                add(format!("{name}.bias"), format!("{gguf}.bias"), &shape[..1], order);
            }
        }
    }
    add("model.norm.weight".to_owned(), "output_norm.weight".to_owned(), &[hidden], RowOrder::Same);
    if !config.tie_embeddings {
        add("lm_head.weight".to_owned(), "output.weight".to_owned(), &vocabulary, RowOrder::Same);
    }
    specs
}

#[cfg(test)]
mod tests {
    use super::RowOrder;

    #[test]
    fn interleaving_is_a_permutation_with_its_inverse() {
        let order = RowOrder::Interleaved { head_dim: 8 };
        let rows: Vec<usize> = (0..16).map(|row| order.gguf_row(row)).collect();
        // Rows 0..4 are the first halves of head 0, so they sit at even places.
        assert_eq!(rows[..8], [0, 2, 4, 6, 1, 3, 5, 7]);
        assert_eq!(rows[8..], [8, 10, 12, 14, 9, 11, 13, 15]);
        for row in 0..16 {
            assert_eq!(order.hugging_face_row(order.gguf_row(row)), row);
        }
    }
}
