//! `env`, `resources`, `executor` and `retries`: what is said of a stage besides its parameters.

use std::collections::BTreeMap;

use luthier_core::{ExecutorSpec, Resources};

use crate::spec::{Block, Diagnostic, Entry, Node, NodeValue, ReadEnv, Span, unknown_key};

/// Overrides of what the kind declares, and the number of tries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    threads: Option<usize>,
    memory: Option<u64>,
    gpu: Option<u32>,
    time: Option<u64>,
    /// Where `resources.KEY` stands, for complaints about what it asks.
    pub asked_at: BTreeMap<&'static str, Span>,
    pub executor: Option<ExecutorSpec>,
    pub retries: Option<u32>,
}

impl Settings {
    pub fn apply(&self, resources: &mut Resources) {
        resources.threads = self.threads.unwrap_or(resources.threads);
        resources.memory = self.memory.unwrap_or(resources.memory);
        resources.gpu = self.gpu.unwrap_or(resources.gpu);
        resources.time = self.time.unwrap_or(resources.time);
    }

    /// Reads `resources:`, with references replaced.
    pub fn read_resources(&mut self, owner: &str, block: &Block, node: &Node, problems: &mut Vec<Diagnostic>) {
        let Some(entries) = node.entries() else {
            let message = format!("`resources` must be a mapping, found {}", node.describe());
            problems.push(
                wrong(message, block.key_span, "expected a mapping")
                    .hint("write it like `resources: {threads: 2, memory: 4GB}`"),
            );
            return;
        };
        for entry in entries {
            let Some(known) = RESOURCES.into_iter().find(|known| *known == entry.key) else {
                problems.push(unknown_key(entry, &format!("`resources` of {owner}"), &RESOURCES));
                continue;
            };
            self.asked_at.insert(known, entry.key_span);
            match known {
                "threads" => self.threads = unsigned(entry, problems).and_then(|count| usize::try_from(count).ok()),
                "memory" => self.memory = memory(entry, problems),
                "gpu" => self.gpu = gpu(entry, problems),
                _ => self.time = time(entry, problems),
            }
        }
    }

    /// Reads `executor:`, with references replaced.
    pub fn read_executor(&mut self, node: &Node, problems: &mut Vec<Diagnostic>) {
        self.executor = read_executor(node, problems);
    }

    /// Reads `retries:`, with references replaced.
    pub fn read_retries(&mut self, node: &Node, problems: &mut Vec<Diagnostic>) {
        match &node.value {
            NodeValue::Number(number) if number.as_u64().is_some_and(|count| count <= 100) => {
                self.retries = number.as_u64().and_then(|count| u32::try_from(count).ok());
            }
            _ => {
                let message = format!("`retries` must be a number from 0 to 100, found {}", node.describe());
                problems.push(wrong(message, node.span, "expected a number from 0 to 100"));
            }
        }
    }
}

const RESOURCES: [&str; 4] = ["threads", "memory", "gpu", "time"];

/// An executor's name, of a stage or of the pipeline.
pub(super) fn read_executor(node: &Node, problems: &mut Vec<Diagnostic>) -> Option<ExecutorSpec> {
    let Some(text) = node.text() else {
        let message = format!("`executor` must be a text, found {}", node.describe());
        problems.push(wrong(message, node.span, "expected a name such as `slurm`"));
        return None;
    };
    text.parse()
        .map_err(|error: luthier_core::ExecutorError| {
            problems
                .push(Diagnostic::new("spec::executor", error.message).at(node.span, "no executor").hint(error.hint));
        })
        .ok()
}

/// Reads `env:`: a list of variables to record, or a mapping of names to values, with references replaced.
pub(super) fn read_env(
    owner: &str,
    block: &Block,
    node: &Node,
    read: ReadEnv<'_>,
    problems: &mut Vec<Diagnostic>,
) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    match &node.value {
        NodeValue::List(names) => {
            for name in names {
                let Some(text) = name.text() else {
                    let message = format!("`env` lists names of variables, found {}", name.describe());
                    problems.push(wrong(message, name.span, "expected a name"));
                    continue;
                };
                match read(text) {
                    Some(value) => drop(found.insert(text.to_owned(), value)),
                    None => problems.push(
                        Diagnostic::new(
                            "spec::env",
                            format!("{owner} needs the environment variable `{text}`, which is not set"),
                        )
                        .at(name.span, "not set")
                        .hint(format!("set it, or give it a value here: `env: {{{text}: VALUE}}`")),
                    ),
                }
            }
        }
        NodeValue::Map(entries) => {
            for entry in entries {
                match entry.value.scalar_text() {
                    Some(text) => drop(found.insert(entry.key.clone(), text)),
                    None => {
                        let message = format!("`{}` must be a text, found {}", entry.key, entry.value.describe());
                        problems.push(wrong(message, entry.key_span, "expected a text"));
                    }
                }
            }
        }
        NodeValue::Null => {}
        _ => {
            let message = format!("`env` must be a list of names or a mapping, found {}", node.describe());
            problems.push(
                wrong(message, block.value.span, "expected a list").hint("write it like `env: [CUDA_VISIBLE_DEVICES]`"),
            );
        }
    }
    found
}

fn wrong(message: String, span: Span, label: &str) -> Diagnostic {
    Diagnostic::new("spec::wrong_type", message).at(span, label)
}

fn unsigned(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Option<u64> {
    let found = match &entry.value.value {
        NodeValue::Number(number) => number.as_u64(),
        _ => None,
    };
    if found.is_none() {
        let message = format!("`{}` must be a whole number, found {}", entry.key, entry.value.describe());
        problems.push(wrong(message, entry.value.span, "expected 0 or more"));
    }
    found
}

/// Bytes, or a text such as `8GB`, `512 MiB`.
fn memory(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Option<u64> {
    let found = match &entry.value.value {
        NodeValue::Number(number) => number.as_u64(),
        NodeValue::Text(text) => crate::format::parse_bytes(text),
        _ => None,
    };
    if found.is_none() {
        let message = format!("`memory` must be a number of bytes or a size, found {}", entry.value.describe());
        problems.push(wrong(message, entry.value.span, "expected a size").hint("write it like `8GB` or `512MiB`"));
    }
    found
}

/// A number of accelerators; `true` for one.
fn gpu(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Option<u32> {
    let found = match &entry.value.value {
        NodeValue::Bool(flag) => Some(u32::from(*flag)),
        NodeValue::Number(number) => number.as_u64().and_then(|count| u32::try_from(count).ok()),
        _ => None,
    };
    if found.is_none() {
        let message = format!("`gpu` must be true, false or a number of GPUs, found {}", entry.value.describe());
        problems.push(wrong(message, entry.value.span, "expected true, false or a number"));
    }
    found
}

/// Seconds, or a text such as `2h30m`.
fn time(entry: &Entry, problems: &mut Vec<Diagnostic>) -> Option<u64> {
    let found = match &entry.value.value {
        NodeValue::Number(number) => number.as_u64(),
        NodeValue::Text(text) => parse_seconds(text),
        _ => None,
    };
    let found = found.filter(|seconds| *seconds > 0);
    if found.is_none() {
        let message = format!("`time` must be a number of seconds or a time, found {}", entry.value.describe());
        problems.push(wrong(message, entry.value.span, "expected a time").hint("write it like `2h`, `90m` or `1h30m`"));
    }
    found
}

fn parse_seconds(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut seconds: u64 = 0;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = (rest[..split].parse::<u64>().ok()?, rest[split..].chars().next()?);
        let scale = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(scale)?)?;
        rest = rest[split + 1..].trim_start();
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::parse_seconds;
    use crate::format::parse_bytes;

    #[test]
    fn sizes_are_decimal_unless_they_say_otherwise() {
        assert_eq!(parse_bytes("8GB"), Some(8_000_000_000));
        assert_eq!(parse_bytes("512 MiB"), Some(512 << 20));
        assert_eq!(parse_bytes("1.5k"), Some(1500));
        assert_eq!(parse_bytes("12"), Some(12));
        assert_eq!(parse_bytes("GB"), None);
        assert_eq!(parse_bytes("8 parsecs"), None);
    }
    #[test]
    fn times_add_up() {
        assert_eq!(parse_seconds("90s"), Some(90));
        assert_eq!(parse_seconds("1h30m"), Some(5_400));
        assert_eq!(parse_seconds("1d 2h"), Some(93_600));
        assert_eq!(parse_seconds("90"), None);
        assert_eq!(parse_seconds("2 hours"), None);
        assert_eq!(parse_seconds("99999999999999999999d"), None);
    }
}
