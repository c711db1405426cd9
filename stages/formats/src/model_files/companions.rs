//! The files beside the weights: tokenizer, chat template, generation defaults, licence.

use camino::Utf8Path;
use luthier_core::StageResult;
use serde_json::json;

use super::{ModelFiles, gguf_tokenizer, write_json};
use crate::gguf::MetaValue;

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
    let config = files.config();
    let tokenizer = gguf_tokenizer::from_gguf(file, config.max_positions)?;
    write_json(&directory.join("tokenizer.json"), &tokenizer.tokenizer)?;
    write_json(&directory.join("tokenizer_config.json"), &tokenizer.config)?;
    if let Some(template) = tokenizer.chat_template {
        fs_err::write(directory.join("chat_template.jinja"), template)?;
    }
    let mut generation = json!({"_from_model_config": true});
    if let Some(bos) = config.bos_id {
        generation["bos_token_id"] = json!(bos);
    }
    match config.eos_ids.as_slice() {
        [] => {}
        [one] => generation["eos_token_id"] = json!(one),
        many => generation["eos_token_id"] = json!(many),
    }
    if let Some(pad) = config.pad_id {
        generation["pad_token_id"] = json!(pad);
    }
    write_json(&directory.join("generation_config.json"), &generation)?;
    if let Some(license) = file.metadata("general.license").and_then(MetaValue::as_str) {
        // A model card that says nothing but where the weights' licence comes from.
        let name = file.metadata("general.name").and_then(MetaValue::as_str).unwrap_or("a GGUF file");
        fs_err::write(
            directory.join("README.md"),
            format!("---\nlicense: {license}\n---\n\nMade by Luthier from {name}.\n"),
        )?;
    }
    Ok(())
}
