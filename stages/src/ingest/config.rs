//! `with` of an ingest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::one_or_many::OneOrMany;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IngestConfig {
    /// Files or globs (`*`, `?`, `**`), relative to the pipeline; addresses as `fetch` knows them, `https://…`, `hf://…` or
    /// `pkg:…`, pinned by `#blake3=DIGEST` at their end; or connect the input `files`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<OneOrMany>,
    /// How a file is read; `auto` goes by its name, then by its first bytes. gzip and zstd are always recognised.
    #[serde(default)]
    pub format: Format,
    /// For `format: lines`: a regular expression with named groups, `(?<name>…)`, that every line must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// For `format: lines`: lines that match this are no rows, such as comments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<String>,
    /// For `format: csv`: what separates the fields, one ASCII character such as `;`; a comma by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// For `format: text`: what makes one row.
    #[serde(default)]
    pub sample_by: SampleBy,
    /// What the rows look like; `auto` goes by the columns of the first row.
    #[serde(default)]
    pub shape: RowShape,
    /// Templates that make the text columns from `row`, such as `prompt: "{{ row.question }}"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapConfig>,
    /// Columns to carry along, as text.
    #[serde(default)]
    pub keep: Vec<String>,
    /// At most this many rows, from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u64>,
    /// A random subset, the same for the same rows in any order of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleConfig>,
    /// What a broken row does: `fail` stops, `skip` sets it aside in the output `rejected`.
    #[serde(default)]
    pub on_error: OnError,
    /// With `on_error: skip`: more broken rows than this fail after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_errors: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Auto,
    /// One JSON object a line.
    Jsonl,
    /// One JSON array of objects, or an object of objects, whose keys become the column `key`.
    Json,
    Csv,
    Tsv,
    Parquet,
    /// Plain text, cut by `sample_by`.
    Text,
    /// Lines read by `pattern`.
    Lines,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SampleBy {
    #[default]
    Line,
    /// Text between blank lines.
    Paragraph,
    /// A whole file.
    Document,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowShape {
    #[default]
    Auto,
    /// `messages`: a list of `{role, content}`.
    Chat,
    /// `conversations`: a list of `{from, value}`.
    Sharegpt,
    /// `prompt` and `completion`, both text or both lists of messages.
    PromptCompletion,
    /// `instruction`, `input`, `output`, and if they are there `system` and `history`.
    Alpaca,
    /// `text`.
    Text,
}

/// Either `text`, or `messages`, or `completion` with `prompt` and perhaps `system`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapConfig {
    /// Makes the prompt of a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Makes the completion, which is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// Makes a system message before prompt and completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Makes a plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Makes a JSON list of `{role, content}`, such as `{{ row.turns | tojson }}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// Rows to take.
    #[schemars(range(min = 1))]
    pub count: u64,
    /// Another seed takes other rows.
    #[serde(default)]
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    #[default]
    Fail,
    Skip,
}
