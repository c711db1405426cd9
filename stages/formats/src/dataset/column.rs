//! Access to single values of a batch.

use std::borrow::Cow;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use luthier_core::{Digest, StageError, StageResult, nearest, quoted};

/// One value of a plain column.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Unsigned(u64),
    Float(f64),
    Text(&'a str),
}

impl<'a> Scalar<'a> {
    /// The value as text: empty for null.
    #[must_use]
    pub fn to_text(&self) -> Cow<'a, str> {
        match self {
            Self::Null => Cow::Borrowed(""),
            Self::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Self::Int(value) => Cow::Owned(value.to_string()),
            Self::Unsigned(value) => Cow::Owned(value.to_string()),
            Self::Float(value) => Cow::Owned(value.to_string()),
            Self::Text(text) => Cow::Borrowed(text),
        }
    }
}

/// The Utf8 column `name`.
///
/// # Errors
/// There is none; lists what there is.
pub fn string_column<'a>(batch: &'a RecordBatch, name: &str) -> StageResult<&'a StringArray> {
    let column = optional_column(batch, name).ok_or_else(|| {
        let schema = batch.schema();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let error = StageError::input(
            "dataset::missing_column",
            format!("the dataset has no column `{name}`; its columns are [{}]", quoted(&names)),
        );
        match nearest(name, names.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("name one of these, or add it to `keep:` of the ingest stage"),
        }
    })?;
    column.as_string_opt::<i32>().ok_or_else(|| {
        StageError::input(
            "dataset::column_type",
            format!("column `{name}` holds {}, expected text", column.data_type()),
        )
        .hint("make it text where the dataset is ingested, with `map:`")
    })
}

/// The column `name` of any type.
#[must_use]
pub fn optional_column<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a dyn Array> {
    batch.column_by_name(name).map(|column| column.as_ref())
}

/// The value of a plain column at `row`; `None` for nested and other types that have no plain text.
#[must_use]
pub fn scalar_at(column: &dyn Array, row: usize) -> Option<Scalar<'_>> {
    if column.is_null(row) {
        return Some(Scalar::Null);
    }
    Some(match column.data_type() {
        DataType::Utf8 => Scalar::Text(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Scalar::Text(column.as_string::<i64>().value(row)),
        DataType::Utf8View => Scalar::Text(column.as_string_view().value(row)),
        DataType::Boolean => Scalar::Bool(column.as_boolean().value(row)),
        DataType::Int8 => Scalar::Int(column.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => Scalar::Int(column.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => Scalar::Int(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Scalar::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => Scalar::Unsigned(column.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => Scalar::Unsigned(column.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => Scalar::Unsigned(column.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => Scalar::Unsigned(column.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => Scalar::Float(column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => Scalar::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Null => Scalar::Null,
        _ => return None,
    })
}

/// The text of a value: of a plain column itself, of any other its Arrow display form.
#[must_use]
pub fn column_text(column: &dyn Array, row: usize) -> Cow<'_, str> {
    match scalar_at(column, row) {
        Some(scalar) => scalar.to_text(),
        None => Cow::Owned(arrow::util::display::array_value_to_string(column, row).unwrap_or_default()),
    }
}

/// The id of a row: 32 hex digits of BLAKE3 over its named values. Equal content has equal ids, wherever it came from.
#[must_use]
pub fn row_id<'a>(values: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut bytes = b"luthier dataset row v1".to_vec();
    for (name, value) in values {
        for part in [name, value] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    let mut id = Digest::of(&bytes).hex();
    id.truncate(32);
    id
}
