//! The ways in which byte-level BPE tokenizers cut text before merging, by the name a GGUF file gives them.
//!
//! GGUF stores a name, tokenizer.json the rules themselves. The rules are facts of each tokenizer, taken from the
//! published tokenizer.json of the family.

use serde_json::{Value, json};

/// One known pre-tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreTokenizer {
    /// `tokenizer.ggml.pre`; the first name is the one to write.
    pub names: &'static [&'static str],
    rule: Rule,
    /// Text is brought into NFC first.
    nfc: bool,
    /// A word that is a token as a whole is not split further.
    pub ignore_merges: bool,
    /// Whether a GGUF file that says nothing about it adds a BOS token.
    pub adds_bos: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// GPT-2's own expression, built into the byte-level step.
    ByteLevel,
    /// Each digit by itself, then GPT-2's expression.
    Digits,
    /// An expression of its own.
    Split(&'static str),
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const fn plain(names: &'static [&'static str], rule: Rule) -> PreTokenizer {
    PreTokenizer { names, rule, nfc: false, ignore_merges: false, adds_bos: false }
}

/// All known ones.
pub const PRE_TOKENIZERS: &[PreTokenizer] = &[
    plain(&["smollm", "starcoder", "refact", "command-r", "codeshell"], Rule::Digits),
    plain(&["gpt-2", "default", "phi-2", "jina-es", "jina-de"], Rule::ByteLevel),
    PreTokenizer {
        ignore_merges: true,
        adds_bos: true,
        ..plain(&["llama-bpe", "llama3", "llama-v3"], Rule::Split(LLAMA3))
    },
    PreTokenizer { nfc: true, ..plain(&["qwen2", "deepseek-r1-qwen"], Rule::Split(QWEN2)) },
    PreTokenizer { ignore_merges: true, adds_bos: true, ..plain(&["tekken"], Rule::Split(TEKKEN)) },
];

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

impl PreTokenizer {
    /// By its name in GGUF.
    #[must_use]
    pub fn from_gguf_name(name: &str) -> Option<&'static Self> {
        PRE_TOKENIZERS.iter().find(|known| known.names.contains(&name))
    }

    /// The one whose rules a tokenizer.json holds.
    #[must_use]
    pub fn from_json(tokenizer: &Value) -> Option<&'static Self> {
        let rule = rule_of(&tokenizer["pre_tokenizer"])?;
        let mut found = PRE_TOKENIZERS.iter().filter(|known| match known.rule {
            Rule::ByteLevel => rule == (false, None),
            Rule::Digits => rule == (true, None),
            Rule::Split(pattern) => rule == (false, Some(pattern.to_owned())),
        });
        found.next()
    }

    /// The `normalizer` of a tokenizer.json.
    #[must_use]
    pub fn normalizer(&self) -> Value {
        if self.nfc { json!({"type": "NFC"}) } else { Value::Null }
    }

    /// The `pre_tokenizer` of a tokenizer.json.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self.rule {
            Rule::ByteLevel => byte_level(true),
            Rule::Digits => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true}, byte_level(true),
            ]}),
            Rule::Split(pattern) => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
                byte_level(false),
            ]}),
        }
    }
}

/// Whether digits are split, and the expression if it is not GPT-2's.
fn rule_of(pre_tokenizer: &Value) -> Option<(bool, Option<String>)> {
    let steps: Vec<&Value> = match pre_tokenizer["type"].as_str()? {
        "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.iter().collect(),
        _ => vec![pre_tokenizer],
    };
    let (mut digits, mut pattern, mut bytes) = (false, None, false);
    for step in steps {
        match step["type"].as_str()? {
            "Digits" if step["individual_digits"] == true && !bytes => digits = true,
            "Split" if pattern.is_none() && !bytes && step["behavior"] == "Isolated" => {
                pattern = Some(step["pattern"]["Regex"].as_str()?.to_owned());
            }
            "ByteLevel" if !bytes && step["add_prefix_space"] != true => {
                // GPT-2's expression after another one would cut twice; no known tokenizer does.
                let regex = step["use_regex"].as_bool().unwrap_or(true);
                if regex == pattern.is_some() {
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
        for known in PRE_TOKENIZERS {
            let tokenizer = json!({"pre_tokenizer": known.to_json()});
            assert_eq!(PreTokenizer::from_json(&tokenizer), Some(known));
            for name in known.names {
                assert_eq!(PreTokenizer::from_gguf_name(name), Some(known));
            }
        }
    }

    #[test]
    fn unknown_rules_are_not_guessed() {
        let other = json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated", "invert": false}, byte_level(false)]}});
        assert_eq!(PreTokenizer::from_json(&other), None);
        assert_eq!(PreTokenizer::from_json(&json!({"pre_tokenizer": {"type": "Metaspace"}})), None);
        assert_eq!(PreTokenizer::from_json(&json!({"pre_tokenizer": null})), None);
    }
}
