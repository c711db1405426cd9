//! What a GGUF header says about a tokenizer: the `tokenizer.*` keys of a model, whatever form it has.
//!
//! From a GGUF file they are copied; from a Hugging Face directory they are derived from tokenizer.json, whose rules must
//! be recognised: a GGUF file can only name them, and a wrong name silently gives other tokens.

use camino::Utf8Path;
use indexmap::IndexMap;
use luthier_core::{StageError, StageResult, quoted};
use serde_json::Value;

use super::ModelFiles;
use crate::gguf::{MetaArray, MetaValue};
use crate::tokenizer::pre;

type Metadata = IndexMap<String, MetaValue>;

/// Kinds of tokens in `tokenizer.ggml.token_type`. Source: the GGUF specification.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// End-of-turn tokens of known chat formats; llama.cpp stops at `eot` as well as at `eos`.
const END_OF_TURN: [&str; 5] = ["<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"];

/// The `tokenizer.*` keys of a model. `name` overrides the name of the pre-tokenizer.
///
/// # Errors
/// No tokenizer.json, one that is damaged, or one whose rules GGUF has no name for.
pub fn tokenizer_metadata(files: &ModelFiles, name: Option<&str>) -> StageResult<Metadata> {
    if let Some(file) = files.gguf() {
        let mut metadata: Metadata = file
            .all_metadata()
            .iter()
            .filter(|(key, _)| key.starts_with("tokenizer."))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if let Some(name) = name {
            metadata.insert("tokenizer.ggml.pre".to_owned(), MetaValue::from(name));
        }
        return Ok(metadata);
    }
    let directory = files.directory().unwrap_or(files.path());
    DirectoryTokenizer::open(directory, files.config().vocab_size)?.metadata(files, name)
}

struct DirectoryTokenizer<'a> {
    directory: &'a Utf8Path,
    json: Value,
    config: Value,
    tokens: Vec<String>,
    types: Vec<i32>,
}

fn read_json(path: &Utf8Path) -> StageResult<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let json = serde_json::from_slice(&fs_err::read(path)?).map_err(|error| {
        StageError::input("tokenizer::bad_json", "is not JSON")
            .at(path, error.line() as u64, error.column() as u64)
            .hint("fetch the model again")
            .caused_by(error)
    })?;
    Ok(Some(json))
}

impl<'a> DirectoryTokenizer<'a> {
    fn open(directory: &'a Utf8Path, vocab_size: usize) -> StageResult<Self> {
        let Some(json) = read_json(&directory.join("tokenizer.json"))? else {
            return Err(StageError::input("tokenizer::missing", format!("`{directory}` has no tokenizer.json")).hint(
                "save the tokenizer with transformers: `AutoTokenizer.from_pretrained(path).save_pretrained(path)`",
            ));
        };
        let config = read_json(&directory.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        let mut tokenizer = Self { directory, json, config, tokens: Vec::new(), types: Vec::new() };
        tokenizer.read_tokens(vocab_size)?;
        Ok(tokenizer)
    }

    fn bad(&self, message: String) -> StageError {
        StageError::input("tokenizer::bad", format!("`{}/tokenizer.json` {message}", self.directory))
            .hint("fetch the model again, or save its tokenizer with a current transformers")
    }

    /// Fills all ids of the embedding: those the tokenizer lacks are padding.
    fn read_tokens(&mut self, vocab_size: usize) -> StageResult<()> {
        let mut tokens: Vec<Option<String>> = vec![None; vocab_size];
        let mut types = vec![NORMAL; vocab_size];
        let model = &self.json["model"];
        let Some(vocab) = model["vocab"].as_object() else {
            return Err(self.bad("has no `model.vocab` that maps tokens to ids".to_owned()));
        };
        let bytes = model["byte_fallback"] == true;
        let shown = |id: Option<u64>| id.map_or("that is no number".to_owned(), |id| id.to_string());
        let place = |id: Option<u64>, token: &str| match id.and_then(|id| usize::try_from(id).ok()) {
            Some(id) if id < vocab_size => Ok(id),
            _ => Err(self.bad(format!("gives `{token}` the id {}, but the model has {vocab_size} tokens", shown(id)))),
        };
        for (token, id) in vocab {
            let id = place(id.as_u64(), token)?;
            if bytes && is_byte(token) {
                types[id] = BYTE;
            }
            tokens[id] = Some(token.clone());
        }
        let unknown = model["unk_token"].as_str();
        if let Some(id) = unknown.and_then(|token| vocab.get(token)).and_then(Value::as_u64) {
            types[place(Some(id), "unk_token")?] = UNKNOWN;
        }
        for added in self.json["added_tokens"].as_array().into_iter().flatten() {
            let content = added["content"].as_str().unwrap_or_default();
            let id = place(added["id"].as_u64(), content)?;
            if types[id] != UNKNOWN {
                types[id] = if added["special"] == true { CONTROL } else { USER_DEFINED };
            }
            tokens[id] = Some(content.to_owned());
        }
        self.tokens = tokens
            .into_iter()
            .enumerate()
            .map(|(id, token)| {
                token.unwrap_or_else(|| {
                    types[id] = UNUSED;
                    format!("[PAD{id}]")
                })
            })
            .collect();
        self.types = types;
        Ok(())
    }

    fn id_of(&self, token: &str) -> Option<u32> {
        self.tokens.iter().position(|known| known == token).and_then(|id| u32::try_from(id).ok())
    }

    /// A special token of tokenizer_config.json: a string, or an object with `content`.
    fn special(&self, key: &str) -> Option<u32> {
        let value = &self.config[key];
        self.id_of(value.as_str().or_else(|| value["content"].as_str())?)
    }

    fn metadata(&self, files: &ModelFiles, name: Option<&str>) -> StageResult<Metadata> {
        let mut metadata = Metadata::new();
        let mut put = |key: &str, value: MetaValue| {
            metadata.insert(format!("tokenizer.{key}"), value);
        };
        if self.json["model"]["type"].as_str().is_some_and(|kind| kind != "BPE") {
            return Err(StageError::input(
                "tokenizer::unknown_kind",
                format!("`{}/tokenizer.json` is of type {}, expected BPE", self.directory, self.json["model"]["type"]),
            )
            .hint("use a model with a BPE tokenizer"));
        }
        let merges = self.merges()?;
        let sentencepiece = self.json["model"]["byte_fallback"] == true;
        if sentencepiece {
            put("ggml.model", MetaValue::from("llama"));
            put("ggml.pre", MetaValue::from(name.unwrap_or("default")));
        } else {
            put("ggml.model", MetaValue::from("gpt2"));
            put("ggml.pre", MetaValue::from(self.pre_name(name)?));
        }
        put("ggml.tokens", MetaValue::from(self.tokens.clone()));
        if sentencepiece {
            put("ggml.scores", MetaValue::Array(MetaArray::F32(self.scores(&merges))));
        }
        put("ggml.token_type", MetaValue::from(self.types.clone()));
        if !sentencepiece {
            put("ggml.merges", MetaValue::from(merges));
        }
        let config = files.config();
        let eos = self.special("eos_token").or_else(|| config.eos_ids.first().copied());
        let ids = [
            ("bos", self.special("bos_token").or(config.bos_id)),
            ("eos", eos),
            ("unknown", self.special("unk_token")),
            ("padding", self.special("pad_token").or(config.pad_id)),
            ("eot", self.end_of_turn(eos, &config.eos_ids)),
        ];
        for (name, id) in ids {
            if let Some(id) = id.filter(|id| (*id as usize) < self.tokens.len()) {
                put(&format!("ggml.{name}_token_id"), MetaValue::U32(id));
            }
        }
        put("ggml.add_bos_token", MetaValue::Bool(self.adds("bos")));
        put("ggml.add_eos_token", MetaValue::Bool(self.adds("eos")));
        put("ggml.add_space_prefix", MetaValue::Bool(sentencepiece && self.prepends_space()));
        self.put_templates(&mut put)?;
        Ok(metadata)
    }

    fn pre_name(&self, name: Option<&str>) -> StageResult<String> {
        if let Some(name) = name {
            return Ok(name.to_owned());
        }
        if let Some(known) = pre::name_of(&self.json) {
            return Ok(known.to_owned());
        }
        Err(StageError::input(
            "tokenizer::unknown_pre",
            format!(
                "`{}/tokenizer.json` cuts text by rules that none of the known names stands for ({})",
                self.directory,
                quoted(pre::KNOWN)
            ),
        )
        .hint("if llama.cpp knows these rules by a name, set `pre: NAME`; a wrong one silently gives other tokens"))
    }

    /// As `left right`, whichever way tokenizer.json writes them.
    fn merges(&self) -> StageResult<Vec<String>> {
        let Some(merges) = self.json["model"]["merges"].as_array() else {
            return Err(self.bad("has no `model.merges`".to_owned()));
        };
        merges
            .iter()
            .map(|merge| match merge {
                Value::String(merge) => Ok(merge.clone()),
                Value::Array(pair) => match (pair.first().and_then(Value::as_str), pair.get(1).and_then(Value::as_str))
                {
                    // A space inside a part would be read as the separator; byte-level BPE writes it as `Ġ`.
                    (Some(left), Some(right)) => Ok(format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ"))),
                    _ => Err(self.bad(format!("has the merge {merge}, expected two strings"))),
                },
                other => Err(self.bad(format!("has the merge {other}, expected two strings"))),
            })
            .collect()
    }

    /// Scores in the order of the merges, which is all that SentencePiece's algorithm looks at.
    fn scores(&self, merges: &[String]) -> Vec<f32> {
        let mut ranks: IndexMap<String, usize> = IndexMap::new();
        for (rank, merge) in merges.iter().enumerate() {
            if let Some((left, right)) = merge.split_once(' ') {
                ranks.entry(format!("{left}{right}")).or_insert(rank);
            }
        }
        let last = merges.len();
        let score = |(token, kind): (&String, &i32)| match (kind, ranks.get(token)) {
            (&NORMAL, Some(rank)) => -(*rank as f32),
            (&NORMAL, None) => -(last as f32) - 1.0,
            _ => 0.0,
        };
        self.tokens.iter().zip(&self.types).map(score).collect()
    }

    fn end_of_turn(&self, eos: Option<u32>, all: &[u32]) -> Option<u32> {
        let named = END_OF_TURN[..4].iter().find_map(|token| self.id_of(token));
        named.or_else(|| all.get(1).copied()).filter(|id| Some(*id) != eos)
    }

    /// Whether encoding adds the token: as tokenizer_config.json says, else as the post-processor does.
    fn adds(&self, which: &str) -> bool {
        if let Some(flag) = self.config[format!("add_{which}_token")].as_bool() {
            return flag;
        }
        let post = &self.json["post_processor"];
        let steps: Vec<&Value> = match post["processors"].as_array() {
            Some(steps) => steps.iter().collect(),
            None => vec![post],
        };
        let single = steps.into_iter().find_map(|step| step["single"].as_array());
        let edge = single.and_then(|single| if which == "bos" { single.first() } else { single.last() });
        edge.is_some_and(|edge| edge.get("SpecialToken").is_some())
    }

    fn prepends_space(&self) -> bool {
        let normalizer = &self.json["normalizer"];
        let steps =
            normalizer["normalizers"].as_array().map_or_else(|| vec![normalizer], |steps| steps.iter().collect());
        let prepends = steps.iter().any(|step| step["type"] == "Prepend");
        let metaspace = &self.json["pre_tokenizer"];
        prepends || (metaspace["type"] == "Metaspace" && metaspace["prepend_scheme"] != "never")
    }

    fn put_templates(&self, put: &mut impl FnMut(&str, MetaValue)) -> StageResult<()> {
        let file = self.directory.join("chat_template.jinja");
        if file.is_file() {
            put("chat_template", MetaValue::from(fs_err::read_to_string(file)?));
            return Ok(());
        }
        match &self.config["chat_template"] {
            Value::String(template) => put("chat_template", MetaValue::from(template.as_str())),
            Value::Array(named) => {
                let mut names = Vec::new();
                for entry in named {
                    let (Some(name), Some(template)) = (entry["name"].as_str(), entry["template"].as_str()) else {
                        continue;
                    };
                    if name == "default" {
                        put("chat_template", MetaValue::from(template));
                    } else {
                        put(&format!("chat_template.{name}"), MetaValue::from(template));
                        names.push(name.to_owned());
                    }
                }
                if !names.is_empty() {
                    put("chat_templates", MetaValue::from(names));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// `<0x0A>`.
fn is_byte(token: &str) -> bool {
    token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}
