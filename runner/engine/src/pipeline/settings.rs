//! `env`, `resources` and `retries`: what is said of a stage besides its parameters.

use std::collections::BTreeMap;

use luthier_core::Resources;

use crate::spec::{Block, Diagnostic, Entry, Node, NodeValue, ReadEnv, unknown_key};

/// Overrides of what the kind declares, and the number of tries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Settings {
    threads: Option<usize>,
    memory: Option<u64>,
    gpu: Option<bool>,
    pub retries: Option<u32>,
}

impl Settings {
    pub fn apply(&self, resources: &mut Resources) {
        resources.threads = self.threads.unwrap_or(resources.threads);
        resources.memory = self.memory.unwrap_or(resources.memory);
        resources.gpu = self.gpu.unwrap_or(resources.gpu);
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
            match entry.key.as_str() {
                "threads" => self.threads = unsigned(entry, problems).and_then(|count| usize::try_from(count).ok()),
                "memory" => self.memory = memory(entry, problems),
                "gpu" => match entry.value.value {
                    NodeValue::Bool(flag) => self.gpu = Some(flag),
                    _ => {
                        let message = format!("`gpu` must be true or false, found {}", entry.value.describe());
                        problems.push(wrong(message, entry.value.span, "expected true or false"));
                    }
                },
                _ => {
                    problems.push(unknown_key(entry, &format!("`resources` of {owner}"), &["threads", "memory", "gpu"]))
                }
            }
        }
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

fn wrong(message: String, span: crate::spec::Span, label: &str) -> Diagnostic {
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
        NodeValue::Text(text) => parse_bytes(text),
        _ => None,
    };
    if found.is_none() {
        let message = format!("`memory` must be a number of bytes or a size, found {}", entry.value.describe());
        problems.push(wrong(message, entry.value.span, "expected a size").hint("write it like `8GB` or `512MiB`"));
    }
    found
}

fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = (text[..split].parse::<f64>().ok()?, text[split..].trim());
    let unit = unit.strip_suffix(['b', 'B']).unwrap_or(unit);
    let scale: f64 = match unit.to_ascii_lowercase().as_str() {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "ki" => 1024.0,
        "mi" => 1024.0 * 1024.0,
        "gi" => 1024.0 * 1024.0 * 1024.0,
        "ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number * scale;
    (bytes.is_finite() && bytes < 1e18).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn sizes_are_decimal_unless_they_say_otherwise() {
        assert_eq!(parse_bytes("8GB"), Some(8_000_000_000));
        assert_eq!(parse_bytes("512 MiB"), Some(512 << 20));
        assert_eq!(parse_bytes("1.5k"), Some(1500));
        assert_eq!(parse_bytes("12"), Some(12));
        assert_eq!(parse_bytes("GB"), None);
        assert_eq!(parse_bytes("8 parsecs"), None);
    }
}
