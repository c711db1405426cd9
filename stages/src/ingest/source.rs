//! One file as a stream of raw records, whatever its format.

use std::collections::VecDeque;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::config::{Format, IngestConfig, SampleBy};
use super::csv_rows::CsvRows;
use super::json_scan::{JsonScan, ScanError};
use super::open::{self, Bytes};
use super::record::{Lines, MAX_RECORD, Raw, Record};

/// Rows of Parquet held at once: this many, fewer where they are long.
const PARQUET_ROWS: usize = 1024;
const PARQUET_BYTES: i64 = 8 << 20;

/// An open file.
pub struct FileSource {
    name: String,
    kind: Kind,
    pub format: Format,
}

enum Kind {
    Lines(Lines<Bytes>),
    Paragraphs(Lines<Bytes>),
    Document(Option<Bytes>),
    Json(JsonScan<Bytes>),
    Csv(Box<CsvRows>),
    Parquet { reader: Box<ParquetRecordBatchReader>, rows: VecDeque<Record>, count: u64 },
}

impl FileSource {
    /// # Errors
    /// Unreadable, of an unknown format, or without a usable header.
    pub fn open(path: &Utf8Path, name: &str, config: &IngestConfig) -> StageResult<Self> {
        let (format, bytes) = open::open(path, name, config)?;
        let kind = match format {
            Format::Jsonl | Format::Lines | Format::Auto => Kind::Lines(Lines::new(bytes)),
            Format::Text => match config.sample_by {
                SampleBy::Line => Kind::Lines(Lines::new(bytes)),
                SampleBy::Paragraph => Kind::Paragraphs(Lines::new(bytes)),
                SampleBy::Document => Kind::Document(Some(bytes)),
            },
            Format::Json => Kind::Json(JsonScan::new(bytes)),
            Format::Csv => Kind::Csv(Box::new(CsvRows::open(name, bytes, separator(config))?)),
            Format::Tsv => Kind::Csv(Box::new(CsvRows::open(name, bytes, b'\t')?)),
            Format::Parquet => open_parquet(path, name)?,
        };
        Ok(Self { name: name.to_owned(), kind, format })
    }

    /// # Errors
    /// The file cannot be read on; nothing after this point can be trusted, so `on_error: skip` does not apply.
    pub fn next_record(&mut self) -> StageResult<Option<Record>> {
        let name = &self.name;
        match &mut self.kind {
            Kind::Lines(lines) => loop {
                let record = lines.next_line().map_err(|error| open::damaged(name, error))?;
                match record {
                    Some(Record { raw: Raw::Text(text), .. }) if text.iter().all(u8::is_ascii_whitespace) => {}
                    record => return Ok(record),
                }
            },
            Kind::Paragraphs(lines) => next_paragraph(lines).map_err(|error| open::damaged(name, error)),
            Kind::Document(bytes) => match bytes.take() {
                Some(bytes) => read_document(bytes).map(Some).map_err(|error| open::damaged(name, error)),
                None => Ok(None),
            },
            Kind::Json(scan) => scan.next_record().map_err(|error| match error {
                ScanError::Io(error) => open::damaged(name, error),
                ScanError::Syntax { line, what } => StageError::input("ingest::json", what)
                    .at(name.clone(), line, 0)
                    .hint("the file must be one JSON array or object; for one object a line set `format: jsonl`"),
            }),
            Kind::Csv(rows) => rows.next_record(name),
            Kind::Parquet { reader, rows, count } => {
                if rows.is_empty() {
                    let next = super::parquet_rows::guard(name, || reader.next().transpose().map_err(Into::into))?;
                    let Some(batch) = next else { return Ok(None) };
                    for row in 0..batch.num_rows() {
                        *count += 1;
                        rows.push_back(Record { line: *count, raw: Raw::Row(batch.clone(), row) });
                    }
                }
                Ok(rows.pop_front())
            }
        }
    }
}

/// Between the fields of a CSV file.
fn separator(config: &IngestConfig) -> u8 {
    config.delimiter.as_ref().and_then(|text| text.bytes().next()).unwrap_or(b',')
}

fn next_paragraph(lines: &mut Lines<Bytes>) -> std::io::Result<Option<Record>> {
    let (mut text, mut first) = (Vec::new(), 0);
    while let Some(record) = lines.next_line()? {
        let Raw::Text(line) = record.raw else { return Ok(Some(record)) };
        if line.iter().all(u8::is_ascii_whitespace) {
            if first > 0 {
                break;
            }
            continue;
        }
        if first == 0 {
            first = record.line;
        } else {
            text.push(b'\n');
        }
        text.extend_from_slice(&line);
        if text.len() > MAX_RECORD {
            return Ok(Some(Record { line: first, raw: Raw::TooLong(text.len() as u64) }));
        }
    }
    Ok((first > 0).then_some(Record { line: first, raw: Raw::Text(text) }))
}

fn read_document(bytes: Bytes) -> std::io::Result<Record> {
    use std::io::Read;
    let mut text = Vec::new();
    bytes.take(MAX_RECORD as u64 + 1).read_to_end(&mut text)?;
    let raw = if text.len() > MAX_RECORD { Raw::TooLong(text.len() as u64) } else { Raw::Text(text) };
    Ok(Record { line: 1, raw })
}

fn open_parquet(path: &Utf8Path, name: &str) -> StageResult<Kind> {
    let file = fs_err::File::open(path)?.into_parts().0;
    let reader = super::parquet_rows::guard(name, || {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let groups = builder.metadata().row_groups();
        let longest = groups.iter().map(|group| group.total_byte_size() / group.num_rows().max(1)).max();
        let fitting = usize::try_from(PARQUET_BYTES / longest.unwrap_or(0).max(1)).unwrap_or(1);
        builder.with_batch_size(fitting.clamp(1, PARQUET_ROWS)).build()
    })?;
    Ok(Kind::Parquet { reader: Box::new(reader), rows: VecDeque::new(), count: 0 })
}
