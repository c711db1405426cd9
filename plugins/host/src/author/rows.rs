//! What a plugin says about rows of a file.

use std::collections::BTreeMap;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult, quoted};
use serde::Serialize;
use serde_json::Value;

use crate::batch::{TextBatch, TextColumn};
use crate::judge::{JudgeError, OnTrap};
use crate::plugin::Plugin;

/// What a plugin said about one row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowVerdict {
    /// In the file, from 1.
    pub line: usize,
    /// The judged text.
    pub text: String,
    pub keep: bool,
    pub reason: Option<String>,
    pub edited: Option<String>,
    pub scores: BTreeMap<String, f32>,
    /// The plugin failed on the row.
    pub failure: Option<String>,
}

/// Judges the rows of a file: JSON objects, one a line (`.jsonl`), with the columns that the plugin reads, or else every
/// line as a text.
///
/// # Errors
/// The file cannot be read, a line is not JSON, or the plugin refuses the configuration.
pub fn judge_file(plugin: &Plugin, config: &Value, file: &Utf8Path) -> StageResult<Vec<RowVerdict>> {
    let manifest = plugin.manifest();
    let judged = if manifest.text.is_empty() { "text" } else { &manifest.text };
    let rows = read_rows(file, judged)?;
    let column = |name: &str| {
        TextColumn::from_texts(rows.iter().map(|(_, row)| row.get(name).map_or("", String::as_str)))
            .ok_or_else(|| StageError::input("plugin::rows", "the rows have more than 4 GiB of text"))
    };
    let reads = manifest.reads.iter().map(|name| column(name)).collect::<StageResult<_>>()?;
    let batch = TextBatch { texts: column(judged)?, reads };
    let mut worker = plugin.open(config)?;
    let mut found = Vec::with_capacity(rows.len());
    for (row, (line, _)) in rows.into_iter().enumerate() {
        let text = batch.texts.get(row).to_owned();
        let mut verdict =
            RowVerdict { line, text, keep: false, reason: None, edited: None, scores: BTreeMap::new(), failure: None };
        match worker.judge(&batch.slice(row..row + 1), OnTrap::Fail) {
            Err(JudgeError::Open(error)) => return Err(error),
            Err(JudgeError::Row(failed)) => verdict.failure = Some(failed.fault.to_string()),
            Ok(verdicts) => {
                let reason = usize::from(verdicts.drop[0]).checked_sub(1).map(|at| manifest.reasons[at].clone());
                verdict.keep = reason.is_none();
                verdict.reason = reason;
                verdict.edited = verdicts.edits.into_iter().next().map(|(_, text)| text);
                let names = manifest.scores.iter().map(|score| score.name.clone());
                verdict.scores = names.zip(verdicts.scores).collect();
            }
        }
        found.push(verdict);
    }
    Ok(found)
}

/// The texts of a file as [`judge_file`] reads it.
///
/// # Errors
/// The file cannot be read, or a line is not JSON.
pub fn texts_of(file: &Utf8Path) -> StageResult<Vec<String>> {
    Ok(read_rows(file, "text")?.into_iter().filter_map(|(_, mut row)| row.remove("text")).collect())
}

/// The rows with their lines, from 1.
fn read_rows(file: &Utf8Path, judged: &str) -> StageResult<Vec<(usize, BTreeMap<String, String>)>> {
    let text = fs_err::read_to_string(file).map_err(|error| {
        StageError::input("plugin::rows", "the rows cannot be read")
            .hint(format!("name a file of lines of text, or of rows as {{\"{judged}\": \"…\"}} that ends in `.jsonl`"))
            .caused_by(error)
    })?;
    let jsonl = matches!(file.extension(), Some("jsonl" | "ndjson"));
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let row = match jsonl {
                true => json_row(line, judged).map_err(|error| {
                    error.at(file, index as u64 + 1, 0).hint(format!("write a row as {{\"{judged}\": \"…\"}}"))
                })?,
                false => BTreeMap::from([(judged.to_owned(), line.to_owned())]),
            };
            Ok((index + 1, row))
        })
        .collect()
}

/// An object of texts, among them `judged`; other values are written as JSON.
fn json_row(line: &str, judged: &str) -> StageResult<BTreeMap<String, String>> {
    let wrong = |what: String| StageError::input("plugin::rows", what);
    match serde_json::from_str(line) {
        Ok(Value::Object(row)) if !row.contains_key(judged) => {
            Err(wrong(format!("the row has no `{judged}`, which the plugin judges; it has [{}]", quoted(row.keys()))))
        }
        Ok(Value::Object(row)) => Ok(row
            .into_iter()
            .map(|(name, value)| {
                let text = match value {
                    Value::String(text) => text,
                    Value::Null => String::new(),
                    other => other.to_string(),
                };
                (name, text)
            })
            .collect()),
        Ok(_) => Err(wrong("a row is a JSON object, this is another value".to_owned())),
        Err(error) => Err(wrong(format!("not JSON: {error}"))),
    }
}

/// Texts to measure with when there are none: sentences of common words, the same in every run.
#[must_use]
pub fn sample_texts(rows: usize, words: usize) -> Vec<String> {
    const WORDS: &[&str] = &[
        "the", "of", "and", "wood", "to", "in", "violin", "a", "is", "string", "that", "bow", "it", "maker", "for",
        "was", "varnish", "on", "are", "spruce", "with", "as", "maple", "his", "they", "sound", "be", "at", "bridge",
        "one", "have", "this",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        // xorshift64: any order of words will do, as long as it is always the same.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    (0..rows)
        .map(|_| {
            let mut text = String::new();
            for word in 0..words {
                text.push_str(WORDS[next() % WORDS.len()]);
                text.push_str(match word % 12 {
                    11 => ".\n",
                    5 => ", ",
                    _ => " ",
                });
            }
            text
        })
        .collect()
}
