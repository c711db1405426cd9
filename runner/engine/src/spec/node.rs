//! YAML as a tree in which every key and value knows its bytes in the file.
//!
//! Serde would lose the spans at the first untyped value, and `with` blocks are untyped until a stage kind reads them;
//! so the file stays a tree of [`Node`]s, and each part of the runner takes from it by hand.

use serde_json::{Map, Number, Value};

use super::source::Span;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub value: NodeValue,
    pub span: Span,
}

/// A value of the YAML 1.2 core schema.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeValue {
    Null,
    Bool(bool),
    /// Finite.
    Number(Number),
    Text(String),
    List(Vec<Node>),
    /// In written order, without duplicate keys.
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Node,
}

impl Node {
    #[must_use]
    pub const fn new(value: NodeValue, span: Span) -> Self {
        Self { value, span }
    }

    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            NodeValue::Text(text) => Some(text),
            _ => None,
        }
    }

    #[must_use]
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            NodeValue::Map(entries) => Some(entries),
            _ => None,
        }
    }

    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self.value, NodeValue::Null)
    }

    #[must_use]
    pub const fn is_scalar(&self) -> bool {
        !matches!(self.value, NodeValue::List(_) | NodeValue::Map(_))
    }

    /// A scalar as text: numbers in their shortest form, nothing for null. `None` for lists and mappings.
    #[must_use]
    pub fn scalar_text(&self) -> Option<String> {
        match &self.value {
            NodeValue::Null => Some(String::new()),
            NodeValue::Bool(flag) => Some(flag.to_string()),
            NodeValue::Number(number) => Some(number.to_string()),
            NodeValue::Text(text) => Some(text.clone()),
            NodeValue::List(_) | NodeValue::Map(_) => None,
        }
    }

    /// What the value is, for messages: `the text `x``, `a list`.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.value {
            NodeValue::Null => "nothing".to_owned(),
            NodeValue::Bool(flag) => format!("`{flag}`"),
            NodeValue::Number(number) => format!("`{number}`"),
            NodeValue::Text(text) if text.chars().count() > 40 => "a text".to_owned(),
            NodeValue::Text(text) => format!("the text `{text}`"),
            NodeValue::List(_) => "a list".to_owned(),
            NodeValue::Map(_) => "a mapping".to_owned(),
        }
    }

    /// The value alone. Mappings are sorted by key, so nothing downstream can depend on the order or on comments.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match &self.value {
            NodeValue::Null => Value::Null,
            NodeValue::Bool(flag) => Value::Bool(*flag),
            NodeValue::Number(number) => Value::Number(number.clone()),
            NodeValue::Text(text) => Value::String(text.clone()),
            NodeValue::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            NodeValue::Map(entries) => {
                let mut sorted: Vec<&Entry> = entries.iter().collect();
                sorted.sort_by(|a, b| a.key.cmp(&b.key));
                Value::Object(
                    sorted.into_iter().map(|entry| (entry.key.clone(), entry.value.to_value())).collect::<Map<_, _>>(),
                )
            }
        }
    }

    /// The same value, all of it at another place: what `${…}` stands for is shown where it is used.
    #[must_use]
    pub fn moved_to(&self, span: Span) -> Self {
        let value = match &self.value {
            NodeValue::List(items) => NodeValue::List(items.iter().map(|item| item.moved_to(span)).collect()),
            NodeValue::Map(entries) => NodeValue::Map(
                entries
                    .iter()
                    .map(|entry| Entry { key: entry.key.clone(), key_span: span, value: entry.value.moved_to(span) })
                    .collect(),
            ),
            scalar => scalar.clone(),
        };
        Self { value, span }
    }

    /// The span of the key or value at a configuration path such as `steps[0].config.max` or `map["a.b"]`; where the
    /// path leaves the tree (a default that is not written), the last part that is there.
    #[must_use]
    pub fn find(&self, path: &str, on_key: bool) -> Span {
        let mut node = self;
        let mut key_span = None;
        let mut rest = path;
        while !rest.is_empty() {
            let Some((next, next_key, after)) = node.step(rest) else { break };
            node = next;
            key_span = next_key;
            rest = after;
        }
        match (on_key, rest.is_empty(), key_span) {
            (true, true, Some(span)) => span,
            // A whole block is too much to underline: its key says which one is meant.
            (_, _, Some(span)) if !node.is_scalar() && path != rest => span,
            _ => node.span,
        }
    }

    fn step<'a, 'p>(&'a self, path: &'p str) -> Option<(&'a Self, Option<Span>, &'p str)> {
        match &self.value {
            NodeValue::List(items) => {
                let (index, after) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                Some((item, None, after.strip_prefix('.').unwrap_or(after)))
            }
            NodeValue::Map(entries) => {
                let (entry, after) = match quoted_key(path) {
                    Some((key, after)) => (entries.iter().find(|entry| entry.key == key)?, after),
                    None => entries
                        .iter()
                        .filter_map(|entry| Some((entry, path.strip_prefix(entry.key.as_str())?)))
                        .filter(|(_, after)| after.is_empty() || after.starts_with(['.', '[']))
                        .max_by_key(|(entry, _)| entry.key.len())?,
                };
                Some((&entry.value, Some(entry.key_span), after.strip_prefix('.').unwrap_or(after)))
            }
            _ => None,
        }
    }
}

/// `["a.b"].c` as `a.b` and `.c`.
fn quoted_key(path: &str) -> Option<(String, &str)> {
    let quoted = path.strip_prefix('[')?;
    let mut keys = serde_json::Deserializer::from_str(quoted).into_iter::<String>();
    let key = keys.next()?.ok()?;
    let after = quoted.get(keys.byte_offset()..)?.strip_prefix(']')?;
    Some((key, after))
}
