//! What a plugin says about itself, checked.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A plugin's own description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    pub about: String,
    /// The column it judges unless the pipeline names one; empty for the text of the dataset.
    pub text: String,
    /// Further columns it sees, in this order.
    pub reads: Vec<String>,
    pub scores: Vec<ScoreColumn>,
    pub reasons: Vec<String>,
    pub edits_text: bool,
    /// JSON Schema of the configuration.
    pub config_schema: Value,
}

/// A declared score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreColumn {
    pub name: String,
    pub kind: ScoreKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreKind {
    Real,
    Count,
    Flag,
}

/// A description as a guest gave it.
pub(crate) struct RawManifest {
    pub name: String,
    pub version: String,
    pub about: String,
    pub text: String,
    pub reads: Vec<String>,
    pub scores: Vec<ScoreColumn>,
    pub reasons: Vec<String>,
    pub edits_text: bool,
    pub config_schema: String,
}

impl RawManifest {
    /// Parses the schema and checks the rest.
    ///
    /// # Errors
    /// What is wrong with it, as a lowercase fragment.
    pub(crate) fn check(self) -> Result<Manifest, String> {
        let manifest = Manifest {
            config_schema: Manifest::parse_schema(&self.config_schema)?,
            name: self.name,
            version: self.version,
            about: self.about,
            text: self.text,
            reads: self.reads,
            scores: self.scores,
            reasons: self.reasons,
            edits_text: self.edits_text,
        };
        manifest.check()?;
        Ok(manifest)
    }
}

const MOST_NAMES: usize = 64;
const MOST_REASONS: usize = 255;
const LONGEST_NAME: usize = 100;
const LONGEST_SCHEMA: usize = 1 << 20;

impl Manifest {
    /// Holds the description to its bounds.
    ///
    /// # Errors
    /// What is wrong with it, as a lowercase fragment.
    pub fn check(&self) -> Result<(), String> {
        let name = |what: &str, text: &str| {
            if text.is_empty() || text.len() > LONGEST_NAME || text.chars().any(char::is_control) {
                Err(format!("{what} `{}` is empty, too long or has control characters", text.escape_debug()))
            } else {
                Ok(())
            }
        };
        name("the name", &self.name)?;
        if self.scores.len() > MOST_NAMES || self.reads.len() > MOST_NAMES {
            return Err(format!("it declares more than {MOST_NAMES} scores or columns"));
        }
        if self.reasons.len() > MOST_REASONS {
            return Err(format!("it declares {} reasons, the most are {MOST_REASONS}", self.reasons.len()));
        }
        self.reads.iter().try_for_each(|column| name("a column", column))?;
        self.scores.iter().try_for_each(|score| name("a score", &score.name))?;
        self.reasons.iter().try_for_each(|reason| name("a reason", reason))?;
        if self.about.len() > 10 * LONGEST_NAME || self.version.len() > LONGEST_NAME || self.text.len() > LONGEST_NAME {
            return Err("its description, version or text column is too long".to_owned());
        }
        if [&self.about, &self.version, &self.text].iter().any(|text| text.chars().any(char::is_control)) {
            return Err("its description, version or text column has control characters".to_owned());
        }
        let scores: Vec<&str> = self.scores.iter().map(|score| score.name.as_str()).collect();
        for (what, names) in [
            ("column", self.reads.iter().map(String::as_str).collect::<Vec<_>>()),
            ("score", scores),
            ("reason", self.reasons.iter().map(String::as_str).collect()),
        ] {
            let mut seen = std::collections::BTreeSet::new();
            if let Some(twice) = names.iter().find(|name| !seen.insert(**name)) {
                return Err(format!("it declares {what} `{twice}` twice"));
            }
        }
        Ok(())
    }

    /// Parses the schema text of a guest.
    ///
    /// # Errors
    /// It is not a JSON object, or too large.
    pub fn parse_schema(text: &str) -> Result<Value, String> {
        if text.len() > LONGEST_SCHEMA {
            return Err(format!("its configuration schema has {} bytes, the most are {LONGEST_SCHEMA}", text.len()));
        }
        match serde_json::from_str::<Value>(text) {
            Ok(schema) if schema.is_object() => Ok(schema),
            Ok(_) => Err("its configuration schema is not a JSON object".to_owned()),
            Err(error) => Err(format!("its configuration schema is not JSON: {error}")),
        }
    }
}
