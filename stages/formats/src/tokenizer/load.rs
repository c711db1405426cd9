//! Finding a model's tokenizer.

use std::collections::BTreeSet;
use std::sync::Arc;

use camino::Utf8Path;
use luthier_core::{Digest, StageError, StageResult};
use serde_json::Value;

use super::fast::FastBpe;
use super::{Tokenizer, gguf};
use crate::chat_template::{read_json, special_tokens};
use crate::gguf::GgufFile;

impl Tokenizer {
    /// The tokenizer of a Hugging Face model directory or of a GGUF file.
    ///
    /// # Errors
    /// None there, one of an unknown kind, or a damaged one.
    pub fn from_model(path: &Utf8Path) -> StageResult<Self> {
        if fs_err::metadata(path)?.is_dir() { from_directory(path) } else { Self::from_gguf(&GgufFile::open(path)?) }
    }

    /// The tokenizer in a GGUF file's metadata.
    ///
    /// # Errors
    /// As [`Self::from_model`].
    pub fn from_gguf(file: &GgufFile) -> StageResult<Self> {
        let vocabulary = gguf::read(file)?;
        build(file.path(), vocabulary.tree, vocabulary.size, vocabulary.bos, vocabulary.eos, vocabulary.special)
    }
}

fn from_directory(path: &Utf8Path) -> StageResult<Tokenizer> {
    let file = path.join("tokenizer.json");
    let Some(mut tree) = read_json(&file)? else {
        let error = StageError::input("tokenizer::missing", format!("`{path}` has no tokenizer.json"));
        let hint = if path.join("tokenizer.model").is_file() {
            "it has tokenizer.model only; load it once with transformers' AutoTokenizer and save it, which writes tokenizer.json"
        } else {
            "copy tokenizer.json and tokenizer_config.json from the model this one was made from"
        };
        return Err(error.hint(hint));
    };
    keep_offsets_whole(&mut tree);
    // Batches are not padded and samples are cut by policy, never silently by the tokenizer.
    tree["truncation"] = Value::Null;
    tree["padding"] = Value::Null;
    let special: BTreeSet<u32> = added(&tree).filter(|(_, special)| *special).map(|(id, _)| id).collect();
    let size = vocabulary_size(&tree);
    let mut tokenizer = build(&file, tree, size, None, Vec::new(), special)?;
    let named = special_tokens(path)?;
    tokenizer.bos = named.get("bos_token").and_then(|token| tokenizer.token_id(token));
    let mut eos: BTreeSet<u32> =
        named.get("eos_token").and_then(|token| tokenizer.token_id(token)).into_iter().collect();
    for name in ["generation_config.json", "config.json"] {
        let Some(json) = read_json(&path.join(name))? else { continue };
        let ids = match json.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.clone(),
            Some(id) => vec![id.clone()],
            None => Vec::new(),
        };
        let ids = ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok());
        eos.extend(ids.filter(|id| (*id as usize) < tokenizer.vocab_size));
    }
    tokenizer.eos = eos.into_iter().collect();
    tokenizer.digest = digest(&tokenizer.json, &tokenizer.eos);
    Ok(tokenizer)
}

fn build(
    path: &Utf8Path,
    tree: Value,
    size: usize,
    bos: Option<u32>,
    eos: Vec<u32>,
    special: BTreeSet<u32>,
) -> StageResult<Tokenizer> {
    let json = tree.to_string();
    let inner = tokenizers::Tokenizer::from_bytes(json.as_bytes()).map_err(|error| {
        StageError::input("tokenizer::bad_file", format!("the tokenizer of `{path}` cannot be used"))
            .hint("fetch the model again; if it stays so, its tokenizer uses a part that is not supported")
            .caused_by(error)
    })?;
    let digest = digest(&json, &eos);
    let fast = FastBpe::build(&tree).map(Arc::new);
    Ok(Tokenizer { inner, fast, json, vocab_size: size, bos, eos, special, digest })
}

fn digest(json: &str, eos: &[u32]) -> Digest {
    Digest::of(format!("{json}\0{eos:?}").as_bytes())
}

/// Turns `trim_offsets` off everywhere: a mask needs to know the space at the front of a token.
fn keep_offsets_whole(tree: &mut Value) {
    match tree {
        Value::Object(members) => {
            for (key, value) in members {
                if key == "trim_offsets" {
                    *value = Value::Bool(false);
                } else if key != "vocab" && key != "merges" {
                    keep_offsets_whole(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(keep_offsets_whole),
        _ => {}
    }
}

fn added(tree: &Value) -> impl Iterator<Item = (u32, bool)> + '_ {
    let tokens = tree.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    tokens.filter_map(|token| {
        let id = u32::try_from(token.get("id")?.as_u64()?).ok()?;
        Some((id, token.get("special").and_then(Value::as_bool).unwrap_or(false)))
    })
}

fn vocabulary_size(tree: &Value) -> usize {
    let vocabulary = match &tree["model"]["vocab"] {
        Value::Object(vocabulary) => {
            vocabulary.values().filter_map(Value::as_u64).max().map_or(0, |id| id as usize + 1)
        }
        // Unigram models list `[piece, score]`.
        Value::Array(pieces) => pieces.len(),
        _ => 0,
    };
    added(tree).map(|(id, _)| id as usize + 1).fold(vocabulary, usize::max)
}
