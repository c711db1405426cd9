//! Finding a model's own template.

use std::collections::BTreeMap;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use serde_json::Value;

use super::ChatTemplate;
use crate::gguf::GgufFile;

const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

impl ChatTemplate {
    /// The template of a Hugging Face model directory (`chat_template.jinja`, or in `tokenizer_config.json`) or of a GGUF
    /// file; `None` if it has none.
    ///
    /// # Errors
    /// A file that cannot be read, or a template with a syntax error.
    pub fn from_model(path: &Utf8Path) -> StageResult<Option<Self>> {
        if fs_err::metadata(path)?.is_dir() { from_directory(path) } else { Self::from_gguf(&GgufFile::open(path)?) }
    }

    /// The template among a GGUF file's metadata.
    ///
    /// # Errors
    /// A template with a syntax error.
    pub fn from_gguf(file: &GgufFile) -> StageResult<Option<Self>> {
        let Some(source) = file.metadata("tokenizer.chat_template").and_then(|value| value.as_str()) else {
            return Ok(None);
        };
        let origin = format!("{}:tokenizer.chat_template", file.path().file_name().unwrap_or_default());
        Self::from_source(source, gguf_tokens(file), origin).map(Some)
    }
}

/// The special tokens that a template may name, of a model directory or a GGUF file.
///
/// # Errors
/// A file that cannot be read.
pub fn special_tokens(path: &Utf8Path) -> StageResult<BTreeMap<String, String>> {
    if fs_err::metadata(path)?.is_dir() {
        let config = read_json(&path.join("tokenizer_config.json"))?.unwrap_or_default();
        directory_tokens(path, &config)
    } else {
        Ok(gguf_tokens(&GgufFile::open(path)?))
    }
}

fn gguf_tokens(file: &GgufFile) -> BTreeMap<String, String> {
    let Some(tokens) = file.metadata("tokenizer.ggml.tokens").and_then(|value| value.as_strings()) else {
        return BTreeMap::new();
    };
    let keys = [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")];
    let named = keys.into_iter().filter_map(|(name, key)| {
        let id = file.metadata(&format!("tokenizer.ggml.{key}_token_id"))?.as_u64()?;
        Some((name.to_owned(), tokens.get(usize::try_from(id).ok()?)?.clone()))
    });
    named.collect()
}

fn from_directory(path: &Utf8Path) -> StageResult<Option<ChatTemplate>> {
    let config = read_json(&path.join("tokenizer_config.json"))?.unwrap_or_default();
    let tokens = directory_tokens(path, &config)?;
    let file = path.join("chat_template.jinja");
    if file.is_file() {
        let source = fs_err::read_to_string(&file)?;
        return ChatTemplate::from_source(source, tokens, "chat_template.jinja").map(Some);
    }
    let older = read_json(&path.join("chat_template.json"))?;
    for (json, origin) in
        [(older.as_ref(), "chat_template.json"), (Some(&config), "tokenizer_config.json:chat_template")]
    {
        if let Some(source) = json.and_then(|json| json.get("chat_template")).and_then(default_template) {
            return ChatTemplate::from_source(source, tokens, origin).map(Some);
        }
    }
    Ok(None)
}

/// One template, or of several the one named `default`.
fn default_template(value: &Value) -> Option<&str> {
    match value {
        Value::String(source) => Some(source),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
            default.or(named.first())?.get("template")?.as_str()
        }
        _ => None,
    }
}

fn directory_tokens(path: &Utf8Path, config: &Value) -> StageResult<BTreeMap<String, String>> {
    let map = read_json(&path.join("special_tokens_map.json"))?.unwrap_or_default();
    let mut tokens = BTreeMap::new();
    for source in [&map, config] {
        for name in TOKENS {
            let token = match source.get(name) {
                Some(Value::String(token)) => Some(token.as_str()),
                Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
                _ => None,
            };
            if let Some(token) = token {
                tokens.insert(name.to_owned(), token.to_owned());
            }
        }
    }
    Ok(tokens)
}

/// `None` if there is no such file.
pub(crate) fn read_json(path: &Utf8Path) -> StageResult<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs_err::read(path)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        StageError::input("model::bad_json", format!("`{}` is not JSON", path.file_name().unwrap_or_default()))
            .at(path, error.line() as u64, error.column() as u64)
            .hint("fetch the file again")
            .caused_by(error)
    })
}
