//! Reading a dataset, hostile files included.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult, quoted};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;

use super::{DatasetShape, SHAPE_KEY};

/// Batches of long rows have fewer of them, to hold about this many bytes.
const BATCH_BYTES: u64 = 16 << 20;

/// An open dataset: its shards were found and their headers checked.
#[derive(Debug, Clone)]
pub struct DatasetReader {
    shards: Vec<Utf8PathBuf>,
    shape: DatasetShape,
    schema: SchemaRef,
    rows: u64,
}

struct Header {
    schema: SchemaRef,
    shape: Option<String>,
    rows: u64,
}

impl DatasetReader {
    /// Opens a dataset directory, or a single Parquet file of the same layout.
    ///
    /// # Errors
    /// No shard, a damaged one, columns other than a dataset's (names those found and wanted), or shards that differ.
    pub fn open(path: &Utf8Path) -> StageResult<Self> {
        let shards = find_shards(path)?;
        let first = read_header(&shards[0])?;
        let shape = shape_of(&shards[0], &first)?;
        let mut rows = first.rows;
        for shard in &shards[1..] {
            let header = read_header(shard)?;
            if header.schema.fields() != first.schema.fields() {
                return Err(StageError::input(
                    "dataset::shards_differ",
                    format!(
                        "shard `{shard}` has the columns {}, the first shard has {}",
                        describe(&header.schema),
                        describe(&first.schema)
                    ),
                )
                .hint("all shards of a dataset need the same columns; write it again with one stage"));
            }
            rows = rows.saturating_add(header.rows);
        }
        Ok(Self { shards, shape, schema: first.schema, rows })
    }

    #[must_use]
    pub fn shape(&self) -> DatasetShape {
        self.shape
    }

    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// All rows in order, at most `size` a batch, fewer where rows are long. Stops after the first error.
    pub fn batches(&self, size: usize) -> impl Iterator<Item = StageResult<RecordBatch>> + use<> {
        let mut batches = Batches { shards: self.shards.clone().into_iter(), size: size.max(1), open: None };
        until_error(move || batches.advance())
    }
}

/// Batches never reach over the end of a row group, so that one row group is held at a time.
struct Batches {
    shards: std::vec::IntoIter<Utf8PathBuf>,
    size: usize,
    open: Option<OpenShard>,
}

struct OpenShard {
    path: Utf8PathBuf,
    metadata: ArrowReaderMetadata,
    next_group: usize,
    reader: Option<ParquetRecordBatchReader>,
}

impl OpenShard {
    fn new(path: Utf8PathBuf) -> StageResult<Self> {
        let file = fs_err::File::open(&path)?;
        let metadata = guard(&path, || ArrowReaderMetadata::load(file.file(), options()))?;
        Ok(Self { path, metadata, next_group: 0, reader: None })
    }

    fn next_batch(&mut self, size: usize) -> StageResult<Option<RecordBatch>> {
        loop {
            if let Some(reader) = &mut self.reader {
                let next = guard(&self.path, || reader.next().transpose().map_err(ParquetError::from))?;
                if let Some(batch) = next {
                    return Ok(Some(batch));
                }
                self.reader = None;
            }
            let Some(group) = self.metadata.metadata().row_groups().get(self.next_group) else { return Ok(None) };
            let rows = u64::try_from(group.num_rows()).unwrap_or(0).max(1);
            let bytes = u64::try_from(group.total_byte_size()).unwrap_or(0);
            let fitting = BATCH_BYTES / (bytes / rows).max(1);
            let size = size.min(usize::try_from(fitting).unwrap_or(size)).max(1);
            let file = fs_err::File::open(&self.path)?.into_parts().0;
            let reader = guard(&self.path, || {
                ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                    .with_row_groups(vec![self.next_group])
                    .with_batch_size(size)
                    .build()
            })?;
            self.reader = Some(reader);
            self.next_group += 1;
        }
    }
}

impl Batches {
    fn advance(&mut self) -> StageResult<Option<RecordBatch>> {
        loop {
            if let Some(open) = &mut self.open {
                if let Some(batch) = open.next_batch(self.size)? {
                    return Ok(Some(batch));
                }
                self.open = None;
            }
            let Some(path) = self.shards.next() else { return Ok(None) };
            self.open = Some(OpenShard::new(path)?);
        }
    }
}

/// What `advance` gives, up to the first error and with it.
pub(super) fn until_error<T>(
    mut advance: impl FnMut() -> StageResult<Option<T>>,
) -> impl Iterator<Item = StageResult<T>> {
    let mut failed = false;
    std::iter::from_fn(move || {
        let next = if failed { None } else { advance().transpose() };
        failed |= matches!(next, Some(Err(_)));
        next
    })
}

fn find_shards(path: &Utf8Path) -> StageResult<Vec<Utf8PathBuf>> {
    let meta = fs_err::metadata(path)?;
    if meta.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let names = luthier_core::fs::walk_files(path)?;
    let shards: Vec<Utf8PathBuf> =
        names.iter().filter(|name| name.ends_with(".parquet")).map(|name| path.join(name)).collect();
    if shards.is_empty() {
        let found: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
        return Err(StageError::input(
            "dataset::no_shards",
            format!("`{path}` holds no .parquet file, so it is no dataset; it holds [{}]", quoted(&found)),
        )
        .hint("turn files into a dataset with an `ingest` stage"));
    }
    Ok(shards)
}

/// Opens `path` as Parquet and hands over the builder.
pub(crate) fn open_parquet<T>(
    path: &Utf8Path,
    build: impl FnOnce(ParquetRecordBatchReaderBuilder<File>) -> Result<T, ParquetError>,
) -> StageResult<T> {
    let file = fs_err::File::open(path)?;
    guard(path, || {
        ParquetRecordBatchReaderBuilder::try_new_with_options(file.into_parts().0, options()).and_then(build)
    })
}

fn options() -> ArrowReaderOptions {
    ArrowReaderOptions::new().with_skip_arrow_metadata(true)
}

fn read_header(path: &Utf8Path) -> StageResult<Header> {
    open_parquet(path, |builder| {
        let file = builder.metadata().file_metadata();
        let shape = file
            .key_value_metadata()
            .and_then(|pairs| pairs.iter().find(|pair| pair.key == SHAPE_KEY).and_then(|pair| pair.value.clone()));
        let rows = u64::try_from(file.num_rows()).unwrap_or(0);
        Ok(Header { schema: Arc::clone(builder.schema()), shape, rows })
    })
}

fn shape_of(path: &Utf8Path, header: &Header) -> StageResult<DatasetShape> {
    let named = header.shape.as_deref().and_then(|text| text.parse::<DatasetShape>().ok());
    let shape = match named {
        Some(shape) if shape.missing(&header.schema).is_empty() => Some(shape),
        _ => DatasetShape::infer(&header.schema),
    };
    shape.ok_or_else(|| {
        StageError::input(
            "dataset::schema",
            format!(
                "`{path}` has the columns {}; expected text columns `id` and either `messages`, or `prompt` and \
                 `completion`, or `text`",
                describe(&header.schema)
            ),
        )
        .hint("read it with an `ingest` stage, and name its columns there: `map: {prompt: \"{{ row.question }}\", …}`")
    })
}

fn describe(schema: &SchemaRef) -> String {
    let fields: Vec<String> =
        schema.fields().iter().map(|field| format!("`{}`: {}", field.name(), field.data_type())).collect();
    format!("[{}]", fields.join(", "))
}

/// Runs a piece of the Parquet reader. The crate asserts what hostile files break in places, so panics are caught.
pub(crate) fn guard<T>(path: &Utf8Path, read: impl FnOnce() -> Result<T, ParquetError>) -> StageResult<T> {
    let damaged = || {
        StageError::input("dataset::damaged", format!("`{path}` is not a readable Parquet file"))
            .hint("it is damaged, truncated or of another format; fetch or write it again")
    };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(damaged().caused_by(error)),
        Err(_) => Err(damaged().caused_by("its pages contradict its header")),
    }
}
