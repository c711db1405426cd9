//! Raw records to rows: a JSON object each.

use regex::Regex;
use serde_json::{Map, Value};

use super::config::Format;
use super::parquet_rows;
use super::record::{MAX_RECORD, Raw, Record};

/// A parsed row: column names and values.
pub type Row = Map<String, Value>;

/// What parsing needs to know.
pub struct Parser {
    pub pattern: Option<Regex>,
    pub ignore: Option<Regex>,
}

impl Parser {
    /// `None` for a record that is no row.
    ///
    /// # Errors
    /// Why the record is broken, as a lowercase fragment.
    pub fn parse(&self, format: Format, record: &Record) -> Result<Option<Row>, String> {
        match &record.raw {
            Raw::TooLong(length) => Err(format!("is {length} bytes long, more than {MAX_RECORD}")),
            Raw::Broken(what, _) => Err(what.clone()),
            Raw::Json(text) => object(text).map(Some),
            Raw::JsonMember(key, value) => member(key, value).map(Some),
            Raw::Row(batch, row) => parquet_rows::row(batch, *row).map(Some),
            Raw::Fields(columns, fields) => {
                let cells = columns.iter().zip(fields);
                let cells = cells.map(|(column, cell)| Ok((column.clone(), Value::String(utf8(cell)?.to_owned()))));
                cells.collect::<Result<Row, String>>().map(Some)
            }
            Raw::Text(text) => match format {
                Format::Jsonl => object(text).map(Some),
                Format::Lines => self.line(utf8(text)?),
                _ => Ok(Some(Row::from_iter([("text".to_owned(), Value::String(utf8(text)?.to_owned()))]))),
            },
        }
    }

    fn line(&self, line: &str) -> Result<Option<Row>, String> {
        if self.ignore.as_ref().is_some_and(|ignore| ignore.is_match(line)) {
            return Ok(None);
        }
        let Some(pattern) = &self.pattern else {
            return Ok(Some(Row::from_iter([("line".to_owned(), Value::String(line.to_owned()))])));
        };
        let Some(found) = pattern.captures(line) else {
            return Err("does not match `pattern`".to_owned());
        };
        let groups = pattern.capture_names().flatten().map(|name| {
            let value = found.name(name).map_or(Value::Null, |text| Value::String(text.as_str().to_owned()));
            (name.to_owned(), value)
        });
        Ok(Some(groups.collect()))
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        format!("is not UTF-8: byte 0x{:02x} at column {}", bytes[at], at + 1)
    })
}

fn object(text: &[u8]) -> Result<Row, String> {
    match parse_json(text)? {
        Value::Object(row) => Ok(row),
        other => Err(format!("is {}, expected a JSON object", kind(&other))),
    }
}

fn member(key: &[u8], value: &[u8]) -> Result<Row, String> {
    let key = parse_json(key)?;
    let mut row = Row::from_iter([("key".to_owned(), key)]);
    match parse_json(value)? {
        Value::Object(columns) => {
            // A column that is itself called `key` keeps its value.
            row.extend(columns);
        }
        other => drop(row.insert("value".to_owned(), other)),
    }
    Ok(row)
}

fn parse_json(text: &[u8]) -> Result<Value, String> {
    let text = utf8(text)?;
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what).to_owned();
        if what.contains("hex escape") {
            let column = error.column();
            return format!(
                "has a broken `\\u` escape at column {column}: half of a surrogate pair, or too few digits"
            );
        }
        format!("is not valid JSON: {what} at column {}", error.column())
    })
}

pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
