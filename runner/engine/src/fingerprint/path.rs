//! Paths into a configuration, `steps[0].config.max`, and configurations as flat lists of leaves.
//!
//! A key that could be misread (empty, or with `.`, `[`, `]`, `"`) is written as `["key"]`, so every path names one
//! place and a list of leaves can be turned back into the value.

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

/// The value whose leaves are `leaves`; the inverse of [`flatten`] up to the order of keys.
///
/// # Errors
/// A path that does not parse, or two leaves that cannot be in one value, as text.
pub fn unflatten(leaves: impl IntoIterator<Item = (String, Value)>) -> Result<Value, String> {
    let mut root: Option<Value> = None;
    for (path, leaf) in leaves {
        insert(&mut root, &parse(&path)?, leaf, &path)?;
    }
    let mut root = root.unwrap_or_else(|| Value::Object(Map::new()));
    settle(&mut root)?;
    Ok(root)
}

/// Lists are collected as objects under this key until all elements are there, in whatever order they came.
const LIST: &str = "\u{0}list";

fn insert(slot: &mut Option<Value>, steps: &[Step], leaf: Value, path: &str) -> Result<(), String> {
    let clash = || format!("`{path}` contradicts another line");
    let Some((first, rest)) = steps.split_first() else {
        return match slot {
            None => {
                *slot = Some(leaf);
                Ok(())
            }
            Some(_) => Err(clash()),
        };
    };
    let object = slot.get_or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(map) = object else { return Err(clash()) };
    let key = match first {
        Step::Member(key) => {
            if map.contains_key(LIST) {
                return Err(clash());
            }
            key.clone()
        }
        Step::Element(index) => {
            if !map.is_empty() && !map.contains_key(LIST) {
                return Err(clash());
            }
            map.insert(LIST.to_owned(), Value::Null);
            index.to_string()
        }
    };
    let mut inner = map.remove(&key);
    insert(&mut inner, rest, leaf, path)?;
    if let Some(inner) = inner {
        map.insert(key, inner);
    }
    Ok(())
}

fn settle(value: &mut Value) -> Result<(), String> {
    let Value::Object(map) = value else { return Ok(()) };
    if map.remove(LIST).is_some() {
        let mut items = Vec::with_capacity(map.len());
        for index in 0..map.len() {
            let mut item = map
                .get_mut(&index.to_string())
                .map(Value::take)
                .ok_or_else(|| format!("element [{index}] is missing"))?;
            settle(&mut item)?;
            items.push(item);
        }
        *value = Value::Array(items);
        return Ok(());
    }
    map.values_mut().try_for_each(settle)
}
