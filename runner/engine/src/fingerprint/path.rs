//! Paths into a configuration, `steps[0].config.max`, and configurations as flat lists of leaves.
//!
//! A key that could be misread (empty, or with `.`, `[`, `]`, `"`) is written as `["key"]`, so every path names one
//! place and a list of leaves can be turned back into the value.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The path of member `key` of the object at `path`.
#[must_use]
pub fn member(path: &str, key: &str) -> String {
    if key.is_empty() || key.contains(['.', '[', ']', '"', '\n']) {
        format!("{path}[{}]", Value::String(key.to_owned()))
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The path of element `index` of the list at `path`.
#[must_use]
pub fn element(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Every scalar, empty list and empty object below `value`, with its path; members by name, elements by index.
#[must_use]
pub fn flatten(value: &Value) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    collect("", value, &mut leaves);
    leaves
}

fn collect(path: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort();
            for key in keys {
                collect(&member(path, key), &object[key], leaves);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                collect(&element(path, index), item, leaves);
            }
        }
        leaf => leaves.push((path.to_owned(), leaf.clone())),
    }
}

enum Step {
    Member(String),
    Element(usize),
}

fn parse(path: &str) -> Result<Vec<Step>, String> {
    let bad = || format!("`{path}` is not a path such as `steps[0].max`");
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("[\"") {
            let mut escaped = false;
            let end = inner
                .char_indices()
                .find(|(_, c)| {
                    let closes = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    closes
                })
                .map(|(at, _)| at)
                .ok_or_else(bad)?;
            let key: String = serde_json::from_str(&rest[1..end + 3]).map_err(|_| bad())?;
            steps.push(Step::Member(key));
            rest = inner[end + 1..].strip_prefix(']').ok_or_else(bad)?;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let (digits, after) = inner.split_once(']').ok_or_else(bad)?;
            steps.push(Step::Element(digits.parse().map_err(|_| bad())?));
            rest = after;
        } else {
            let rest_of = if steps.is_empty() { rest } else { rest.strip_prefix('.').ok_or_else(bad)? };
            let end = rest_of.find(['.', '[']).unwrap_or(rest_of.len());
            if end == 0 {
                return Err(bad());
            }
            steps.push(Step::Member(rest_of[..end].to_owned()));
            rest = &rest_of[end..];
        }
    }
    Ok(steps)
}

/// A value while its leaves come in, in any order.
enum Growing {
    Leaf(Value),
    Members(BTreeMap<String, Growing>),
    Elements(BTreeMap<usize, Growing>),
}

/// The value whose leaves are `leaves`; the inverse of [`flatten`] up to the order of keys.
///
/// # Errors
/// A path that does not parse, or two leaves that cannot be in one value, as text.
pub fn unflatten(leaves: impl IntoIterator<Item = (String, Value)>) -> Result<Value, String> {
    let mut root: Option<Growing> = None;
    for (path, leaf) in leaves {
        root = Some(insert(root, &parse(&path)?, leaf, &path)?);
    }
    root.map_or_else(|| Ok(Value::Object(Map::new())), settle)
}

fn insert(node: Option<Growing>, steps: &[Step], leaf: Value, path: &str) -> Result<Growing, String> {
    let Some((first, rest)) = steps.split_first() else {
        return if node.is_none() { Ok(Growing::Leaf(leaf)) } else { Err(clash(path)) };
    };
    match (first, node) {
        (Step::Member(key), None) => {
            Ok(Growing::Members(BTreeMap::from([(key.clone(), insert(None, rest, leaf, path)?)])))
        }
        (Step::Member(key), Some(Growing::Members(mut members))) => {
            let inner = insert(members.remove(key), rest, leaf, path)?;
            members.insert(key.clone(), inner);
            Ok(Growing::Members(members))
        }
        (Step::Element(index), None) => {
            Ok(Growing::Elements(BTreeMap::from([(*index, insert(None, rest, leaf, path)?)])))
        }
        (Step::Element(index), Some(Growing::Elements(mut elements))) => {
            let inner = insert(elements.remove(index), rest, leaf, path)?;
            elements.insert(*index, inner);
            Ok(Growing::Elements(elements))
        }
        _ => Err(clash(path)),
    }
}

fn clash(path: &str) -> String {
    format!("`{path}` contradicts another line")
}

fn settle(node: Growing) -> Result<Value, String> {
    match node {
        Growing::Leaf(value) => Ok(value),
        Growing::Members(members) => {
            members.into_iter().map(|(key, node)| Ok((key, settle(node)?))).collect::<Result<_, _>>().map(Value::Object)
        }
        Growing::Elements(elements) => {
            let mut items = Vec::with_capacity(elements.len());
            for (expected, (index, node)) in elements.into_iter().enumerate() {
                if index != expected {
                    return Err(format!("element [{expected}] is missing"));
                }
                items.push(settle(node)?);
            }
            Ok(Value::Array(items))
        }
    }
}
