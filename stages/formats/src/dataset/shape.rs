//! What the rows of a dataset mean.

use std::fmt;
use std::str::FromStr;

use arrow::datatypes::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use super::ID_COLUMN;

/// Which columns carry the text of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetShape {
    /// `messages`: a JSON list of `{role, content, …}`.
    Chat,
    /// `prompt` and `completion`.
    PromptCompletion,
    /// `text`.
    Text,
}

impl DatasetShape {
    pub const ALL: [Self; 3] = [Self::Chat, Self::PromptCompletion, Self::Text];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::PromptCompletion => "prompt_completion",
            Self::Text => "text",
        }
    }

    /// The text columns of the shape, besides `id`; all Utf8.
    #[must_use]
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Chat => &["messages"],
            Self::PromptCompletion => &["prompt", "completion"],
            Self::Text => &["text"],
        }
    }

    /// The shape whose columns `schema` has, if any.
    #[must_use]
    pub fn infer(schema: &Schema) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.missing(schema).is_empty())
    }

    /// The columns, `id` included, that `schema` lacks or has in another type than Utf8.
    #[must_use]
    pub fn missing(self, schema: &Schema) -> Vec<&'static str> {
        let wanted = std::iter::once(ID_COLUMN).chain(self.columns().iter().copied());
        wanted
            .filter(|name| schema.field_with_name(name).ok().is_none_or(|field| field.data_type() != &DataType::Utf8))
            .collect()
    }

    /// `id`, the columns of the shape, then `extra`.
    #[must_use]
    pub fn schema(self, extra: impl IntoIterator<Item = Field>) -> Schema {
        let own = std::iter::once(ID_COLUMN).chain(self.columns().iter().copied());
        let own = own.map(|name| Field::new(name, DataType::Utf8, false));
        Schema::new(own.chain(extra).collect::<Vec<_>>())
    }
}

impl fmt::Display for DatasetShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DatasetShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|shape| shape.as_str() == text).ok_or_else(|| {
            format!("`{text}` is not a dataset shape, expected one of `chat`, `prompt_completion`, `text`")
        })
    }
}
