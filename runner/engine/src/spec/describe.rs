//! What a stage kind says about itself, as plain text for `luthier stages KIND`.

use luthier_core::{ArtifactKind, InputPort, Stage};
use serde_json::{Map, Value};

/// A page about one kind: parameters with type, default and meaning; inputs; outputs. No trailing line break.
#[must_use]
pub fn describe_kind(stage: &dyn Stage) -> String {
    let mut page = format!("{} (recipe {})\n  {}\n", stage.kind(), stage.recipe_version(), stage.about());
    page.push_str("\nin:\n");
    let mut rows: Vec<[String; 3]> = stage.inputs().iter().map(port_row).collect();
    if stage.accepts_any_input() {
        rows.push([
            "NAME".to_owned(),
            "any".to_owned(),
            "any number of inputs, each under a name of your own".to_owned(),
        ]);
    }
    page.push_str(&table(&rows, "nothing"));
    page.push_str("\nwith:\n");
    let mut rows = Vec::new();
    parameters("", &stage.schema(), 0, &mut rows);
    page.push_str(&table(&rows, "no parameters"));
    page.push_str(&format!("\nout:\n  {}", stage.outputs_about()));
    page
}

fn port_row(port: &InputPort) -> [String; 3] {
    let mut kind = kinds(port.accepts);
    if port.many {
        kind.push_str(", one or more");
    }
    if !port.required {
        kind.push_str(", optional");
    }
    [port.name.to_owned(), kind, port.about.to_owned()]
}

/// `model or gguf`.
pub(crate) fn kinds(kinds: &[ArtifactKind]) -> String {
    kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or ")
}

/// One row per parameter; those of nested mappings follow theirs, with the path.
fn parameters(path: &str, schema: &Value, depth: usize, rows: &mut Vec<[String; 3]>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    // Required ones first: they must be written.
    let ordered = properties
        .iter()
        .filter(|(name, _)| required.contains(&name.as_str()))
        .chain(properties.iter().filter(|(name, _)| !required.contains(&name.as_str())));
    for (name, property) in ordered {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let mut kind = type_of(property);
        match property.get("default") {
            Some(default) if !default.is_null() && default.as_object().is_none_or(|object| object.is_empty()) => {
                kind.push_str(&format!(" = {}", inline(default)))
            }
            _ if required.contains(&name.as_str()) => kind.push_str(", required"),
            _ => {}
        }
        let about = property.get("description").and_then(Value::as_str).unwrap_or_default();
        rows.push([path.clone(), kind, about.split_whitespace().collect::<Vec<_>>().join(" ")]);
        if depth < 3 {
            for (suffix, nested) in nested(property) {
                parameters(&format!("{path}{suffix}"), nested, depth + 1, rows);
            }
        }
    }
}

/// The mappings inside a property: itself, the items of a list, the options of a union.
fn nested(property: &Value) -> Vec<(&'static str, &Value)> {
    let mut found = Vec::new();
    if property.get("properties").is_some() {
        found.push(("", property));
    }
    if let Some(items) = property.get("items") {
        found.extend(nested(items).into_iter().map(|(_, schema)| ("[]", schema)));
    }
    for options in ["anyOf", "oneOf"] {
        for option in property.get(options).and_then(Value::as_array).into_iter().flatten() {
            found.extend(nested(option));
        }
    }
    found
}

/// A type in words: `integer 1..512`, `"lora" | "qlora"`, `list of string`.
fn type_of(schema: &Value) -> String {
    if let Some(constant) = schema.get("const") {
        return inline(constant);
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().filter(|value| !value.is_null()).map(inline).collect::<Vec<_>>().join(" | ");
    }
    for options in ["anyOf", "oneOf"] {
        if let Some(options) = schema.get(options).and_then(Value::as_array) {
            let mut kinds: Vec<String> = Vec::new();
            for kind in options.iter().map(type_of).filter(|kind| kind != "null") {
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
            return kinds.join(" | ");
        }
    }
    let kinds: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind.as_str()],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let words: Vec<String> = kinds.iter().filter(|kind| **kind != "null").map(|kind| word(kind, schema)).collect();
    if words.is_empty() { "any".to_owned() } else { words.join(" | ") }
}

fn word(kind: &str, schema: &Value) -> String {
    match kind {
        "array" => match schema.get("items") {
            Some(items) => format!("list of {}", type_of(items)),
            None => "list".to_owned(),
        },
        "object" => match schema.get("additionalProperties").filter(|rest| rest.is_object()) {
            Some(rest) => format!("mapping to {}", type_of(rest)),
            None => "mapping".to_owned(),
        },
        "string" => "text".to_owned(),
        "boolean" => "true | false".to_owned(),
        kind => match bounds(schema) {
            Some(bounds) => format!("{kind} {bounds}"),
            None => kind.to_owned(),
        },
    }
}

fn bounds(schema: &Value) -> Option<String> {
    let schema: &Map<String, Value> = schema.as_object()?;
    // Bounds that only restate the machine type say nothing to a reader.
    let machine = |value: &f64| value.abs() < 65_535.0;
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64).filter(machine);
    match (bound("minimum"), bound("maximum"), bound("exclusiveMinimum"), bound("exclusiveMaximum")) {
        (Some(low), Some(high), ..) => Some(format!("{low}..{high}")),
        (low, high, over, below) => {
            let parts: Vec<String> = [(">=", low), (">", over), ("<=", high), ("<", below)]
                .into_iter()
                .filter_map(|(sign, bound)| bound.map(|bound| format!("{sign} {bound}")))
                .collect();
            (!parts.is_empty()).then(|| parts.join(", "))
        }
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => text.clone(),
        other => other.to_string(),
    }
}

/// Columns padded to their widest cell of up to 30; the last one runs on.
fn table(rows: &[[String; 3]], empty: &str) -> String {
    if rows.is_empty() {
        return format!("  {empty}\n");
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).filter(|width| *width <= 30).max();
    let (first, second) = (width(0).unwrap_or(30), width(1).unwrap_or(30));
    rows.iter()
        .map(|[name, kind, about]| format!("  {name:first$}  {kind:second$}  {about}").trim_end().to_owned() + "\n")
        .collect()
}
