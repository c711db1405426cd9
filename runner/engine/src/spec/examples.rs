//! Examples and defaults for every parameter of a kind, from `with` blocks that the kind gives as examples.

use luthier_core::Stage;
use serde_json::{Map, Value, json};

use super::{SourceText, parse};

/// Examples shown per parameter.
const SHOWN: usize = 3;

/// The `with` blocks of [`Stage::examples`]; none if they are no YAML list.
pub fn of(stage: &dyn Stage) -> Vec<Value> {
    let source = SourceText::new("examples", stage.examples());
    match parse(&source).map(|root| root.to_value()) {
        Ok(Value::Array(examples)) => examples,
        _ => Vec::new(),
    }
}

/// Gives each property below `schema` a default, if it may be left out, and examples: those that `values` hold in its
/// place, else its default, else the words it may be.
pub fn fill(schema: &mut Value, values: &[Value]) {
    let Some(object) = schema.as_object_mut() else { return };
    let required: Vec<String> = object
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties {
            let inside: Vec<Value> = values.iter().filter_map(|value| value.get(name)).cloned().collect();
            annotate(property, &inside, required.contains(name));
            fill(property, &inside);
        }
    }
    for (key, inner) in object {
        match (key.as_str(), inner) {
            ("items", items) => {
                let inside: Vec<Value> = values.iter().filter_map(Value::as_array).flatten().cloned().collect();
                fill(items, &inside);
            }
            ("additionalProperties", rest) if rest.is_object() => {
                let inside: Vec<Value> =
                    values.iter().filter_map(Value::as_object).flat_map(|map| map.values()).cloned().collect();
                fill(rest, &inside);
            }
            ("anyOf" | "oneOf" | "allOf", Value::Array(options)) => {
                options.iter_mut().for_each(|option| fill(option, values))
            }
            _ => {}
        }
    }
}

fn annotate(property: &mut Value, values: &[Value], required: bool) {
    // `true` and the like say nothing that an example could be added to.
    if property == &Value::Bool(true) {
        *property = json!({});
    }
    let words = words(property);
    let Some(object) = property.as_object_mut() else { return };
    if !required
        && !object.contains_key("default")
        && let Some(empty) = empty(object)
    {
        object.insert("default".to_owned(), empty);
    }
    if object.contains_key("examples") {
        return;
    }
    let mut shown: Vec<Value> = Vec::new();
    let says_something = |value: &&Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        _ => true,
    };
    let default = object.get("default").filter(says_something).cloned();
    for value in values.iter().cloned().chain(values.is_empty().then_some(default).flatten()) {
        if !shown.contains(&value) && shown.len() < SHOWN {
            shown.push(value);
        }
    }
    if shown.is_empty() {
        shown.extend(words.into_iter().take(SHOWN));
    }
    if !shown.is_empty() {
        object.insert("examples".to_owned(), Value::Array(shown));
    }
}

/// What a value left out is, where its type alone tells: nothing, an empty list or mapping, or false.
fn empty(schema: &Map<String, Value>) -> Option<Value> {
    let options = ["anyOf", "oneOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    let mut kinds = options.filter_map(|option| option.get("type")).chain(schema.get("type"));
    let null = |kind: &Value| kind == "null" || kind.as_array().is_some_and(|kinds| kinds.contains(&json!("null")));
    if kinds.any(null) {
        return Some(Value::Null);
    }
    match schema.get("type")?.as_str()? {
        "object" => Some(json!({})),
        "boolean" => Some(json!(false)),
        "array" if !schema.contains_key("minItems") => Some(json!([])),
        _ => None,
    }
}

/// The values that a schema lists one by one.
fn words(schema: &Value) -> Vec<Value> {
    let mut found: Vec<Value> = schema.get("const").cloned().into_iter().collect();
    if schema.get("type").is_some_and(|kind| kind == "boolean") {
        found.push(json!(true));
    }
    found.extend(
        schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter(|value| !value.is_null()).cloned(),
    );
    for key in ["anyOf", "oneOf"] {
        found.extend(schema.get(key).and_then(Value::as_array).into_iter().flatten().flat_map(words));
    }
    found
}
