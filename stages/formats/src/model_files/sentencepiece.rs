//! A SentencePiece vocabulary with scores (Llama 2, Mistral) as merges, the form that tokenizer.json has.
//!
//! SentencePiece merges the pair of pieces whose joined piece scores best. So every way of splitting a piece into two
//! known pieces is a merge, ranked by the score of the whole.

use luthier_core::{StageError, StageResult};
use serde_json::{Map, Value, json};

use super::gguf_tokenizer::GgufVocabulary;
use crate::gguf::{GgufFile, MetaValue};

pub(super) fn tokenizer_json(vocabulary: &GgufVocabulary<'_>, file: &GgufFile) -> StageResult<Value> {
    let scores = file.require("tokenizer.ggml.scores", "a list of f32", MetaValue::as_f32s)?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(StageError::input(
            "gguf::bad_value",
            format!(
                "`{}`: `tokenizer.ggml.scores` has {} entries for {} tokens",
                file.path(),
                scores.len(),
                vocabulary.tokens.len()
            ),
        )
        .hint("convert the model again with a current converter"));
    }
    let unknown = vocabulary.special("unknown").map(|(_, token)| token);
    let unknown = unknown
        .or_else(|| vocabulary.types.iter().position(|kind| *kind == 2).map(|id| vocabulary.tokens[id].as_str()));
    let prefix = file.metadata("tokenizer.ggml.add_space_prefix").and_then(MetaValue::as_bool).unwrap_or(true);
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = match prefix {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]}),
        false => space,
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let vocab: Map<String, Value> =
        vocabulary.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let merges = merges(vocabulary, scores, &vocab);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    }))
}

/// `left right`, best score first; of one piece, by the ids of its parts.
fn merges(vocabulary: &GgufVocabulary<'_>, scores: &[f32], ids: &Map<String, Value>) -> Vec<String> {
    let id = |piece: &str| ids.get(piece).and_then(Value::as_u64);
    let mut found: Vec<(f32, usize, u64, u64, String)> = Vec::new();
    for (whole, token) in vocabulary.tokens.iter().enumerate() {
        // Only ordinary pieces are made by merging.
        if vocabulary.types[whole] != 1 || token.contains(' ') {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left_id), Some(right_id)) = (id(left), id(right)) {
                found.push((scores[whole], whole, left_id, right_id, format!("{left} {right}")));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    found.into_iter().map(|merge| merge.4).collect()
}
