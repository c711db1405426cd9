//! `command`: runs any program with declared inputs, files and outputs, for what Luthier does not do itself.
//!
//! The program sees `PATH`, `HOME`, a temporary directory, a fixed locale and time zone, and the variables written in
//! `env:`; nothing else of the caller's environment, because what is not declared is not in the key. It runs in its own
//! process group, which ends with the stage.

mod process;
mod substitute;

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use luthier_core::{
    ArtifactKind, ArtifactName, ConfigIssue, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, SourceKind,
    SourceRef, Stage, StageContext, StageError, StageOutcome, StageResult, config_schema, parse_config,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use substitute::{Names, check, substitute};

/// Runs a program.
#[derive(Debug, Clone, Copy, Default)]
pub struct CommandStage;

/// `with` of a command.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CommandConfig {
    /// A line for `sh -c`, or a list of program and arguments for no shell. `${in.NAME}`, `${out.NAME}` and `${file.NAME}`
    /// become paths.
    run: Line,
    /// Outputs by name, each with its type.
    outputs: BTreeMap<String, ArtifactKind>,
    /// Files and directories of the project that the program reads, by name; their content is in the key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<String, String>,
    /// Environment variables for the program.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    /// Kill it after this many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    timeout: Option<u64>,
}

/// One shell line, or program and arguments.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(untagged)]
enum Line {
    Shell(String),
    Words(Vec<String>),
}

impl Line {
    fn texts(&self) -> Vec<(String, &str)> {
        match self {
            Self::Shell(line) => vec![("run".to_owned(), line.as_str())],
            Self::Words(words) => {
                words.iter().enumerate().map(|(index, word)| (format!("run[{index}]"), word.as_str())).collect()
            }
        }
    }
}

impl Stage for CommandStage {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn recipe_version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "runs any program with declared inputs, files and outputs"
    }

    fn schema(&self) -> Value {
        config_schema::<CommandConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/command.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        &[]
    }

    fn accepts_any_input(&self) -> bool {
        true
    }

    fn outputs_about(&self) -> &'static str {
        "as declared in `outputs`"
    }

    fn prepare(&self, with: &Value, env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let config: CommandConfig = parse_config(with)?;
        let mut issues = Vec::new();
        let mut outputs = Vec::new();
        for (name, kind) in &config.outputs {
            match ArtifactName::new(name.clone()) {
                Ok(name) => outputs.push(OutputDecl { name, kind: *kind }),
                Err(error) => issues.push(ConfigIssue::new(format!("outputs.{name}"), error.to_string())),
            }
        }
        if outputs.is_empty() {
            issues.push(ConfigIssue::new("outputs", "a command needs at least one output"));
        }
        for (path, text) in config.run.texts() {
            issues.extend(check(&path, text, &config.outputs, &config.files));
        }
        if config.run.texts().iter().all(|(_, text)| text.trim().is_empty()) {
            issues.push(ConfigIssue::new("run", "there is nothing to run"));
        }
        if !issues.is_empty() {
            return Err(issues);
        }
        let sources = config.files.iter().map(|(name, path)| {
            let tree = env.directory.join(path).is_dir();
            SourceRef {
                label: format!("files.{name}"),
                path: Utf8PathBuf::from(path),
                kind: if tree { SourceKind::Tree } else { SourceKind::File },
                config_path: format!("files.{name}"),
            }
        });
        let names: Vec<&String> = config.files.keys().collect();
        Ok(Prepared {
            key: json!({"run": config.run, "outputs": config.outputs, "files": names, "env": config.env}),
            sources: sources.collect(),
            config: serde_json::to_value(&config).unwrap_or_default(),
            outputs,
            resources: Resources::ONE_THREAD,
            numeric_class: None,
        })
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let config: CommandConfig = context.config()?;
        let mut names = Names::default();
        for (port, artifacts) in &context.request().inputs {
            for (index, artifact) in artifacts.iter().enumerate() {
                if index == 0 {
                    names.insert(format!("in.{port}"), artifact.path.clone());
                }
                names.insert(format!("in.{port}[{index}]"), artifact.path.clone());
            }
        }
        for output in &context.request().outputs {
            names.insert(format!("out.{}", output.name), context.output(output.name.as_str()));
        }
        for name in config.files.keys() {
            names.insert(format!("file.{name}"), context.source(&format!("files.{name}"))?.path.clone());
        }
        let words = match &config.run {
            Line::Shell(line) => {
                vec!["sh".to_owned(), "-c".to_owned(), substitute(line, &names, true)?]
            }
            Line::Words(words) => {
                words.iter().map(|word| substitute(word, &names, false)).collect::<StageResult<_>>()?
            }
        };
        process::run(context, &words, &config.env, config.timeout)?;
        let missing: Vec<String> = context
            .request()
            .outputs
            .iter()
            .filter(|output| !context.output(output.name.as_str()).exists())
            .map(|output| format!("`{}`", output.name))
            .collect();
        if !missing.is_empty() {
            return Err(StageError::new(
                "command::no_output",
                format!("the command ended well but did not write {}", missing.join(", ")),
            )
            .hint("write each output to its path, as in `> ${out.NAME}`"));
        }
        Ok(StageOutcome::new())
    }
}

#[cfg(test)]
mod tests;
