//! Rows of foreign Parquet files as JSON objects.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use luthier_core::{StageError, StageResult};
use luthier_formats::dataset::{Scalar, column_text, scalar_at};
use parquet::errors::ParquetError;
use serde_json::{Map, Number, Value};

/// Nesting beyond this is refused.
const MAX_DEPTH: usize = 32;

/// Runs a piece of the Parquet reader on bytes that nobody vouches for; its panics are errors of the file.
pub fn guard<T>(name: &str, read: impl FnOnce() -> Result<T, ParquetError>) -> StageResult<T> {
    let damaged = || {
        StageError::input("ingest::damaged", format!("`{name}` is not a readable Parquet file"))
            .hint("it is damaged, truncated, or compressed otherwise than by snappy or zstd; write it again with one of those")
    };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(damaged().caused_by(error)),
        Err(_) => Err(damaged().caused_by("its pages contradict its header")),
    }
}

/// One row.
///
/// # Errors
/// A value nested too deeply.
pub fn row(batch: &RecordBatch, row: usize) -> Result<Map<String, Value>, String> {
    let schema = batch.schema();
    let fields = schema.fields().iter().zip(batch.columns());
    fields.map(|(field, column)| Ok((field.name().clone(), value(column.as_ref(), row, 0)?))).collect()
}

fn value(column: &dyn Array, row: usize, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("is nested deeper than {MAX_DEPTH} levels"));
    }
    if let Some(scalar) = scalar_at(column, row) {
        return Ok(match scalar {
            Scalar::Null => Value::Null,
            Scalar::Bool(flag) => Value::Bool(flag),
            Scalar::Int(number) => Value::from(number),
            Scalar::Unsigned(number) => Value::from(number),
            Scalar::Float(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
            Scalar::Text(text) => Value::String(text.to_owned()),
        });
    }
    let items = |items: &dyn Array| -> Result<Value, String> {
        (0..items.len()).map(|item| value(items, item, depth + 1)).collect::<Result<Vec<_>, _>>().map(Value::Array)
    };
    match column.data_type() {
        DataType::List(_) => items(column.as_list::<i32>().value(row).as_ref()),
        DataType::LargeList(_) => items(column.as_list::<i64>().value(row).as_ref()),
        DataType::FixedSizeList(..) => items(column.as_fixed_size_list().value(row).as_ref()),
        DataType::Struct(fields) => {
            let columns = column.as_struct();
            let members = fields.iter().zip(columns.columns());
            let members =
                members.map(|(field, column)| Ok((field.name().clone(), value(column.as_ref(), row, depth + 1)?)));
            members.collect::<Result<Map<_, _>, String>>().map(Value::Object)
        }
        DataType::Dictionary(_, kind) => match cast(&column.slice(row, 1), kind) {
            Ok(plain) => value(plain.as_ref(), 0, depth + 1),
            Err(error) => Err(error.to_string()),
        },
        _ => Ok(Value::String(column_text(column, row).into_owned())),
    }
}
