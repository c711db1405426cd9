//! Samples to the dataset writer.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field};
use camino::Utf8PathBuf;
use luthier_core::{Section, StageError, StageOutcome, StageResult};
use luthier_formats::dataset::{DatasetShape, DatasetWriter};

use super::config::IngestConfig;
use super::shape::Sample;

/// A batch is handed on with this many rows, or bytes of text.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;
/// Rows shown in the report, and the longest text shown.
const SHOWN_ROWS: usize = 5;
const SHOWN_CHARS: usize = 400;

/// Collects samples into batches; the writer opens with the first.
pub struct SampleWriter {
    path: Utf8PathBuf,
    keep: Vec<String>,
    open: Option<Open>,
    rows: u64,
    shown: Vec<Vec<String>>,
}

struct Open {
    shape: DatasetShape,
    writer: DatasetWriter,
    columns: Vec<StringBuilder>,
    pending: usize,
    bytes: usize,
}

impl SampleWriter {
    pub fn new(path: Utf8PathBuf, config: &IngestConfig) -> Self {
        Self { path, keep: config.keep.clone(), open: None, rows: 0, shown: Vec::new() }
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// # Errors
    /// The disk.
    pub fn write(&mut self, shape: DatasetShape, sample: Sample) -> StageResult<()> {
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Open::new(&self.path, shape, &self.keep)?),
        };
        if self.shown.len() < SHOWN_ROWS {
            self.shown.push(sample.texts.iter().map(|text| shorten(text)).collect());
        }
        self.rows += 1;
        open.push(&sample)
    }

    /// # Errors
    /// The disk.
    pub fn finish(self, outcome: &mut StageOutcome) -> StageResult<()> {
        let Some(mut open) = self.open else { return Ok(()) };
        open.flush()?;
        let summary = open.writer.finish()?;
        outcome.metric("rows", summary.rows as f64, "rows").metric("bytes", summary.bytes as f64, "bytes");
        outcome.section(Section::Samples {
            title: "First rows".to_owned(),
            columns: open.shape.columns().iter().map(|name| (*name).to_owned()).collect(),
            rows: self.shown,
        });
        Ok(())
    }
}

impl Open {
    fn new(path: &Utf8PathBuf, shape: DatasetShape, keep: &[String]) -> StageResult<Self> {
        let kept = keep.iter().map(|name| Field::new(name, DataType::Utf8, true));
        let schema = Arc::new(shape.schema(kept));
        let columns = schema.fields().iter().map(|_| StringBuilder::new()).collect();
        Ok(Self { shape, writer: DatasetWriter::create(path, schema, shape)?, columns, pending: 0, bytes: 0 })
    }

    fn push(&mut self, sample: &Sample) -> StageResult<()> {
        let texts =
            std::iter::once(Some(sample.id.as_str())).chain(sample.texts.iter().map(|text| Some(text.as_str())));
        let values = texts.chain(sample.kept.iter().map(Option::as_deref));
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.append_option(value);
            self.bytes += value.map_or(0, str::len);
        }
        self.pending += 1;
        if self.pending == BATCH_ROWS || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> StageResult<()> {
        if self.pending == 0 {
            return Ok(());
        }
        let arrays = self.columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        let batch = RecordBatch::try_new(Arc::clone(self.writer.schema()), arrays)
            .map_err(|error| StageError::new("ingest::batch", "rows make no batch").caused_by(error))?;
        (self.pending, self.bytes) = (0, 0);
        self.writer.write(&batch)
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
