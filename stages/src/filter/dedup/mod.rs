//! Deduplication: the first of rows that are equal, or nearly, stays.

mod digest_set;
mod exact;
mod normalize;

use luthier_core::ConfigIssue;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

pub(super) use exact::ExactDedup;
pub(super) use normalize::Normalize;

/// How rows are compared: a method, or a mapping with its options.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum DedupConfig {
    Method(DedupMethod),
    Options(DedupOptions),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum DedupMethod {
    Exact,
}

/// A method and its options.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DedupOptions {
    /// `exact`: equal after normalisation.
    pub method: DedupMethod,
    /// What is not compared: `none` compares bytes; `space` (default for `exact`) Unicode composition and white space;
    /// `loose` also case, punctuation, accents and the value of numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
}

impl<'de> Deserialize<'de> for DedupConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_string() {
            serde_json::from_value(value).map(Self::Method).map_err(serde::de::Error::custom)
        } else {
            serde_json::from_value(value).map(Self::Options).map_err(serde::de::Error::custom)
        }
    }
}

impl DedupConfig {
    /// The options, each filled.
    pub fn options(&self) -> DedupOptions {
        match self {
            Self::Method(method) => DedupOptions { method: *method, normalize: None },
            Self::Options(options) => options.clone(),
        }
    }

    pub fn method(&self) -> &'static str {
        match self.options().method {
            DedupMethod::Exact => "exact",
        }
    }

    /// Everything that can change which rows stay.
    pub fn filled(&self) -> Value {
        let options = self.options();
        json!({"method": options.method, "normalize": options.normalize.unwrap_or(Normalize::Space)})
    }

    pub fn check(&self, _path: &str, _issues: &mut Vec<ConfigIssue>) {}
}
