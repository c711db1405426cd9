//! The pre-tokenizers behind llama.cpp's `tokenizer.ggml.pre` names, as trees of `tokenizer.json`.
//!
//! Patterns are those of the models' own published tokenizer files.

use serde_json::{Value, json};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What a `pre` name stands for.
pub struct PreTokenizer {
    pub tree: Value,
    pub normalizer: Value,
    /// A piece that is a token as a whole is not merged from parts.
    pub ignore_merges: bool,
    /// Whether BOS is added when the file does not say.
    pub add_bos: bool,
}

/// The names that are understood, for messages.
pub const KNOWN: &[&str] = &["gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken"];

/// `None` for a name that is not known: guessing would change ids silently.
pub fn find(name: &str) -> Option<PreTokenizer> {
    let plain = |tree| PreTokenizer { tree, normalizer: Value::Null, ignore_merges: false, add_bos: false };
    Some(match name {
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "jais"
        | "granite-docling" | "trillion" => plain(byte_level(true)),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            plain(sequence([json!({"type": "Digits", "individual_digits": true}), byte_level(true)]))
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "lfm2" => {
            PreTokenizer { ignore_merges: true, add_bos: true, ..plain(split(LLAMA3)) }
        }
        "qwen2" | "deepseek-r1-qwen" | "megrez" => {
            PreTokenizer { normalizer: json!({"type": "NFC"}), ..plain(split(QWEN2)) }
        }
        "gpt-4o" | "llama4" => plain(split(O200K)),
        "tekken" => PreTokenizer { ignore_merges: true, add_bos: true, ..plain(split(TEKKEN)) },
        _ => return None,
    })
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex})
}

fn sequence(parts: [Value; 2]) -> Value {
    json!({"type": "Sequence", "pretokenizers": parts})
}

fn split(pattern: &str) -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    sequence([split, byte_level(false)])
}

/// The name of the pre-tokenizer that a `tokenizer.json` spells out; `None` if no known name has its rules.
pub fn name_of(tokenizer: &Value) -> Option<&'static str> {
    let rules = rules_of(&tokenizer["pre_tokenizer"])?;
    let ignore_merges = tokenizer["model"]["ignore_merges"] == true;
    let same = |name: &&&str| {
        find(name)
            .is_some_and(|known| rules_of(&known.tree).as_ref() == Some(&rules) && known.ignore_merges == ignore_merges)
    };
    KNOWN.iter().find(same).copied()
}

/// What decides where text is cut: whether digits stand alone, and the expression if it is not GPT-2's.
fn rules_of(tree: &Value) -> Option<(bool, Option<String>)> {
    let steps: Vec<&Value> = match tree["type"].as_str()? {
        "Sequence" => tree["pretokenizers"].as_array()?.iter().collect(),
        _ => vec![tree],
    };
    let (mut digits, mut pattern, mut bytes) = (false, None, false);
    for step in steps {
        match step["type"].as_str()? {
            "Digits" if step["individual_digits"] == true && !bytes => digits = true,
            "Split" if pattern.is_none() && !bytes && step["behavior"] == "Isolated" && step["invert"] != true => {
                pattern = Some(step["pattern"]["Regex"].as_str()?.to_owned());
            }
            // GPT-2's expression after another one would cut twice; no known tokenizer does.
            "ByteLevel" if !bytes && step["add_prefix_space"] != true => {
                if step["use_regex"].as_bool().unwrap_or(true) == pattern.is_some() {
                    return None;
                }
                bytes = true;
            }
            _ => return None,
        }
    }
    bytes.then_some((digits, pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_recognised_by_its_own_rules() {
        for name in KNOWN {
            let known = find(name).unwrap();
            let tokenizer = json!({"pre_tokenizer": known.tree, "model": {"ignore_merges": known.ignore_merges}});
            assert_eq!(name_of(&tokenizer), Some(*name));
        }
    }

    #[test]
    fn unknown_rules_are_not_guessed() {
        let name = |pre_tokenizer: Value| name_of(&json!({"pre_tokenizer": pre_tokenizer}));
        assert_eq!(name(split(r"\w+")), None);
        assert_eq!(name(json!({"type": "Metaspace"})), None);
        assert_eq!(name(json!(null)), None);
        assert_eq!(name(sequence([json!({"type": "Punctuation"}), byte_level(true)])), None);
    }
}
