//! Parsing a stage's `with` block: all errors at once, each with a path that the runner maps back to the YAML span.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::suggest::{nearest, quoted};

/// One thing wrong with a `with` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigIssue {
    /// Keys and indices from the `with` block down, as in `steps[0].config.max`; empty for the block itself.
    pub path: String,
    /// The issue is about the key at `path`, not its value.
    pub on_key: bool,
    /// Lowercase fragment: what was found and what was expected.
    pub message: String,
    /// A hint such as ``did you mean `rank`?``.
    pub help: Option<String>,
}

impl ConfigIssue {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), on_key: false, message: message.into(), help: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The JSON Schema of a configuration type, without references, for editors and for the checks below.
#[must_use]
pub fn config_schema<T: JsonSchema + 'static>() -> Value {
    shared_schema::<T>().as_ref().clone()
}

/// Schemas by type: a pipeline of a thousand stages has a handful of kinds.
static SCHEMAS: Mutex<BTreeMap<TypeId, Arc<Value>>> = Mutex::new(BTreeMap::new());

fn shared_schema<T: JsonSchema + 'static>() -> Arc<Value> {
    let mut schemas = SCHEMAS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(schemas.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(generate::<T>())))
}

fn generate<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Parses a `with` block; on failure every issue found, not only the first.
///
/// The schema finds unknown keys, missing keys, wrong types, values out of an enumeration or range; serde has the last
/// word. `T` must be `deny_unknown_fields`, without `flatten` and `untagged`, or the paths are lost.
///
/// # Errors
/// The list of issues, never empty.
pub fn parse_config<T: DeserializeOwned + JsonSchema + 'static>(with: &Value) -> Result<T, Vec<ConfigIssue>> {
    let empty = Value::Object(Map::new());
    let with = if with.is_null() { &empty } else { with };
    let mut issues = Vec::new();
    check("", with, &shared_schema::<T>(), &mut issues);
    if !issues.is_empty() {
        return Err(issues);
    }
    serde_path_to_error::deserialize(with).map_err(|error| {
        let path = match error.path().to_string() {
            path if path == "." => String::new(),
            path => path,
        };
        vec![ConfigIssue::new(path, error.into_inner().to_string())]
    })
}

/// What is wrong with a value by a JSON Schema without references; of the schema's keywords those that configurations
/// use count: types, `properties`, `required`, `additionalProperties`, `items`, `minItems`, `enum`, `const`, bounds,
/// `anyOf`, `oneOf`.
#[must_use]
pub fn check_config(value: &Value, schema: &Value) -> Vec<ConfigIssue> {
    let mut issues = Vec::new();
    check("", value, schema, &mut issues);
    issues
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn check(path: &str, value: &Value, schema: &Value, issues: &mut Vec<ConfigIssue>) {
    let Some(schema) = schema.as_object() else { return };
    for combinator in ["anyOf", "oneOf"] {
        if let Some(options) = schema.get(combinator).and_then(Value::as_array) {
            check_options(path, value, options, issues);
            return;
        }
    }
    if !check_type(path, value, schema, issues) {
        return;
    }
    check_values(path, value, schema, issues);
    match value {
        Value::Object(object) => check_object(path, object, schema, issues),
        Value::Array(items) => {
            if let Some(item_schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    check(&format!("{path}[{index}]"), item, item_schema, issues);
                }
            }
        }
        _ => {}
    }
}

/// A union: silent if any option accepts; else the issues of the one option of the value's own shape, if there is one.
fn check_options(path: &str, value: &Value, options: &[Value], issues: &mut Vec<ConfigIssue>) {
    let tried: Vec<Vec<ConfigIssue>> = options
        .iter()
        .map(|option| {
            let mut found = Vec::new();
            check(path, value, option, &mut found);
            found
        })
        .collect();
    if tried.iter().any(Vec::is_empty) {
        return;
    }
    let constants: Vec<&str> = options
        .iter()
        .flat_map(|option| {
            option
                .get("const")
                .into_iter()
                .chain(option.get("enum").and_then(Value::as_array).into_iter().flatten())
                .filter_map(Value::as_str)
        })
        .collect();
    if let (Some(text), false) = (value.as_str(), constants.is_empty()) {
        let mut issue = not_one_of(path, text, &constants);
        if options.iter().any(|option| option.get("type").and_then(Value::as_str) == Some("number")) {
            issue.message.push_str(", and no number");
        }
        issues.push(issue);
        return;
    }
    let same_shape: Vec<Vec<ConfigIssue>> = tried
        .into_iter()
        .filter(|found| !found.iter().any(|issue| issue.path == path && issue.message.starts_with("expected ")))
        .collect();
    match <[Vec<ConfigIssue>; 1]>::try_from(same_shape) {
        Ok([only]) => issues.extend(only),
        Err(_) => {
            issues.push(ConfigIssue::new(path, format!("expected {}, found {}", kinds_of(options), describe(value))));
        }
    }
}

/// Nothing, which leaves an option out, is no answer to what it may be.
fn kinds_of(options: &[Value]) -> String {
    let options = options.iter().filter(|option| option.get("type").and_then(Value::as_str) != Some("null"));
    options.map(kind_of_schema).collect::<Vec<_>>().join(" or ")
}

fn kind_of_schema(schema: &Value) -> String {
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => {
            match schema.get("required").and_then(Value::as_array).and_then(|keys| keys.first()?.as_str()) {
                Some(key) => format!("a mapping with `{key}`"),
                None => "a mapping".to_owned(),
            }
        }
        Some(kind) => article(kind).to_owned(),
        None => match (schema.get("const"), ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array())) {
            (Some(constant), _) => format!("`{}`", constant.as_str().unwrap_or_default()),
            (None, Some(options)) => kinds_of(options),
            (None, None) => "another value".to_owned(),
        },
    }
}

fn article(kind: &str) -> &'static str {
    match kind {
        "string" => "a string",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        _ => "nothing",
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => format!("`{flag}`"),
        Value::Number(number) => format!("`{number}`"),
        Value::String(text) => format!("the string `{text}`"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

fn check_type(path: &str, value: &Value, schema: &Map<String, Value>, issues: &mut Vec<ConfigIssue>) -> bool {
    let kinds: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind.as_str()],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return true,
    };
    let fits = kinds.iter().any(|kind| match *kind {
        "string" => value.is_string(),
        "integer" => value.as_i64().is_some() || value.as_u64().is_some(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => true,
    });
    if !fits {
        let wanted: Vec<&str> = kinds.iter().filter(|kind| **kind != "null").map(|kind| article(kind)).collect();
        issues.push(ConfigIssue::new(path, format!("expected {}, found {}", wanted.join(" or "), describe(value))));
    }
    fits
}

fn not_one_of(path: &str, found: &str, allowed: &[&str]) -> ConfigIssue {
    let issue = ConfigIssue::new(path, format!("`{found}` is not one of {}", quoted(allowed.iter().copied())));
    match nearest(found, allowed.iter().copied()) {
        Some(near) => issue.help(format!("did you mean `{near}`?")),
        None => issue,
    }
}

fn check_values(path: &str, value: &Value, schema: &Map<String, Value>, issues: &mut Vec<ConfigIssue>) {
    if let Some(constant) = schema.get("const").filter(|constant| *constant != value) {
        issues.push(ConfigIssue::new(path, format!("expected {}, found {}", describe(constant), describe(value))));
    }
    if let (Some(allowed), Some(text)) = (schema.get("enum").and_then(Value::as_array), value.as_str()) {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        if !allowed.contains(&text) {
            issues.push(not_one_of(path, text, &allowed));
        }
    }
    if let Some(number) = value.as_f64() {
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let wrong = match (bound("minimum"), bound("maximum"), bound("exclusiveMinimum"), bound("exclusiveMaximum")) {
            (Some(low), _, _, _) if number < low => Some(format!("at least {low}")),
            (_, Some(high), _, _) if number > high => Some(format!("at most {high}")),
            (_, _, Some(low), _) if number <= low => Some(format!("more than {low}")),
            (_, _, _, Some(high)) if number >= high => Some(format!("less than {high}")),
            _ => None,
        };
        if let Some(wanted) = wrong {
            issues.push(ConfigIssue::new(path, format!("{value} is out of range: expected {wanted}")));
        }
    }
    if let (Some(least), Some(items)) = (schema.get("minItems").and_then(Value::as_u64), value.as_array())
        && (items.len() as u64) < least
    {
        issues.push(ConfigIssue::new(path, format!("found {} entries, at least {least} needed", items.len())));
    }
}

fn check_object(path: &str, object: &Map<String, Value>, schema: &Map<String, Value>, issues: &mut Vec<ConfigIssue>) {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    for (key, value) in object {
        if let Some(property) = properties.get(key) {
            check(&join(path, key), value, property, issues);
        } else if closed {
            let known = if properties.is_empty() {
                "no keys are known here".to_owned()
            } else {
                format!("known keys: {}", quoted(properties.keys().map(String::as_str)))
            };
            let help = match nearest(key, properties.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => known,
            };
            issues.push(ConfigIssue {
                path: join(path, key),
                on_key: true,
                message: format!("unknown key `{key}`"),
                help: Some(help),
            });
        } else if let Some(rest) = schema.get("additionalProperties").filter(|rest| rest.is_object()) {
            check(&join(path, key), value, rest, issues);
        }
    }
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        let Some(key) = required.as_str() else { continue };
        if !object.contains_key(key) {
            let what = properties.get(key).and_then(|property| property.get("description")).and_then(Value::as_str);
            let issue = ConfigIssue::new(path, format!("missing key `{key}`"));
            issues.push(match what {
                Some(what) => issue.help(format!("`{key}`: {}", first_sentence(what))),
                None => issue,
            });
        }
    }
}

/// Up to the first full stop, on one line.
fn first_sentence(text: &str) -> String {
    let line = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    match line.find(". ") {
        Some(end) => line[..=end].to_owned(),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "snake_case")]
    struct Train {
        /// LoRA rank.
        #[schemars(range(min = 1, max = 512))]
        rank: u32,
        #[serde(default)]
        method: Method,
        #[serde(default)]
        targets: Vec<String>,
    }

    #[derive(Debug, Default, Deserialize, JsonSchema, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Method {
        Lora,
        #[default]
        Qlora,
    }

    #[test]
    fn reports_every_issue_with_its_path() {
        let with = json!({"rnak": 8, "method": "qlora4", "targets": ["q", 3]});
        let issues = parse_config::<Train>(&with).expect_err("three issues and a missing key");
        let text: Vec<String> = issues
            .iter()
            .map(|issue| format!("{} | {} | {}", issue.path, issue.message, issue.help.as_deref().unwrap_or("-")))
            .collect();
        assert_eq!(
            text,
            [
                "rnak | unknown key `rnak` | did you mean `rank`?",
                "method | `qlora4` is not one of `lora`, `qlora` | did you mean `qlora`?",
                "targets[1] | expected a string, found `3` | -",
                " | missing key `rank` | `rank`: LoRA rank.",
            ]
        );
    }

    #[test]
    fn fills_defaults_and_checks_ranges() {
        let train: Train = parse_config(&json!({"rank": 8})).expect("valid");
        assert_eq!(train, Train { rank: 8, method: Method::Qlora, targets: vec![] });
        let issues = parse_config::<Train>(&json!({"rank": 0})).expect_err("out of range");
        assert_eq!(issues[0].message, "0 is out of range: expected at least 1");
    }
}
