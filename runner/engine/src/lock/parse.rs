//! Text to lock. Line by line, so that every error has a line; blocks may come in any order, as merges leave them.

use std::collections::BTreeMap;

use camino::Utf8Path;
use luthier_core::{Artifact, ArtifactKind, ArtifactName, Digest, StageId};
use serde_json::Value;

use super::{FORMAT, Lock, LockError, LockStage};
use crate::fingerprint::path::unflatten;
use crate::fingerprint::{self, Fingerprint, InputPrint};

/// A `name: value` line.
struct Line<'a> {
    indent: usize,
    name: String,
    value: &'a str,
}

/// What the lines of one stage said, before it is known to be complete.
#[derive(Default)]
struct Draft {
    number: usize,
    fields: BTreeMap<String, String>,
    config: Vec<(String, Value)>,
    inputs: BTreeMap<String, BTreeMap<usize, InputPrint>>,
    sources: BTreeMap<String, Digest>,
    env: BTreeMap<String, Digest>,
    outputs: BTreeMap<ArtifactName, Artifact>,
    metrics: BTreeMap<String, String>,
}

pub(super) fn parse(text: &str, file: &Utf8Path) -> Result<Lock, LockError> {
    let syntax = |line: usize, message: String| LockError::Syntax { file: file.to_owned(), line, message };
    let mut version = None;
    let mut lock = Lock::default();
    let mut draft: Option<(StageId, Draft)> = None;
    let mut section = String::new();
    let mut in_stages = false;
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        if ["<<<<<<<", "=======", ">>>>>>>", "|||||||"].iter().any(|marker| raw.starts_with(marker)) {
            return Err(LockError::Conflict { file: file.to_owned(), line: number });
        }
        let Some(line) = split(raw).map_err(|message| syntax(number, message))? else { continue };
        match line.indent {
            0 => {
                in_stages = false;
                match line.name.as_str() {
                    "version" => {
                        let found: u64 =
                            line.value.parse().map_err(|_| syntax(number, "the version is not a number".to_owned()))?;
                        if found == 0 || found > FORMAT {
                            return Err(LockError::Version { file: file.to_owned(), found, known: FORMAT });
                        }
                        version = Some(found);
                    }
                    "stages" => in_stages = true,
                    other => {
                        return Err(syntax(number, format!("unknown key `{other}`, expected `version` or `stages`")));
                    }
                }
            }
            2 if in_stages => {
                finish(&mut lock, draft.take()).map_err(|(line, message)| syntax(line, message))?;
                let id = StageId::new(line.name).map_err(|error| syntax(number, error.to_string()))?;
                draft = Some((id, Draft { number, ..Draft::default() }));
                section.clear();
            }
            4 | 6 => {
                let Some((_, draft)) = draft.as_mut() else {
                    return Err(syntax(number, "this line belongs to no stage".to_owned()));
                };
                if line.indent == 4 {
                    section.clear();
                    if line.value.is_empty() {
                        section = line.name;
                    } else if draft.fields.insert(line.name.clone(), line.value.to_owned()).is_some() {
                        return Err(syntax(number, format!("`{}` stands twice in this stage", line.name)));
                    }
                } else {
                    enter(draft, &section, line).map_err(|message| syntax(number, message))?;
                }
            }
            _ => return Err(syntax(number, "unexpected indentation".to_owned())),
        }
    }
    finish(&mut lock, draft.take()).map_err(|(line, message)| syntax(line, message))?;
    if version.is_none() {
        return Err(syntax(1, "no `version:`, so this is not a lock".to_owned()));
    }
    Ok(lock)
}

fn split(raw: &str) -> Result<Option<Line<'_>>, String> {
    let rest = raw.trim_start_matches(' ');
    let indent = raw.len() - rest.len();
    let rest = rest.trim_end();
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(None);
    }
    let expected = || "expected `name: value`".to_owned();
    let (name, value) = if rest.starts_with('"') {
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        let name = stream.next().and_then(Result::ok).ok_or_else(expected)?;
        (name, rest[stream.byte_offset()..].strip_prefix(':').ok_or_else(expected)?)
    } else if let Some(name) = rest.strip_suffix(':').filter(|name| !name.contains(": ")) {
        (name.to_owned(), "")
    } else {
        let (name, value) = rest.split_once(": ").ok_or_else(expected)?;
        (name.to_owned(), value)
    };
    Ok(Some(Line { indent, name, value: value.trim() }))
}

fn digest(text: &str) -> Result<Digest, String> {
    text.parse().map_err(|error: luthier_core::DigestError| error.to_string())
}

fn kind(text: &str) -> Result<ArtifactKind, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|_| format!("`{text}` is not an artifact kind"))
}

fn enter(draft: &mut Draft, section: &str, line: Line<'_>) -> Result<(), String> {
    let Line { name, value, .. } = line;
    let twice = |name: &str| format!("`{name}` stands twice in `{section}`");
    let fresh = match section {
        "config" => {
            let leaf = serde_json::from_str(value).map_err(|_| format!("`{value}` is not a JSON value"))?;
            let fresh = draft.config.iter().all(|(known, _)| *known != name);
            draft.config.push((name.clone(), leaf));
            fresh
        }
        "inputs" => {
            let mut words = value.splitn(3, ' ');
            let kind = kind(words.next().unwrap_or_default())?;
            let digest = digest(words.next().unwrap_or_default())?;
            let print = InputPrint { kind, digest, name: words.next().map(str::to_owned) };
            let (port, index) = match name.strip_suffix(']').and_then(|name| name.rsplit_once('[')) {
                Some((port, index)) => {
                    (port.to_owned(), index.parse().map_err(|_| format!("`{name}` is not a port and an index"))?)
                }
                None => (name.clone(), 0),
            };
            draft.inputs.entry(port).or_default().insert(index, print).is_none()
        }
        "sources" => draft.sources.insert(name.clone(), digest(value)?).is_none(),
        "env" => draft.env.insert(name.clone(), digest(value)?).is_none(),
        "outputs" => {
            let words: Vec<&str> = value.split(' ').collect();
            let [kind_word, shape, size, digest_word] = words[..] else {
                return Err("expected kind, `file` or `tree`, size and digest".to_owned());
            };
            let artifact = Artifact {
                kind: kind(kind_word)?,
                digest: digest(digest_word)?,
                size: size.parse().map_err(|_| format!("`{size}` is not a size"))?,
                tree: match shape {
                    "tree" => true,
                    "file" => false,
                    other => return Err(format!("`{other}` is neither `file` nor `tree`")),
                },
            };
            let output = ArtifactName::new(name.clone()).map_err(|error| error.to_string())?;
            draft.outputs.insert(output, artifact).is_none()
        }
        "metrics" => {
            value.parse::<f64>().map_err(|_| format!("`{value}` is not a number"))?;
            draft.metrics.insert(name.clone(), value.to_owned()).is_none()
        }
        // A section that a later version of the same format adds.
        _ => true,
    };
    if fresh { Ok(()) } else { Err(twice(&name)) }
}

fn finish(lock: &mut Lock, draft: Option<(StageId, Draft)>) -> Result<(), (usize, String)> {
    let Some((id, draft)) = draft else { return Ok(()) };
    let number = draft.number;
    let fail = |message: String| (number, format!("stage `{id}`: {message}"));
    let field = |name: &str| draft.fields.get(name).ok_or_else(|| fail(format!("`{name}` is missing")));
    let mut inputs = BTreeMap::new();
    for (port, artifacts) in draft.inputs {
        if artifacts.keys().enumerate().any(|(expected, index)| expected != *index) {
            return Err(fail(format!("input `{port}` has a gap")));
        }
        inputs.insert(port, artifacts.into_values().collect());
    }
    let fingerprint = Fingerprint {
        version: fingerprint::FORMAT,
        kind: field("kind")?.clone(),
        recipe: field("recipe")?.parse().map_err(|_| fail("`recipe` is not a number".to_owned()))?,
        config: unflatten(draft.config).map_err(fail)?,
        inputs,
        sources: draft.sources,
        env: draft.env,
        numeric_class: draft.fields.get("class").cloned(),
    };
    let stage = LockStage {
        key: digest(field("key")?).map_err(fail)?,
        fingerprint,
        outputs: draft.outputs,
        metrics: draft.metrics,
    };
    match lock.stages.get(&id) {
        Some(other) if *other != stage => Err(fail("stands twice, with different content".to_owned())),
        _ => {
            lock.stages.insert(id, stage);
            Ok(())
        }
    }
}
