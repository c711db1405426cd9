//! Rows of a dataset as items to answer, and general text as documents.

use camino::Utf8Path;
use luthier_core::{ArtifactKind, InputArtifact, StageError, StageResult, nearest};
use luthier_formats::dataset::{DatasetReader, DatasetShape, column_text, optional_column, string_column};
use serde_json::{Value, json};

use super::config::{ForgettingConfig, MultipleChoiceConfig};

/// Rows read at a time.
const BATCH: usize = 1024;
/// General text that comes with the program: fourteen short passages of different kinds, written for it.
const ENGLISH: &str = include_str!("english.txt");

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub id: String,
    pub prompt: Prompt,
    /// The completion, the last assistant message, or the whole text.
    pub reference: String,
    pub choices: Option<Choices>,
}

/// What a model is given.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Messages before the answer.
    Messages(Vec<Value>),
    /// Nothing: the row is plain text.
    Nothing,
}

/// The choices of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Choices {
    pub texts: Vec<String>,
    pub gold: usize,
}

impl Prompt {
    /// The question to show.
    pub fn text(&self) -> String {
        match self {
            Self::Messages(messages) => messages
                .iter()
                .filter(|message| message["role"] != "system")
                .map(|message| message["content"].as_str().unwrap_or_default())
                .collect::<Vec<_>>()
                .join("\n"),
            Self::Nothing => String::new(),
        }
    }
}

/// Reads at most `limit` rows.
///
/// # Errors
/// A dataset that cannot be read, is empty, or lacks columns; a conversation that does not end with the assistant.
pub fn read_items(
    path: &Utf8Path,
    system: Option<&str>,
    choice: Option<&MultipleChoiceConfig>,
    limit: Option<u64>,
) -> StageResult<(DatasetShape, Vec<Item>)> {
    let reader = DatasetReader::open(path)?;
    let shape = reader.shape();
    let limit = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mut items = Vec::new();
    for batch in reader.batches(BATCH) {
        let batch = batch?;
        let ids = string_column(&batch, "id")?;
        for row in 0..batch.num_rows() {
            if items.len() == limit {
                return Ok((shape, items));
            }
            let id = ids.value(row).to_owned();
            let (prompt, reference) = match shape {
                DatasetShape::Text => (Prompt::Nothing, string_column(&batch, "text")?.value(row).to_owned()),
                DatasetShape::PromptCompletion => {
                    let question = json!({"role": "user", "content": string_column(&batch, "prompt")?.value(row)});
                    (
                        Prompt::Messages(with_system(system, vec![question])),
                        string_column(&batch, "completion")?.value(row).to_owned(),
                    )
                }
                DatasetShape::Chat => {
                    let (messages, answer) = split_chat(string_column(&batch, "messages")?.value(row), &id)?;
                    (Prompt::Messages(with_system(system, messages)), answer)
                }
            };
            let choices = match choice {
                Some(config) => Some(read_choices(&batch, row, &id, config)?),
                None => None,
            };
            items.push(Item { id, prompt, reference, choices });
        }
    }
    if items.is_empty() {
        return Err(StageError::input("eval::no_rows", "the dataset has no rows to evaluate")
            .hint("look at it with `luthier data show STAGE.OUTPUT`, or widen the split that makes it"));
    }
    Ok((shape, items))
}

fn with_system(system: Option<&str>, messages: Vec<Value>) -> Vec<Value> {
    match system {
        Some(system) if messages.first().is_none_or(|first| first["role"] != "system") => {
            std::iter::once(json!({"role": "system", "content": system})).chain(messages).collect()
        }
        _ => messages,
    }
}

fn split_chat(text: &str, id: &str) -> StageResult<(Vec<Value>, String)> {
    let wrong = |what: &str| {
        StageError::input("eval::chat", format!("row `{id}`: {what}"))
            .hint("end each conversation with the assistant's answer; it is the reference")
    };
    let Ok(Value::Array(mut messages)) = serde_json::from_str::<Value>(text) else {
        return Err(wrong("`messages` is not a JSON list"));
    };
    let last = messages.pop().ok_or_else(|| wrong("the conversation has no messages"))?;
    match (last["role"].as_str(), last["content"].as_str()) {
        (Some("assistant"), Some(content)) => Ok((messages, content.to_owned())),
        (role, _) => {
            Err(wrong(&format!("the last message is by `{}`, expected `assistant`", role.unwrap_or("nobody"))))
        }
    }
}

fn read_choices(
    batch: &arrow::array::RecordBatch,
    row: usize,
    id: &str,
    config: &MultipleChoiceConfig,
) -> StageResult<Choices> {
    let text = column_text(column(batch, &config.choices)?, row).into_owned();
    let wrong = |what: String| {
        StageError::input("eval::choices", format!("row `{id}`: {what}")).hint(
            "choices are a JSON list of texts; the answer is an index from 0, a letter from A, or the text itself",
        )
    };
    let texts: Vec<String> = serde_json::from_str(&text)
        .map_err(|_| wrong(format!("column `{}` holds `{text}`, expected a JSON list of texts", config.choices)))?;
    if texts.len() < 2 || texts.iter().any(String::is_empty) {
        return Err(wrong("at least two choices, none empty, are needed".to_owned()));
    }
    let answer = column_text(column(batch, &config.answer)?, row).trim().to_owned();
    let letter = match answer.as_bytes() {
        [letter @ (b'A'..=b'Z' | b'a'..=b'z')] => Some(usize::from(letter.to_ascii_uppercase() - b'A')),
        _ => None,
    };
    let gold = texts
        .iter()
        .position(|choice| *choice == answer)
        .or_else(|| answer.parse().ok())
        .or(letter)
        .filter(|index| *index < texts.len())
        .ok_or_else(|| wrong(format!("the answer `{answer}` is none of {} choices", texts.len())))?;
    Ok(Choices { texts, gold })
}

fn column<'a>(batch: &'a arrow::array::RecordBatch, name: &str) -> StageResult<&'a dyn arrow::array::Array> {
    optional_column(batch, name).ok_or_else(|| {
        let schema = batch.schema();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let error = StageError::input(
            "eval::missing_column",
            format!("the dataset has no column `{name}`; its columns are [`{}`]", names.join("`, `")),
        );
        match nearest(name, names.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("keep the column with `keep:` where the dataset is ingested"),
        }
    })
}

/// A document of general text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub id: String,
    pub text: String,
}

/// Documents of the `general` input, or of the text that comes with the program.
///
/// # Errors
/// The input cannot be read or holds no text.
pub fn read_general(input: Option<&InputArtifact>, config: &ForgettingConfig) -> StageResult<(String, Vec<Document>)> {
    let Some(input) = input else {
        return Ok(("builtin English".to_owned(), choose(paragraphs(ENGLISH), config)));
    };
    let all = match input.kind {
        ArtifactKind::Dataset => {
            let (_, items) = read_items(&input.path, None, None, None)?;
            items
                .into_iter()
                .map(|item| {
                    let question = item.prompt.text();
                    let text =
                        if question.is_empty() { item.reference } else { format!("{question}\n{}", item.reference) };
                    Document { id: item.id, text }
                })
                .collect()
        }
        _ => {
            let text = fs_err::read_to_string(&input.path).map_err(|error| {
                StageError::input("eval::general", format!("`{}` is not a file of UTF-8 text", input.from))
                    .caused_by(error)
                    .hint("give a text file, or a dataset with a `text` column")
            })?;
            paragraphs(&text)
        }
    };
    let count = all.len();
    let documents = choose(all, config);
    if documents.is_empty() {
        let least = config.min_bytes;
        let found = format!("`{}` holds {count} documents, none of at least {least} bytes", input.from);
        return Err(StageError::input("eval::general", found)
            .hint("give longer text, or lower `forgetting.min_bytes`; documents are separated by blank lines"));
    }
    Ok((input.from.clone(), documents))
}

/// Those that are long enough; if they are too many, some at even distances.
fn choose(mut documents: Vec<Document>, config: &ForgettingConfig) -> Vec<Document> {
    documents.retain(|document| document.text.len() >= config.min_bytes as usize);
    let (count, wanted) = (documents.len(), config.documents as usize);
    if count <= wanted {
        return documents;
    }
    let mut documents: Vec<Option<Document>> = documents.into_iter().map(Some).collect();
    (0..wanted).filter_map(|index| documents[index * count / wanted].take()).collect()
}

fn paragraphs(text: &str) -> Vec<Document> {
    text.split("\n\n")
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .enumerate()
        .map(|(index, text)| Document { id: format!("{}", index + 1), text: text.to_owned() })
        .collect()
}
