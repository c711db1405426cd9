//! The tokenizer of the tiny model: three special tokens, the 256 bytes, and a few merges of common English pairs.

use camino::Utf8Path;
use luthier_formats::model_files::write_json;
use serde_json::{Map, Value, json};

/// ChatML.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}\
    {% endif %}";

const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

const MERGES: [&str; 45] = [
    "Ġ t", "Ġ a", "i n", "h e", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "n d", "Ġ w", "o r", "e s", "i s", "Ġ p",
    "e n", "i t", "o u", "Ġ o", "a n", "Ġ c", "in g", "Ġ i", "e d", "Ġ f", "Ġ b", "a l", "r o", "Ġa nd", "Ġt o",
    "Ġo f", "Ġ h", "Ġi s", "Ġw h", "l l", "Ġi n", "s t", "v er", "Ġ m", "Ġ d", "Ġ l", "u s", "Ġ :", "a s",
];

/// The printable stand-in of each byte in byte-level BPE.
fn byte_characters() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut spare = 256;
    (0u32..256)
        .map(|byte| {
            let code = if printable(byte) {
                byte
            } else {
                spare += 1;
                spare - 1
            };
            char::from_u32(code).expect("below the surrogates")
        })
        .collect()
}

/// All tokens by id.
#[must_use]
pub fn vocabulary() -> Vec<String> {
    let special = SPECIAL.iter().map(|token| (*token).to_owned());
    let bytes = byte_characters().into_iter().map(String::from);
    special.chain(bytes).chain(MERGES.iter().map(|merge| merge.replace(' ', ""))).collect()
}

/// All merges by rank, as `left right`.
#[must_use]
pub fn merges() -> Vec<String> {
    MERGES.iter().map(|merge| (*merge).to_owned()).collect()
}

fn added_token(content: &str) -> Value {
    json!({"content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true})
}

/// Writes tokenizer.json and tokenizer_config.json, the template inside the latter.
///
/// # Panics
/// If the directory cannot be written.
pub fn write_files(directory: &Utf8Path) {
    let vocabulary: Map<String, Value> =
        vocabulary().into_iter().enumerate().map(|(id, token)| (token, Value::from(id))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            let mut token = added_token(content);
            token["id"] = json!(id);
            token
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges(),
        },
    });
    write_json(&directory.join("tokenizer.json"), &tokenizer).expect("a writable directory");
    let decoder: Map<String, Value> =
        SPECIAL.iter().enumerate().map(|(id, content)| (id.to_string(), added_token(content))).collect();
    let config = json!({
        "add_prefix_space": false, "added_tokens_decoder": decoder, "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": false, "model_max_length": 256,
        "tokenizer_class": "GPT2Tokenizer",
    });
    write_json(&directory.join("tokenizer_config.json"), &config).expect("a writable directory");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_join_known_tokens_into_distinct_ones() {
        let vocabulary = vocabulary();
        assert_eq!(vocabulary.len(), 304);
        let distinct: std::collections::BTreeSet<&String> = vocabulary.iter().collect();
        assert_eq!(distinct.len(), 304);
        for merge in merges() {
            let (left, right) = merge.split_once(' ').expect("two parts");
            assert!(vocabulary.contains(&left.to_owned()) && vocabulary.contains(&right.to_owned()), "{merge}");
        }
    }
}
