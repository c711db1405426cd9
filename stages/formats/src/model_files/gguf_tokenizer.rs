//! tokenizer.json and tokenizer_config.json of a model that is a GGUF file, so that transformers gives the same ids.

use luthier_core::{StageError, StageResult};
use serde_json::{Map, Value, json};

use super::pre_tokenizer::{PRE_TOKENIZERS, PreTokenizer};
use super::sentencepiece;
use crate::gguf::{GgufFile, MetaValue};

/// Kinds of tokens in `tokenizer.ggml.token_type`.
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const UNUSED: i32 = 5;

/// The vocabulary of a GGUF file, checked: every id that the header names exists.
pub(super) struct GgufVocabulary<'a> {
    file: &'a GgufFile,
    pub tokens: &'a [String],
    pub types: Vec<i32>,
}

impl<'a> GgufVocabulary<'a> {
    pub(super) fn read(file: &'a GgufFile) -> StageResult<Self> {
        let tokens = file.require("tokenizer.ggml.tokens", "a list of strings", MetaValue::as_strings)?;
        let types = match file.metadata("tokenizer.ggml.token_type") {
            None => vec![1; tokens.len()],
            Some(_) => file.require("tokenizer.ggml.token_type", "a list of integers", MetaValue::as_i32s)?,
        };
        if types.len() != tokens.len() {
            return Err(StageError::input(
                "gguf::bad_value",
                format!(
                    "`{}`: `tokenizer.ggml.token_type` has {} entries for {} tokens",
                    file.path(),
                    types.len(),
                    tokens.len()
                ),
            )
            .hint("convert the model again with a current converter"));
        }
        Ok(Self { file, tokens, types })
    }

    /// The token that a key names by id.
    pub(super) fn special(&self, name: &str) -> Option<(u32, &'a str)> {
        let id = self.file.metadata(&format!("tokenizer.ggml.{name}_token_id")).and_then(MetaValue::as_u64)?;
        let token = self.tokens.get(usize::try_from(id).ok()?)?;
        Some((u32::try_from(id).ok()?, token))
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.file.metadata(&format!("tokenizer.ggml.{name}")).and_then(MetaValue::as_bool)
    }

    fn added_tokens(&self) -> Vec<(usize, Value)> {
        let added = self.types.iter().zip(self.tokens).enumerate();
        added
            .filter(|(_, (kind, _))| matches!(**kind, CONTROL | USER_DEFINED))
            .map(|(id, (kind, content))| {
                let token = json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind == CONTROL,
                });
                (id, token)
            })
            .collect()
    }
}

/// The two files, as JSON.
pub(super) struct TokenizerFiles {
    pub tokenizer: Value,
    pub config: Value,
    pub chat_template: Option<String>,
}

/// Builds tokenizer.json and tokenizer_config.json.
///
/// # Errors
/// A kind of tokenizer or pre-tokenizer that is not known, or metadata that does not add up.
pub(super) fn from_gguf(file: &GgufFile, max_positions: usize) -> StageResult<TokenizerFiles> {
    let vocabulary = GgufVocabulary::read(file)?;
    let kind = file.require("tokenizer.ggml.model", "a string", MetaValue::as_str)?;
    let (mut tokenizer, adds_bos) = match kind {
        "gpt2" => byte_level(&vocabulary)?,
        "llama" => (sentencepiece::tokenizer_json(&vocabulary, file)?, true),
        other => {
            return Err(StageError::input(
                "tokenizer::unknown_kind",
                format!("`{}` has a tokenizer of kind `{other}`, expected `gpt2` or `llama`", file.path()),
            )
            .hint("use the model's Hugging Face directory instead"));
        }
    };
    let added = vocabulary.added_tokens();
    tokenizer["added_tokens"] = added.iter().map(|(_, token)| token.clone()).collect();
    let adds_bos = vocabulary.flag("add_bos_token").unwrap_or(adds_bos);
    let adds_eos = vocabulary.flag("add_eos_token").unwrap_or(false);
    tokenizer["post_processor"] =
        post_processor(vocabulary.special("bos").filter(|_| adds_bos), vocabulary.special("eos").filter(|_| adds_eos));
    let decoder: Map<String, Value> = added
        .into_iter()
        .map(|(id, mut token)| {
            if let Some(token) = token.as_object_mut() {
                token.remove("id");
            }
            (id.to_string(), token)
        })
        .collect();
    let chat_template = file.metadata("tokenizer.chat_template").and_then(MetaValue::as_str).map(str::to_owned);
    let mut config = json!({
        "add_bos_token": adds_bos,
        "add_eos_token": adds_eos,
        "added_tokens_decoder": decoder,
        "clean_up_tokenization_spaces": false,
        "model_max_length": max_positions,
        // The class that takes tokenizer.json as it is, whatever the family.
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    for (key, name) in [("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")]
    {
        if let Some((_, token)) = vocabulary.special(name) {
            config[key] = json!(token);
        }
    }
    if let Some(template) = &chat_template {
        config["chat_template"] = json!(template);
    }
    Ok(TokenizerFiles { tokenizer, config, chat_template })
}

fn post_processor(bos: Option<(u32, &str)>, eos: Option<(u32, &str)>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special = |token: Option<(u32, &str)>, kind: u8| {
        token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": kind}}))
    };
    let sequence = |name: &str, kind: u8| json!({"Sequence": {"id": name, "type_id": kind}});
    let one = |name: &str, kind: u8| {
        special(bos, kind).into_iter().chain([sequence(name, kind)]).chain(special(eos, kind)).collect::<Vec<_>>()
    };
    let tokens: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    let pair: Vec<Value> = one("A", 0).into_iter().chain(one("B", 1)).collect();
    json!({"type": "TemplateProcessing", "single": one("A", 0), "pair": pair, "special_tokens": tokens})
}

fn byte_level(vocabulary: &GgufVocabulary<'_>) -> StageResult<(Value, bool)> {
    let file = vocabulary.file;
    let name = file.metadata("tokenizer.ggml.pre").and_then(MetaValue::as_str).unwrap_or("default");
    let Some(pre) = PreTokenizer::from_gguf_name(name) else {
        let known: Vec<&str> = PRE_TOKENIZERS.iter().map(|known| known.names[0]).collect();
        return Err(StageError::input(
            "tokenizer::unknown_pre",
            format!(
                "`{}` cuts text by the rules called `{name}`, expected one of {}",
                file.path(),
                known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            ),
        )
        .hint("use the model's Hugging Face directory instead: its tokenizer.json holds the rules themselves"));
    };
    let merges = file.require("tokenizer.ggml.merges", "a list of strings", MetaValue::as_strings)?;
    // Unused ids only fill the embedding up; the tokenizer never had them.
    let entries = vocabulary.tokens.iter().zip(&vocabulary.types).enumerate();
    let entries = entries.filter(|(_, (_, kind))| !matches!(**kind, UNUSED | USER_DEFINED));
    let vocab: Map<String, Value> = entries.map(|(id, (token, _))| (token.clone(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": pre.normalizer(), "pre_tokenizer": pre.to_json(), "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": pre.ignore_merges,
            "vocab": vocab, "merges": merges,
        },
    });
    Ok((tokenizer, pre.adds_bos))
}
