//! The files beside the weights: tokenizer, chat template, generation defaults, licence.

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use serde_json::{Map, Value, json};

use super::{ModelConfig, ModelFiles, write_json};
use crate::gguf::{GgufFile, MetaValue};
use crate::tokenizer::Tokenizer;

/// Copied as they are. Anything else in a model directory belongs to its weights or describes them.
const COMPANIONS: [&str; 16] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "USE_POLICY.md",
];

/// Gives a new model directory the companions of `files`: copies of a directory's, or what a GGUF header says written as
/// transformers reads it.
///
/// # Errors
/// A tokenizer that cannot be expressed, or a read or write error.
pub fn copy_companions(files: &ModelFiles, directory: &Utf8Path) -> StageResult<()> {
    if let Some(source) = files.directory() {
        for name in COMPANIONS {
            let from = source.join(name);
            if from.is_file() {
                // A plain copy would carry the store's read-only mode along.
                fs_err::write(directory.join(name), fs_err::read(from)?)?;
            }
        }
        return Ok(());
    }
    let Some(file) = files.gguf() else { return Ok(()) };
    write_tokenizer(file, files.config(), directory)?;
    write_generation_config(files.config(), directory)?;
    if let Some(license) = file.metadata("general.license").and_then(MetaValue::as_str) {
        // A model card that says nothing but where the weights come from and under which licence.
        let name = file.metadata("general.name").and_then(MetaValue::as_str).unwrap_or("a GGUF file");
        let card = format!("---\nlicense: {license}\n---\n\nMade by Luthier from {name}.\n");
        fs_err::write(directory.join("README.md"), card)?;
    }
    Ok(())
}

/// tokenizer.json with exactly the rules that [`Tokenizer`] follows, so every reader gets the same ids.
fn write_tokenizer(file: &GgufFile, config: &ModelConfig, directory: &Utf8Path) -> StageResult<()> {
    let tokenizer = Tokenizer::from_gguf(file)?;
    fs_err::write(directory.join("tokenizer.json"), tokenizer.to_json())?;
    let tree: Value = serde_json::from_str(tokenizer.to_json())
        .map_err(|error| StageError::new("tokenizer::json", "the tokenizer does not serialise").caused_by(error))?;
    let decoder: Map<String, Value> = tree["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|token| {
            let mut entry = token.clone();
            let id = entry.as_object_mut().and_then(|entry| entry.shift_remove("id"));
            (id.unwrap_or_default().to_string(), entry)
        })
        .collect();
    let adds = |which: &str| {
        tree["post_processor"]["single"].as_array().is_some_and(|single| {
            let edge = if which == "bos" { single.first() } else { single.last() };
            edge.is_some_and(|edge| edge.get("SpecialToken").is_some())
        })
    };
    let mut json = json!({
        "add_bos_token": adds("bos"),
        "add_eos_token": adds("eos"),
        "added_tokens_decoder": decoder,
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.max_positions,
        // The class that takes tokenizer.json as it is, whatever the family.
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    for (key, name) in [("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")]
    {
        let id = file.metadata(&format!("tokenizer.ggml.{name}_token_id")).and_then(MetaValue::as_u64);
        if let Some(token) = id.and_then(|id| u32::try_from(id).ok()).and_then(|id| tokenizer.token(id)) {
            json[key] = json!(token);
        }
    }
    if let Some(template) = file.metadata("tokenizer.chat_template").and_then(MetaValue::as_str) {
        json["chat_template"] = json!(template);
        fs_err::write(directory.join("chat_template.jinja"), template)?;
    }
    write_json(&directory.join("tokenizer_config.json"), &json)
}

fn write_generation_config(config: &ModelConfig, directory: &Utf8Path) -> StageResult<()> {
    let mut json = json!({"_from_model_config": true});
    if let Some(bos) = config.bos_id {
        json["bos_token_id"] = json!(bos);
    }
    match config.eos_ids.as_slice() {
        [] => {}
        [one] => json["eos_token_id"] = json!(one),
        many => json["eos_token_id"] = json!(many),
    }
    if let Some(pad) = config.pad_id {
        json["pad_token_id"] = json!(pad);
    }
    write_json(&directory.join("generation_config.json"), &json)
}
