//! Checks of a dataset: what the rows say.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use camino::Utf8Path;
use luthier_core::StageResult;
use luthier_formats::dataset::{DatasetReader, DatasetShape, column_text};
use serde_json::Value;

use super::Base;
use super::finding::{Check, Finding};
use super::tokens::is_empty_think;

/// Special tokens of widely used models, for datasets whose model is not named.
const USUAL_SPECIAL: &[&str] = &[
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|begin_of_text|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "[INST]",
    "[/INST]",
    "<s>",
    "</s>",
];

pub fn examine(path: &Utf8Path, base: Option<&Base>) -> StageResult<Vec<Finding>> {
    let reader = DatasetReader::open(path)?;
    let shape = reader.shape();
    let mut checks = Checks::new(base);
    let mut total = 0;
    for batch in reader.batches(4096) {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            total += 1;
            checks.look(&Row::of(&batch, row, shape, total));
        }
    }
    Ok(checks.finish(total))
}

/// One row as the checks see it.
struct Row {
    name: String,
    /// The columns of the shape.
    texts: Vec<String>,
    messages: Vec<Value>,
    shape: DatasetShape,
}

impl Row {
    fn of(batch: &RecordBatch, row: usize, shape: DatasetShape, number: usize) -> Self {
        let text = |name: &str| batch.column_by_name(name).map(|column| column_text(column.as_ref(), row).into_owned());
        let texts: Vec<String> = shape.columns().iter().filter_map(|name| text(name)).collect();
        let mut messages: Vec<Value> = match (shape, texts.first()) {
            (DatasetShape::Chat, Some(json)) => serde_json::from_str(json).unwrap_or_default(),
            _ => Vec::new(),
        };
        for content in messages.iter_mut().filter_map(|message| message.get_mut("content")) {
            if let Value::Array(parts) = content {
                let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
                *content = Value::String(texts.collect());
            }
        }
        let name = text("id").filter(|id| !id.is_empty()).unwrap_or_else(|| number.to_string());
        Self { name, texts, messages, shape }
    }

    fn role_of(message: &Value) -> &str {
        message.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    fn content_of(message: &Value) -> &str {
        message.get("content").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the texts, or the contents of the messages, satisfy `test`.
    fn find(&self, test: impl Fn(&str) -> bool) -> Option<&str> {
        match self.shape {
            // A message that calls tools has no content.
            DatasetShape::Chat => {
                self.messages.iter().filter_map(|message| message.get("content")?.as_str()).find(|text| test(text))
            }
            _ => self.texts.iter().map(String::as_str).find(|text| test(text)),
        }
    }

    /// What is asked and what is answered.
    fn prompt_and_answer(&self) -> Option<(String, String)> {
        match self.shape {
            DatasetShape::PromptCompletion => Some((self.texts.first()?.clone(), self.texts.get(1)?.clone())),
            DatasetShape::Chat => {
                let (last, before) = self.messages.split_last()?;
                matches!(Self::role_of(last), "assistant" | "model")
                    .then(|| (Value::from(before).to_string(), Self::content_of(last).to_owned()))
            }
            DatasetShape::Text => None,
        }
    }

    /// What is trained by default.
    fn answers(&self) -> Vec<&str> {
        match self.shape {
            DatasetShape::PromptCompletion => self.texts.get(1).map(String::as_str).into_iter().collect(),
            DatasetShape::Chat => {
                let said = |message: &&Value| matches!(Self::role_of(message), "assistant" | "model");
                self.messages.iter().filter(said).map(Self::content_of).collect()
            }
            DatasetShape::Text => Vec::new(),
        }
    }

    /// Text that a user, and not the model, wrote.
    fn user_text(&self) -> Vec<&str> {
        match self.shape {
            DatasetShape::Chat => self
                .messages
                .iter()
                .filter(|message| !matches!(Self::role_of(message), "assistant" | "model"))
                .map(Self::content_of)
                .collect(),
            _ => self.texts.first().map(String::as_str).into_iter().collect(),
        }
    }
}

/// The first row with a prompt and the digest of its answer, by the digest of the prompt: memory grows with the rows and
/// not with their texts.
type Seen = BTreeMap<[u8; 16], (u32, [u8; 16])>;

struct Checks {
    special: Vec<String>,
    seen_rows: BTreeSet<[u8; 16]>,
    answers: Seen,
    empty: Check,
    control: Check,
    padded: Check,
    copies: Check,
    contradicting: Check,
    special_in_text: Check,
    unanswered: Check,
    empty_think: Check,
    number: u32,
}

impl Checks {
    fn new(base: Option<&Base>) -> Self {
        let special = match base {
            Some(base) => {
                let ids = base.tokenizer.special_ids().iter();
                ids.filter_map(|id| base.tokenizer.token(*id)).filter(|token| token.len() > 1).collect()
            }
            None => USUAL_SPECIAL.iter().map(|token| (*token).to_owned()).collect(),
        };
        Self {
            special,
            seen_rows: BTreeSet::new(),
            answers: BTreeMap::new(),
            empty: Check::error(
                "empty fields",
                "have an empty field",
                "drop them in a filter, column by column: `- {plugin: \"builtin:length\", on: prompt, config: {min_words: 1}}`",
            ),
            control: Check::warning(
                "control or replacement characters",
                "have them",
                "look for a wrong encoding upstream",
            ),
            padded: Check::warning(
                "white space at the ends",
                "have it",
                "trim in the `map` of ingest: `{{ row.answer | trim }}`",
            ),
            copies: Check::warning("exact copies", "repeat an earlier row", "add `- dedup: exact` to the filter"),
            contradicting: Check::warning(
                "equal prompts with different answers",
                "answer a prompt that an earlier row answers otherwise",
                "keep one answer a prompt: `- {dedup: exact, on: prompt}` in a filter",
            ),
            special_in_text: Check::error(
                "special tokens in user text",
                "have one written out in text that a user wrote, which becomes a real one",
                "whoever writes the text could speak for the assistant; drop such rows in a filter: `- {plugin: \
                 \"builtin:regex\", on: prompt, config: {patterns: [\"<[|]im_(start|end)[|]>\"], action: drop}}`",
            ),
            unanswered: Check::error(
                "chats without an answer at the end",
                "do not end with a turn of the assistant",
                "cut the trailing turns off, or drop such rows",
            ),
            empty_think: Check::warning(
                "empty `<think>` in answers",
                "would train the model not to think",
                "give the rows their reasoning, or take the empty block out",
            ),
            number: 0,
        }
    }

    fn look(&mut self, row: &Row) {
        self.number += 1;
        let name = row.name.as_str();
        let first = || row.texts.first().cloned().unwrap_or_default();
        let blank = |text: &str| text.trim().is_empty();
        if row.texts.iter().any(|text| blank(text) || text == "[]") || row.find(blank).is_some() {
            self.empty.hit(name, first);
        }
        let control = |text: &str| text.chars().any(|c| c == '\u{fffd}' || (c.is_control() && !"\n\t\r".contains(c)));
        if let Some(text) = row.find(control) {
            self.control.hit(name, || text.to_owned());
        }
        if let Some(text) = row.find(|text| text != text.trim()) {
            self.padded.hit(name, || text.to_owned());
        }
        let whole = short_digest(row.texts.iter().map(String::as_str));
        let is_copy = !self.seen_rows.insert(whole);
        if is_copy {
            self.copies.hit(name, first);
        }
        if let Some((prompt, answer)) = row.prompt_and_answer() {
            let said = short_digest([answer.as_str()]);
            let (earlier, before) = *self.answers.entry(short_digest([prompt.as_str()])).or_insert((self.number, said));
            if before != said && !is_copy {
                self.contradicting.hit(name, || format!("as row {earlier}: {prompt} → {answer}"));
            }
        } else if row.shape == DatasetShape::Chat {
            self.unanswered.hit(name, first);
        }
        if let Some(answer) = row.answers().into_iter().find(|answer| is_empty_think(answer)) {
            self.empty_think.hit(name, || answer.to_owned());
        }
        let special = &self.special;
        let written = |text: &&str| special.iter().any(|token| text.contains(token.as_str()));
        if let Some(text) = row.user_text().into_iter().find(written) {
            self.special_in_text.hit(name, || text.to_owned());
        }
    }

    fn finish(self, total: usize) -> Vec<Finding> {
        [
            self.empty,
            self.unanswered,
            self.special_in_text,
            self.contradicting,
            self.copies,
            self.empty_think,
            self.control,
            self.padded,
        ]
        .map(|check| check.finish(total))
        .into()
    }
}

fn short_digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}
