//! The vocabulary in a GGUF file's metadata as the tree of a `tokenizer.json`.

use std::collections::BTreeSet;

use luthier_core::{StageError, StageResult, quoted};
use serde_json::{Map, Value, json};

use super::pre::{self, PreTokenizer};
use crate::gguf::{GgufFile, MetaValue};

/// `tokenizer.ggml.token_type` values. Source: the GGUF specification.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// The tree, and what else the metadata says.
pub struct GgufVocabulary {
    pub tree: Value,
    pub size: usize,
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
    pub special: BTreeSet<u32>,
}

struct Parts<'a> {
    file: &'a GgufFile,
    tokens: &'a [String],
    types: Vec<i32>,
}

/// # Errors
/// No vocabulary, one that contradicts itself, or a kind or pre-tokenizer that is not known.
pub fn read(file: &GgufFile) -> StageResult<GgufVocabulary> {
    let tokens = file.require("tokenizer.ggml.tokens", "a list of strings", MetaValue::as_strings)?;
    let types = match file.metadata("tokenizer.ggml.token_type") {
        Some(value) => value.as_i32s().filter(|types| types.len() == tokens.len()).ok_or_else(|| {
            bad(
                file,
                format!("`tokenizer.ggml.token_type` does not have one integer for each of {} tokens", tokens.len()),
            )
        })?,
        None => vec![1; tokens.len()],
    };
    if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
        return Err(bad(file, format!("it has {} tokens", tokens.len())));
    }
    let parts = Parts { file, tokens, types };
    let model = file.require("tokenizer.ggml.model", "a string", MetaValue::as_str)?;
    let (bos, mut tree) = match model {
        "gpt2" => (parts.id("bos")?, parts.byte_level()?),
        "llama" => (parts.id("bos")?, parts.sentencepiece()?),
        other => {
            return Err(StageError::input(
                "tokenizer::unknown_model",
                format!(
                    "`{}` has a tokenizer of kind `{other}`, expected `gpt2` (byte-level BPE) or `llama`",
                    file.path()
                ),
            )
            .hint("use the model's Hugging Face directory, whose tokenizer.json is read as it is"));
        }
    };
    let mut eos = BTreeSet::new();
    for name in ["eos", "eot", "eom"] {
        eos.extend(parts.id(name)?);
    }
    tree["added_tokens"] = parts.added_tokens();
    let special = parts.with_types(&[CONTROL, UNKNOWN]).map(|(id, _)| id).collect();
    Ok(GgufVocabulary { tree, size: tokens.len(), bos, eos: eos.into_iter().collect(), special })
}

fn bad(file: &GgufFile, what: String) -> StageError {
    StageError::input("tokenizer::bad_vocabulary", format!("the vocabulary of `{}` is broken: {what}", file.path()))
        .hint("convert the model again with a current converter")
}

impl Parts<'_> {
    fn id(&self, name: &str) -> StageResult<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(value) = self.file.metadata(&key) else { return Ok(None) };
        match value.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < self.tokens.len()) {
            Some(id) => Ok(Some(id as u32)),
            // Some converters write -1 for "none".
            None if value.as_u64().is_none() || value.as_u64() == Some(u64::from(u32::MAX)) => Ok(None),
            None => Err(bad(self.file, format!("`{key}` is not below {}", self.tokens.len()))),
        }
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.file.metadata(&format!("tokenizer.ggml.{name}")).and_then(MetaValue::as_bool)
    }

    fn with_types<'a>(&'a self, kinds: &'a [i32]) -> impl Iterator<Item = (u32, &'a String)> {
        let all = (0u32..).zip(self.tokens).zip(&self.types);
        all.filter(move |(_, kind)| kinds.contains(kind)).map(|(token, _)| token)
    }

    /// Every token to its id; of tokens written alike the first.
    fn vocabulary(&self) -> Map<String, Value> {
        let mut vocabulary = Map::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            vocabulary.entry(token.clone()).or_insert_with(|| json!(id));
        }
        vocabulary
    }

    fn added_tokens(&self) -> Value {
        let tokens = self.with_types(&[UNKNOWN, CONTROL, USER_DEFINED]).map(|(id, token)| {
            let special = self.types[id as usize] != USER_DEFINED;
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            })
        });
        Value::Array(tokens.filter(|token| token["content"] != "").collect())
    }

    fn post_processor(&self, add_bos_by_default: bool) -> StageResult<Value> {
        let (mut sequence, mut special) = (vec![json!({"Sequence": {"id": "A", "type_id": 0}})], Map::new());
        let mut add = |id: Option<u32>, front: bool| {
            let Some(id) = id else { return };
            let token = &self.tokens[id as usize];
            let piece = json!({"SpecialToken": {"id": token, "type_id": 0}});
            let at = if front { 0 } else { sequence.len() };
            sequence.insert(at, piece);
            special.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
        };
        if self.flag("add_bos_token").unwrap_or(add_bos_by_default) {
            add(self.id("bos")?, true);
        }
        if self.flag("add_eos_token").unwrap_or(false) {
            add(self.id("eos")?, false);
        }
        if special.is_empty() {
            return Ok(Value::Null);
        }
        Ok(json!({"type": "TemplateProcessing", "single": sequence, "pair": sequence, "special_tokens": special}))
    }

    fn byte_level(&self) -> StageResult<Value> {
        let name = self.file.metadata("tokenizer.ggml.pre").and_then(MetaValue::as_str).unwrap_or("default");
        let Some(PreTokenizer { tree, normalizer, ignore_merges, add_bos }) = pre::find(name) else {
            return Err(StageError::input(
                "tokenizer::unknown_pre",
                format!(
                    "`{}` names the pre-tokenizer `{name}`, which is not known; known are [{}]",
                    self.file.path(),
                    quoted(pre::KNOWN)
                ),
            )
            .hint("use the model's Hugging Face directory, whose tokenizer.json is read as it is"));
        };
        let merges = self.file.require("tokenizer.ggml.merges", "a list of strings", MetaValue::as_strings)?;
        let pairs: Option<Vec<Value>> = merges
            .iter()
            .map(|merge| {
                // A token may itself begin with a space only where both halves are still told apart.
                let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
                Some(json!([&merge[..space], &merge[space + 1..]]))
            })
            .collect();
        let pairs = pairs.ok_or_else(|| bad(self.file, "a merge is not two tokens with a space between".to_owned()))?;
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": normalizer,
            "pre_tokenizer": tree,
            "post_processor": self.post_processor(add_bos)?,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": ignore_merges, "vocab": self.vocabulary(), "merges": pairs,
            },
        }))
    }

    /// SentencePiece BPE: merges follow from the scores. Source: Kudo and Richardson 2018, section 3.2, where the pair with
    /// the best score is merged first.
    fn sentencepiece(&self) -> StageResult<Value> {
        let scores = self.file.require("tokenizer.ggml.scores", "a list of numbers", MetaValue::as_f32s)?;
        if scores.len() != self.tokens.len() {
            return Err(bad(self.file, format!("it has {} scores for {} tokens", scores.len(), self.tokens.len())));
        }
        let vocabulary = self.vocabulary();
        let unknown = self.with_types(&[UNKNOWN]).map(|(_, token)| token.clone()).next();
        let prefix = self.flag("add_space_prefix").unwrap_or(true);
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let mut normalizers = vec![replace];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": self.post_processor(true)?,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": self.types.contains(&BYTE),
                "ignore_merges": false, "vocab": vocabulary, "merges": self.merges_by_score(&vocabulary, scores),
            },
        }))
    }

    fn merges_by_score(&self, vocabulary: &Map<String, Value>, scores: &[f32]) -> Vec<Value> {
        struct Merge<'a> {
            score: f32,
            ids: (u64, u64),
            left: &'a str,
            right: &'a str,
        }
        let mut merges = Vec::new();
        for ((token, score), kind) in self.tokens.iter().zip(scores).zip(&self.types) {
            if matches!(*kind, UNKNOWN | CONTROL | BYTE) {
                continue;
            }
            let first = merges.len();
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(a), Some(b)) = (vocabulary.get(left), vocabulary.get(right)) {
                    let ids = (a.as_u64().unwrap_or(0), b.as_u64().unwrap_or(0));
                    merges.push(Merge { score: *score, ids, left, right });
                }
            }
            merges[first..].sort_by_key(|merge| merge.ids);
        }
        merges.sort_by(|a, b| b.score.total_cmp(&a.score));
        merges.iter().map(|merge| json!([merge.left, merge.right])).collect()
    }
}
