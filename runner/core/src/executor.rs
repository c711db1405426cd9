//! Where a stage executes, as a pipeline file or the command line says it. Never part of a key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `local`, `child`, `slurm`, `slurm:ARGUMENTS` or `external:COMMAND`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ExecutorSpec {
    /// In the runner's own process.
    Local,
    /// In a process of its own on this machine: a crash or an out-of-memory kill is that stage's failure.
    Child,
    /// As a Slurm job; `arguments` are handed to `sbatch`.
    Slurm { arguments: Vec<String> },
    /// By a program that speaks the protocol of `luthier_executors::External`.
    External { command: Vec<String> },
}

/// A text that names no executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorError {
    pub message: String,
    pub hint: String,
}

impl ExecutorError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for ExecutorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ExecutorError {}

const NAMES: [&str; 4] = ["local", "child", "slurm", "external"];

impl ExecutorSpec {
    /// On this machine, so that its threads, memory and accelerators are what counts.
    #[must_use]
    pub const fn is_here(&self) -> bool {
        matches!(self, Self::Local | Self::Child)
    }
}

impl FromStr for ExecutorSpec {
    type Err = ExecutorError;

    fn from_str(text: &str) -> Result<Self, ExecutorError> {
        let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        match (name.trim(), rest) {
            ("local", None) => Ok(Self::Local),
            ("child", None) => Ok(Self::Child),
            (name @ ("local" | "child"), Some(_)) => {
                Err(ExecutorError::new(format!("executor `{name}` takes no arguments"), format!("write `{name}`")))
            }
            ("slurm", rest) => Ok(Self::Slurm { arguments: words(rest.unwrap_or_default())? }),
            ("external", rest) => {
                let command = words(rest.unwrap_or_default())?;
                if command.is_empty() {
                    return Err(ExecutorError::new(
                        "executor `external` names no program",
                        "write the program after a colon, as in `external:./executor.py`",
                    ));
                }
                Ok(Self::External { command })
            }
            (other, _) => Err(ExecutorError::new(
                format!("there is no executor `{other}`"),
                match crate::nearest(other, NAMES) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "executors are `local`, `child`, `slurm`, `slurm:SBATCH-ARGUMENTS` and `external:COMMAND`"
                        .to_owned(),
                },
            )),
        }
    }
}

/// Splits at blanks; single and double quotes keep a word together.
fn words(text: &str) -> Result<Vec<String>, ExecutorError> {
    let mut found: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => found.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(ExecutorError::new(
            format!("a quote is left open in `{text}`"),
            format!("close it with another `{open}`"),
        ));
    }
    found.extend(word);
    Ok(found)
}

fn join(words: &[String]) -> String {
    let quoted = words.iter().map(|word| {
        if word.is_empty() || word.contains([' ', '\t', '\n', '"']) {
            format!("'{word}'")
        } else if word.contains('\'') {
            format!("\"{word}\"")
        } else {
            word.clone()
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

impl fmt::Display for ExecutorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Child => f.write_str("child"),
            Self::Slurm { arguments } if arguments.is_empty() => f.write_str("slurm"),
            Self::Slurm { arguments } => write!(f, "slurm:{}", join(arguments)),
            Self::External { command } => write!(f, "external:{}", join(command)),
        }
    }
}

impl TryFrom<String> for ExecutorSpec {
    type Error = ExecutorError;

    fn try_from(text: String) -> Result<Self, ExecutorError> {
        text.parse()
    }
}

impl From<ExecutorSpec> for String {
    fn from(executor: ExecutorSpec) -> Self {
        executor.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in ["local", "child", "slurm", "slurm:--partition=gpu --comment='two words'", "external:./run.py -v"] {
            let spec: ExecutorSpec = text.parse().expect(text);
            assert_eq!(spec.to_string().parse(), Ok(spec.clone()), "{text}");
            assert_eq!(spec.to_string().replace("'--comment=two words'", "--comment='two words'"), text);
        }
        let spec: ExecutorSpec = "slurm:--comment 'two words' \"\"".parse().expect("quotes");
        let arguments = vec!["--comment".to_owned(), "two words".to_owned(), String::new()];
        assert_eq!(spec, ExecutorSpec::Slurm { arguments });
    }

    #[test]
    fn wrong_names_are_answered() {
        let say = |text: &str| {
            let error = text.parse::<ExecutorSpec>().expect_err(text);
            format!("{error}\nhint: {}", error.hint)
        };
        insta::assert_snapshot!(
            ["slrum", "kubernetes", "local:2", "external:", "external:'a b"].map(say).join("\n"),
            @r"
        there is no executor `slrum`
        hint: did you mean `slurm`?
        there is no executor `kubernetes`
        hint: executors are `local`, `child`, `slurm`, `slurm:SBATCH-ARGUMENTS` and `external:COMMAND`
        executor `local` takes no arguments
        hint: write `local`
        executor `external` names no program
        hint: write the program after a colon, as in `external:./executor.py`
        a quote is left open in `'a b`
        hint: close it with another `'`
        "
        );
    }
}
