//! Configuration values: parsed with every issue reported, and described as JSON Schema.
//!
//! `#[derive(Config)]` implements [`ConfigValue`] for structs with named fields and for enums without fields.

use crate::json::Json;

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Keys and indices, as in `limits[0].max`; empty for the whole.
    pub path: String,
    pub message: String,
}

impl Issue {
    pub fn new(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), message: message.into() }
    }
}

/// A type that can be a configuration or a part of one.
pub trait ConfigValue: Sized {
    /// JSON Schema.
    fn schema() -> String;

    /// Parses `json`, adding to `issues` what is wrong with it; `None` only if something was added.
    fn parse(json: &Json, path: &str, issues: &mut Vec<Issue>) -> Option<Self>;

    /// As JSON, for defaults in the schema.
    fn to_json(&self) -> String;
}

fn expected<T>(what: &str, json: &Json, path: &str, issues: &mut Vec<Issue>) -> Option<T> {
    issues.push(Issue::new(path, format!("expected {what}, found {}", json.describe())));
    None
}

macro_rules! number {
    ($kind:literal, $what:literal, $($number:ty),*) => {$(
        impl ConfigValue for $number {
            fn schema() -> String {
                if $kind == "integer" {
                    format!("{{\"type\":\"integer\",\"minimum\":{},\"maximum\":{}}}", <$number>::MIN, <$number>::MAX)
                } else {
                    "{\"type\":\"number\"}".to_owned()
                }
            }

            fn parse(json: &Json, path: &str, issues: &mut Vec<Issue>) -> Option<Self> {
                let Json::Number(text) = json else { return expected($what, json, path, issues) };
                match text.parse::<$number>() {
                    Ok(number) => Some(number),
                    Err(_) => expected($what, json, path, issues),
                }
            }

            fn to_json(&self) -> String {
                format!("{self}")
            }
        }
    )*};
}

number!("integer", "a whole number of 0 or more that fits", u8, u16, u32, u64);
number!("integer", "a whole number that fits", i8, i16, i32, i64);
number!("number", "a number", f32, f64);

/// Larger numbers than the platform's become its largest, so that a bound means the same in 32 and in 64 bits.
impl ConfigValue for usize {
    fn schema() -> String {
        "{\"type\":\"integer\",\"minimum\":0}".to_owned()
    }

    fn parse(json: &Json, path: &str, issues: &mut Vec<Issue>) -> Option<Self> {
        u64::parse(json, path, issues).map(|number| Self::try_from(number).unwrap_or(Self::MAX))
    }

    fn to_json(&self) -> String {
        self.to_string()
    }
}

impl ConfigValue for bool {
    fn schema() -> String {
        "{\"type\":\"boolean\"}".to_owned()
    }

    fn parse(json: &Json, path: &str, issues: &mut Vec<Issue>) -> Option<Self> {
        match json {
            Json::Bool(flag) => Some(*flag),
            _ => expected("true or false", json, path, issues),
        }
    }

    fn to_json(&self) -> String {
        self.to_string()
    }
}

impl ConfigValue for String {
    fn schema() -> String {
        "{\"type\":\"string\"}".to_owned()
    }

    fn parse(json: &Json, path: &str, issues: &mut Vec<Issue>) -> Option<Self> {
        match json {
            Json::String(text) => Some(text.clone()),
            _ => expected("a string", json, path, issues),
        }
    }

    fn to_json(&self) -> String {
        Json::quote(self)
    }
}

impl<T: ConfigValue> ConfigValue for Vec<T> {
    fn schema() -> String {
        format!("{{\"type\":\"array\",\"items\":{}}}", T::schema())
    }

    fn parse(json: &Json, path: &str, issues: &mut Vec<Issue>) -> Option<Self> {
        let Json::Array(items) = json else { return expected("a list", json, path, issues) };
        let parsed: Vec<Option<T>> =
            items.iter().enumerate().map(|(index, item)| T::parse(item, &format!("{path}[{index}]"), issues)).collect();
        parsed.into_iter().collect()
    }

    fn to_json(&self) -> String {
        format!("[{}]", self.iter().map(T::to_json).collect::<Vec<_>>().join(","))
    }
}

impl<T: ConfigValue> ConfigValue for Option<T> {
    fn schema() -> String {
        format!("{{\"anyOf\":[{},{{\"type\":\"null\"}}]}}", T::schema())
    }

    fn parse(json: &Json, path: &str, issues: &mut Vec<Issue>) -> Option<Self> {
        match json {
            Json::Null => Some(None),
            _ => T::parse(json, path, issues).map(Some),
        }
    }

    fn to_json(&self) -> String {
        self.as_ref().map_or_else(|| "null".to_owned(), T::to_json)
    }
}

/// No configuration at all.
impl ConfigValue for () {
    fn schema() -> String {
        object_schema("", &[])
    }

    fn parse(json: &Json, path: &str, issues: &mut Vec<Issue>) -> Option<Self> {
        Fields::new(json, path, &[], issues).map(|_| ())
    }

    fn to_json(&self) -> String {
        "{}".to_owned()
    }
}

/// The fields of a mapping while a derived `parse` takes them out.
#[derive(Debug)]
pub struct Fields<'a> {
    fields: &'a [(String, Json)],
    path: &'a str,
}

impl<'a> Fields<'a> {
    /// Checks that `json` is a mapping (nothing counts as an empty one) with known keys only.
    pub fn new(json: &'a Json, path: &'a str, known: &[&str], issues: &mut Vec<Issue>) -> Option<Self> {
        let fields = match json {
            Json::Object(fields) => fields.as_slice(),
            Json::Null => &[],
            _ => return expected("a mapping", json, path, issues),
        };
        for (key, _) in fields {
            if !known.contains(&key.as_str()) {
                let known = match known {
                    [] => "there are none".to_owned(),
                    _ => format!("known keys: `{}`", known.join("`, `")),
                };
                issues.push(Issue::new(&join(path, key), format!("unknown key `{key}` ({known})")));
            }
        }
        Some(Self { fields, path })
    }

    /// The value of `key`, or `default`; without a default a missing key is an issue.
    pub fn take<T: ConfigValue>(&self, key: &str, default: Option<T>, issues: &mut Vec<Issue>) -> Option<T> {
        match self.fields.iter().find(|(name, _)| name == key) {
            Some((_, json)) => T::parse(json, &join(self.path, key), issues),
            None if default.is_some() => default,
            None => {
                issues.push(Issue::new(self.path, format!("missing key `{key}`")));
                None
            }
        }
    }

    /// Holds a number to the bounds of `#[config(min = …, max = …)]`.
    pub fn bound<T: PartialOrd + std::fmt::Display>(
        &self,
        key: &str,
        value: Option<T>,
        least: Option<T>,
        most: Option<T>,
        issues: &mut Vec<Issue>,
    ) -> Option<T> {
        let value = value?;
        let wrong = match (least, most) {
            (Some(least), _) if !(value >= least) => format!("at least {least}"),
            (_, Some(most)) if !(value <= most) => format!("at most {most}"),
            _ => return Some(value),
        };
        issues.push(Issue::new(&join(self.path, key), format!("{value} is out of range: expected {wrong}")));
        None
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The schema of a mapping from `(name, schema, required)`.
#[must_use]
pub fn object_schema(about: &str, fields: &[(&str, String, bool)]) -> String {
    let properties: Vec<String> =
        fields.iter().map(|(name, schema, _)| format!("{}:{schema}", Json::quote(name))).collect();
    let required: Vec<String> =
        fields.iter().filter(|(_, _, required)| *required).map(|(name, _, _)| Json::quote(name)).collect();
    format!(
        "{{\"type\":\"object\",\"description\":{},\"properties\":{{{}}},\"required\":[{}],\"additionalProperties\":false}}",
        Json::quote(about),
        properties.join(","),
        required.join(",")
    )
}

/// The schema of a field: that of its type with a description, a default and bounds put in.
#[must_use]
pub fn field_schema(schema: &str, about: &str, extra: &[(&str, String)]) -> String {
    let mut fields = match Json::parse(schema) {
        Ok(Json::Object(fields)) => fields,
        _ => return schema.to_owned(),
    };
    fields.retain(|(key, _)| !extra.iter().any(|(name, _)| name == key));
    let mut parts: Vec<String> =
        fields.iter().map(|(key, value)| format!("{}:{}", Json::quote(key), write(value))).collect();
    parts.push(format!("\"description\":{}", Json::quote(about)));
    parts.extend(extra.iter().map(|(key, value)| format!("{}:{value}", Json::quote(key))));
    format!("{{{}}}", parts.join(","))
}

fn write(json: &Json) -> String {
    match json {
        Json::Null => "null".to_owned(),
        Json::Bool(flag) => flag.to_string(),
        Json::Number(text) => text.clone(),
        Json::String(text) => Json::quote(text),
        Json::Array(items) => format!("[{}]", items.iter().map(write).collect::<Vec<_>>().join(",")),
        Json::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{}:{}", Json::quote(key), write(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
    }
}
