//! From Arrow columns to the texts that steps judge.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use luthier_core::{StageError, StageResult, nearest};
use luthier_formats::dataset::{DatasetShape, column_text};
use luthier_plugins::TextColumn;
use serde_json::Value;

const MESSAGES: &str = "messages";

/// Which text of a row a step judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judged {
    /// One column as it is; the only one that can be edited.
    Column(String),
    /// Several columns, joined by a line break.
    Joined(Vec<String>),
    /// The contents of all messages of a chat, joined by a line break.
    Messages,
    /// The messages of a chat one by one, each of which can be edited.
    Turns,
}

impl Judged {
    /// The text of a dataset when nobody says which.
    pub fn default_of(shape: DatasetShape) -> Self {
        match shape {
            DatasetShape::Chat => Self::Messages,
            DatasetShape::PromptCompletion => Self::Column("completion".to_owned()),
            DatasetShape::Text => Self::Column("text".to_owned()),
        }
    }

    pub fn of(columns: &[String]) -> Self {
        match columns {
            [one] => Self::Column(one.clone()),
            several => Self::Joined(several.to_vec()),
        }
    }

    /// The columns that it is made of.
    pub fn columns(&self) -> Vec<String> {
        match self {
            Self::Column(name) => vec![name.clone()],
            Self::Joined(names) => names.clone(),
            Self::Messages | Self::Turns => vec![MESSAGES.to_owned()],
        }
    }

    /// Checks that the columns are there.
    pub fn check(&self, schema: &Schema, step: &str) -> StageResult<()> {
        match self {
            Self::Column(name) => check_column(schema, name, step),
            Self::Joined(names) => names.iter().try_for_each(|name| check_column(schema, name, step)),
            Self::Messages | Self::Turns => Ok(()),
        }
    }

    /// The texts of all rows.
    pub fn texts<'a>(&self, batch: &'a RecordBatch) -> StageResult<TextColumn<'a>> {
        match self {
            Self::Column(name) => texts_of(batch, name),
            Self::Joined(names) => {
                let columns: Vec<TextColumn<'_>> =
                    names.iter().map(|name| texts_of(batch, name)).collect::<StageResult<_>>()?;
                collect((0..batch.num_rows()).map(|row| {
                    let parts: Vec<&str> = columns.iter().map(|column| column.get(row)).collect();
                    parts.join("\n")
                }))
            }
            Self::Messages => {
                let messages = texts_of(batch, MESSAGES)?;
                collect(messages.iter().map(contents))
            }
            Self::Turns => texts_of(batch, MESSAGES),
        }
    }

    /// The texts of all rows as people read them.
    pub fn readable<'a>(&self, batch: &'a RecordBatch) -> StageResult<TextColumn<'a>> {
        if *self == Self::Turns { Self::Messages.texts(batch) } else { self.texts(batch) }
    }
}

pub(super) fn check_column(schema: &Schema, name: &str, step: &str) -> StageResult<()> {
    if schema.field_with_name(name).is_ok() || (is_part(name) && schema.field_with_name(MESSAGES).is_ok()) {
        return Ok(());
    }
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let error = StageError::input(
        "filter::missing_column",
        format!("step `{step}` reads column `{name}`, but the dataset has [`{}`]", names.join("`, `")),
    );
    Err(match nearest(name, names.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("add `keep: [{name}]` to the `ingest` stage, or name another column with `on:`")),
    })
}

/// The texts of one column: without a copy if it is text, else converted; empty where null.
pub(super) fn texts_of<'a>(batch: &'a RecordBatch, name: &str) -> StageResult<TextColumn<'a>> {
    if batch.column_by_name(name).is_none() && is_part(name) && batch.column_by_name(MESSAGES).is_some() {
        return collect(texts_of(batch, MESSAGES)?.iter().map(|messages| part(messages, name)));
    }
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| StageError::new("filter::missing_column", format!("column `{name}` vanished")))?;
    if column.data_type() == &DataType::Utf8 && column.null_count() == 0 {
        let strings = column.as_string::<i32>();
        let offsets = strings.value_offsets();
        let (start, end) = (offsets[0], offsets[offsets.len() - 1]);
        let data = &strings.value_data()[start as usize..end as usize];
        let rebased: Vec<u32> = offsets.iter().map(|at| (at - start) as u32).collect();
        if let Some(texts) = std::str::from_utf8(data).ok().and_then(|data| TextColumn::new(data, rebased)) {
            return Ok(texts);
        }
    }
    collect((0..column.len()).map(|row| column_text(column.as_ref(), row).into_owned()))
}

fn collect(texts: impl Iterator<Item = String>) -> StageResult<TextColumn<'static>> {
    let texts: Vec<String> = texts.collect();
    TextColumn::from_texts(texts.iter().map(String::as_str))
        .ok_or_else(|| StageError::input("filter::too_long", "a batch holds more than 4 GiB of text"))
}

/// Whether a chat has something that stands for this column of other shapes.
fn is_part(name: &str) -> bool {
    matches!(name, "prompt" | "completion")
}

/// `completion` of a chat is its last answer, `prompt` what stands before that, without system messages.
fn part(messages: &str, name: &str) -> String {
    let Ok(Value::Array(messages)) = serde_json::from_str::<Value>(messages) else { return String::new() };
    let is = |message: &Value, roles: &[&str]| message["role"].as_str().is_some_and(|role| roles.contains(&role));
    let answer = messages.iter().rposition(|message| is(message, &["assistant", "model"])).unwrap_or(messages.len());
    if name == "completion" {
        return messages.get(answer).map(content).unwrap_or_default();
    }
    let before = messages[..answer].iter().filter(|message| !is(message, &["system", "developer"]));
    before.map(content).collect::<Vec<_>>().join("\n")
}

/// The contents of the messages of a chat; what is no list of messages is taken as it is.
fn contents(messages: &str) -> String {
    let Ok(Value::Array(messages)) = serde_json::from_str::<Value>(messages) else { return messages.to_owned() };
    messages.iter().map(content).collect::<Vec<_>>().join("\n")
}

fn content(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(parts) if parts.iter().all(|part| part["text"].is_string()) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect()
        }
        other => other.to_string(),
    }
}

/// Bytes of text in the columns of the shape.
pub(super) fn text_bytes(batch: &RecordBatch, shape: DatasetShape) -> u64 {
    let bytes = |name: &&str| {
        batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()).map_or(0, |strings| {
            let offsets = strings.value_offsets();
            (offsets[offsets.len() - 1] - offsets[0]) as u64
        })
    };
    shape.columns().iter().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::{contents, part};

    #[test]
    fn a_chat_reads_as_its_contents() {
        let chat = r#"[{"role":"user","content":"hi"},{"role":"assistant","content":null},{"role":"tool","content":[1]},
               {"role":"user","content":[{"type":"text","text":"in "},{"type":"text","text":"parts"}]}]"#;
        assert_eq!(contents(chat), "hi\n\n[1]\nin parts");
        assert_eq!(contents("not JSON"), "not JSON");
        assert_eq!((part("not JSON", "prompt"), part("[]", "completion")), (String::new(), String::new()));
    }

    #[test]
    fn a_chat_has_a_prompt_and_a_completion() {
        let chat = r#"[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},
               {"role":"user","content":"c"},{"role":"assistant","content":"d"},{"role":"user","content":"e"}]"#;
        assert_eq!((part(chat, "prompt").as_str(), part(chat, "completion").as_str()), ("a\nb\nc", "d"));
        let open = r#"[{"role":"user","content":"a"}]"#;
        assert_eq!((part(open, "prompt").as_str(), part(open, "completion").as_str()), ("a", ""));
    }
}
