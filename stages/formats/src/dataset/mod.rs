//! Datasets: a directory of Parquet shards, `part-00000.parquet`, ….
//!
//! Invariants:
//! - every row has a column `id` (Utf8, not null) and the columns of its [`DatasetShape`]; other columns are carried along;
//! - the bytes depend on the rows and the schema only: not on how the rows were cut into batches, not on threads or time;
//! - readers and writers stream: memory is bounded by one row group, whatever the number of rows;
//! - a foreign or damaged file is an error that names the file, never a panic.

mod column;
mod reader;
mod shape;
mod shards;
mod writer;

pub use column::{Scalar, column_text, optional_column, row_id, scalar_at, string_column};
pub use reader::DatasetReader;
pub(crate) use reader::{guard, open_parquet};
pub use shape::DatasetShape;
pub use shards::Shard;
pub use writer::{DatasetSummary, DatasetWriter};
pub(crate) use writer::{properties, write_error};

/// The column every dataset has.
pub const ID_COLUMN: &str = "id";

/// Parquet key-value metadata that names the shape.
pub(crate) const SHAPE_KEY: &str = "luthier.shape";

/// Parquet key-value metadata that names the version of this layout.
pub(crate) const VERSION_KEY: &str = "luthier.dataset";

#[cfg(test)]
mod tests;
