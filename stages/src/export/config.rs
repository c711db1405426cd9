//! `with` of an export.

use std::collections::BTreeMap;

use luthier_core::ConfigIssue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::FileType;

fn yes() -> bool {
    true
}

fn default_file_type() -> FileType {
    FileType::Q4KM
}

fn default_prompts() -> Vec<String> {
    [
        "The capital of France is Paris. The capital of Japan is",
        "Question: what is 17 + 25?\nAnswer:",
        "def fibonacci(n):\n    if n < 2:\n        return n\n",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// What is checked after writing. The tensors themselves are always read back and compared.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckConfig {
    /// Token ids of probe texts must be equal between the source and the file.
    #[serde(default = "yes")]
    pub tokens: bool,
    /// Logits on the prompts are compared between the source and the file.
    #[serde(default = "yes")]
    pub logits: bool,
    /// Prompts for the comparison of logits; those of your own task tell most.
    #[serde(default = "default_prompts")]
    pub prompts: Vec<String>,
    /// The export fails if the mean Kullback-Leibler divergence, in nats per token, is above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_divergence: Option<f64>,
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self { tokens: true, logits: true, prompts: default_prompts(), max_divergence: None }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportConfig {
    /// What the weights are stored as, from `f32` down to `q2_k`.
    #[serde(default = "default_file_type", rename = "type")]
    pub file_type: FileType,
    /// `general.name`; by default the source's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Further metadata: string values under keys of your own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// llama.cpp's name of the pre-tokenizer, if it is not recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre: Option<String>,
    /// The checks after writing.
    #[serde(default)]
    pub check: CheckConfig,
    /// Also writes an Ollama Modelfile.
    #[serde(default = "yes")]
    pub modelfile: bool,
    /// `num_ctx` of the Modelfile; by default the model's context, 8192 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub context: Option<u32>,
    /// `SYSTEM` of the Modelfile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

/// Prefixes that the exporter itself fills.
const RESERVED: [&str; 3] = ["general.architecture", "general.file_type", "tokenizer."];

impl ExportConfig {
    /// What the schema cannot say.
    pub(super) fn check(&self) -> Vec<ConfigIssue> {
        let mut issues = Vec::new();
        for key in self.metadata.keys() {
            let path = format!("metadata.{key}");
            if RESERVED.iter().any(|reserved| key.starts_with(reserved)) {
                let mut issue = ConfigIssue::new(path, format!("`{key}` describes the file itself and cannot be set"))
                    .help("use a key of your own, such as `general.description` or `project.run`");
                issue.on_key = true;
                issues.push(issue);
            } else if key.is_empty() || !key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'))
            {
                let mut issue = ConfigIssue::new(path, format!("`{key}` is not a metadata key"))
                    .help("use lowercase words joined by `_` and `.`, such as `general.description`");
                issue.on_key = true;
                issues.push(issue);
            }
        }
        if self.check.logits && self.check.prompts.iter().all(|prompt| prompt.trim().is_empty()) {
            issues.push(
                ConfigIssue::new("check.prompts", "there is no prompt to compare logits on")
                    .help("give a prompt, or set `check: {logits: false}`"),
            );
        }
        if self.system.as_ref().is_some_and(|system| system.contains("\"\"\"")) {
            issues.push(ConfigIssue::new("system", "a Modelfile cannot hold `\"\"\"`").help("use other quotes"));
        }
        issues
    }
}
