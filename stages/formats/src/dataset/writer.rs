//! Writing a dataset: same rows, same bytes.
//!
//! Rows are gathered into row groups cut by rules that look at the rows alone (a number of rows, or of bytes of text), and
//! each group is handed to the encoder in one piece, so how a caller cuts its batches cannot show in the file.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult, quoted};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

use super::{DatasetShape, SHAPE_KEY, VERSION_KEY};

/// The most rows of a row group.
const GROUP_ROWS: usize = 8192;
/// A row group is closed with the row that brings its text to this many bytes.
const GROUP_BYTES: usize = 16 << 20;
/// A shard is closed with the row group that brings it to this many bytes on disk.
const SHARD_BYTES: usize = 256 << 20;
const CREATED_BY: &str = "luthier dataset 1";

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DatasetSummary {
    pub rows: u64,
    /// On disk, all shards.
    pub bytes: u64,
    pub shards: u32,
}

/// Writes the shards of one dataset.
pub struct DatasetWriter {
    directory: Utf8PathBuf,
    schema: SchemaRef,
    shape: Option<DatasetShape>,
    shard: Option<ArrowWriter<File>>,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
    summary: DatasetSummary,
}

impl DatasetWriter {
    /// Creates the directory, which must not hold a dataset yet.
    ///
    /// # Errors
    /// The schema lacks a column of the shape, or the directory cannot be made.
    pub fn create(directory: &Utf8Path, schema: SchemaRef, shape: DatasetShape) -> StageResult<Self> {
        let missing = shape.missing(&schema);
        if !missing.is_empty() {
            let found: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(StageError::new(
                "dataset::schema",
                format!(
                    "a `{shape}` dataset needs the text columns [{}]; the columns are [{}]",
                    quoted(&missing),
                    quoted(&found)
                ),
            ));
        }
        Self::create_table(directory, schema, Some(shape))
    }

    /// As [`Self::create`] for rows that are no training data (rejects, dropped rows): any columns.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn create_table(directory: &Utf8Path, schema: SchemaRef, shape: Option<DatasetShape>) -> StageResult<Self> {
        fs_err::create_dir_all(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            schema,
            shape,
            shard: None,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            summary: DatasetSummary::default(),
        })
    }

    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Appends rows.
    ///
    /// # Errors
    /// Columns other than the writer's, or the disk.
    pub fn write(&mut self, batch: &RecordBatch) -> StageResult<()> {
        let (found, wanted) = (batch.schema(), &self.schema);
        let same = found.fields().len() == wanted.fields().len()
            && found
                .fields()
                .iter()
                .zip(wanted.fields())
                .all(|(found, wanted)| found.name() == wanted.name() && found.data_type() == wanted.data_type());
        if !same {
            return Err(StageError::new(
                "dataset::schema",
                format!("a batch has the columns {}, expected {}", describe(&found), describe(wanted)),
            ));
        }
        let batch = RecordBatch::try_new(Arc::clone(wanted), batch.columns().to_vec())
            .map_err(|error| StageError::new("dataset::schema", "a batch does not fit the schema").caused_by(error))?;
        let texts: Vec<TextColumn<'_>> = batch.columns().iter().filter_map(|array| TextColumn::of(array)).collect();
        let mut start = 0;
        for row in 0..batch.num_rows() {
            self.pending_bytes += texts.iter().map(|text| text.bytes(row)).sum::<usize>();
            self.pending_rows += 1;
            if self.pending_rows == GROUP_ROWS || self.pending_bytes >= GROUP_BYTES {
                self.pending.push(batch.slice(start, row + 1 - start));
                start = row + 1;
                self.flush_group()?;
            }
        }
        if start < batch.num_rows() {
            self.pending.push(batch.slice(start, batch.num_rows() - start));
        }
        Ok(())
    }

    /// Closes the last shard. A dataset without rows has one shard without row groups, so that its columns are known.
    ///
    /// # Errors
    /// The disk.
    pub fn finish(mut self) -> StageResult<DatasetSummary> {
        self.flush_group()?;
        if self.shard.is_none() && self.summary.shards == 0 {
            self.shard = Some(self.open_shard()?);
        }
        self.close_shard()?;
        Ok(self.summary)
    }

    fn flush_group(&mut self) -> StageResult<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let group = concat_batches(&self.schema, &self.pending)
            .map_err(|error| StageError::new("dataset::write", "rows do not fit together").caused_by(error))?;
        self.pending.clear();
        (self.pending_rows, self.pending_bytes) = (0, 0);
        let mut shard = match self.shard.take() {
            Some(shard) => shard,
            None => self.open_shard()?,
        };
        shard.write(&group).and_then(|()| shard.flush()).map_err(|error| self.write_error(error))?;
        self.summary.rows += group.num_rows() as u64;
        let full = shard.bytes_written() >= SHARD_BYTES;
        self.shard = Some(shard);
        if full { self.close_shard() } else { Ok(()) }
    }

    fn shard_path(&self) -> Utf8PathBuf {
        self.directory.join(format!("part-{:05}.parquet", self.summary.shards))
    }

    fn open_shard(&self) -> StageResult<ArrowWriter<File>> {
        let mut metadata = vec![KeyValue::new(VERSION_KEY.to_owned(), "1".to_owned())];
        if let Some(shape) = self.shape {
            metadata.push(KeyValue::new(SHAPE_KEY.to_owned(), shape.as_str().to_owned()));
        }
        let properties = properties(metadata)?;
        let file = fs_err::OpenOptions::new().write(true).create_new(true).open(self.shard_path())?;
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        ArrowWriter::try_new_with_options(file.into_parts().0, Arc::clone(&self.schema), options)
            .map_err(|error| self.write_error(error))
    }

    fn close_shard(&mut self) -> StageResult<()> {
        let Some(mut shard) = self.shard.take() else { return Ok(()) };
        shard.finish().map_err(|error| self.write_error(error))?;
        self.summary.bytes += shard.bytes_written() as u64;
        self.summary.shards += 1;
        Ok(())
    }

    fn write_error(&self, error: parquet::errors::ParquetError) -> StageError {
        write_error(&self.shard_path(), error)
    }
}

/// The fixed properties under which equal rows make equal bytes.
pub(crate) fn properties(metadata: Vec<KeyValue>) -> StageResult<WriterProperties> {
    let level = ZstdLevel::try_new(3)
        .map_err(|error| StageError::new("dataset::write", "zstd refuses its level").caused_by(error))?;
    Ok(WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(Some(usize::MAX))
        .set_key_value_metadata(Some(metadata))
        .build())
}

/// An error of the Parquet writer; the disk's own errors keep their remedy.
pub(crate) fn write_error(path: &Utf8Path, error: parquet::errors::ParquetError) -> StageError {
    use parquet::errors::ParquetError;
    if let ParquetError::External(cause) = error {
        return match cause.downcast::<std::io::Error>() {
            Ok(io) => {
                let kind = io.kind();
                StageError::from(std::io::Error::new(kind, format!("failed to write `{path}`: {io}")))
            }
            Err(cause) => {
                StageError::new("dataset::write", format!("failed to write `{path}`")).caused_by(cause.to_string())
            }
        };
    }
    StageError::new("dataset::write", format!("failed to write `{path}`")).caused_by(error)
}

fn describe(schema: &SchemaRef) -> String {
    let fields: Vec<String> =
        schema.fields().iter().map(|field| format!("`{}`: {}", field.name(), field.data_type())).collect();
    format!("[{}]", fields.join(", "))
}

enum TextColumn<'a> {
    Small(&'a [i32]),
    Large(&'a [i64]),
}

impl<'a> TextColumn<'a> {
    fn of(array: &'a dyn Array) -> Option<Self> {
        match array.data_type() {
            DataType::Utf8 => Some(Self::Small(array.as_string::<i32>().value_offsets())),
            DataType::LargeUtf8 => Some(Self::Large(array.as_string::<i64>().value_offsets())),
            _ => None,
        }
    }

    fn bytes(&self, row: usize) -> usize {
        match self {
            Self::Small(offsets) => (offsets[row + 1] - offsets[row]) as usize,
            Self::Large(offsets) => (offsets[row + 1] - offsets[row]) as usize,
        }
    }
}
