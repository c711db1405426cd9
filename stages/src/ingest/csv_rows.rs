//! Tables of comma- or tab-separated values, as RFC 4180 writes them.
//!
//! A quote that nothing closes would make the rest of the file one field: silently where it opens in the last column, and
//! held in memory whatever its length. Neither may happen. So that the end of the file inside quotes can be told from one
//! outside, a line that no file contains is read after the last; and a row may take no more than [`MAX_RECORD`] bytes.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use luthier_core::{StageError, StageResult};

use super::open::{self, Bytes};
use super::record::{MAX_RECORD, Raw, Record};

/// Read after the end of the file, on a line of its own.
const END: &[u8] = b"\n\x1e\x17luthier: end of the table\x17\x1e\n";

/// An open table.
pub struct CsvRows {
    reader: csv::Reader<Metered>,
    columns: Arc<Vec<String>>,
    /// Bytes that the current row may still take.
    left: Arc<AtomicUsize>,
}

/// The bytes of the file and [`END`], at most `left` of them at a time.
struct Metered {
    bytes: io::Chain<Bytes, &'static [u8]>,
    left: Arc<AtomicUsize>,
}

/// A row takes more bytes than one may.
#[derive(Debug, thiserror::Error)]
#[error("a row has more than {MAX_RECORD} bytes")]
struct RowTooLong;

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other(RowTooLong));
        }
        let read = self.bytes.read(buffer)?;
        self.left.store(left.saturating_sub(read), Ordering::Relaxed);
        Ok(read)
    }
}

impl CsvRows {
    /// # Errors
    /// Unreadable, or without a usable header.
    pub fn open(name: &str, bytes: Bytes, delimiter: u8) -> StageResult<Self> {
        let left = Arc::new(AtomicUsize::new(MAX_RECORD));
        let bytes = Metered { bytes: bytes.chain(END), left: Arc::clone(&left) };
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(bytes);
        let header = reader.byte_headers().map_err(|error| unreadable(name, 1, error))?.clone();
        if runs_into_end(&header) {
            return Err(unclosed(name, 1));
        }
        // An empty file among others has no rows and needs no columns.
        let cells = header.iter().filter(|_| !is_end(&header));
        let columns: Vec<String> = cells.map(|cell| String::from_utf8_lossy(cell).trim().to_owned()).collect();
        let doubled = columns.iter().enumerate().find(|(at, column)| columns[..*at].contains(column));
        if let Some((_, column)) = doubled {
            return Err(StageError::input(
                "ingest::header",
                format!("the column `{column}` appears twice in the header"),
            )
            .at(name, 1, 0)
            .hint("rename one of the two"));
        }
        Ok(Self { reader, columns: Arc::new(columns), left })
    }

    /// # Errors
    /// The file cannot be read on.
    pub fn next_record(&mut self, name: &str) -> StageResult<Option<Record>> {
        let mut record = csv::ByteRecord::new();
        self.left.store(MAX_RECORD, Ordering::Relaxed);
        let begins = self.reader.position().line();
        if !self.reader.read_byte_record(&mut record).map_err(|error| unreadable(name, begins, error))?
            || is_end(&record)
        {
            return Ok(None);
        }
        let line = record.position().map_or(begins, csv::Position::line);
        if runs_into_end(&record) {
            return Err(unclosed(name, line));
        }
        if record.len() != self.columns.len() {
            let what = format!("has {} fields, the header has {}", record.len(), self.columns.len());
            let text = record.iter().collect::<Vec<_>>().join(&b"\t"[..]);
            return Ok(Some(Record { line, raw: Raw::Broken(what, text) }));
        }
        Ok(Some(Record { line, raw: Raw::Fields(Arc::clone(&self.columns), record) }))
    }
}

fn is_end(record: &csv::ByteRecord) -> bool {
    record.len() == 1 && record.get(0) == Some(END.trim_ascii())
}

/// [`END`] was read as a part of a field.
fn runs_into_end(record: &csv::ByteRecord) -> bool {
    record.iter().next_back().is_some_and(|field| field.ends_with(END))
}

fn unclosed(name: &str, line: u64) -> StageError {
    StageError::input("ingest::csv", "a quote that opens in this row is not closed by the end of the file")
        .at(name, line, 0)
        .hint(UNQUOTED)
}

const UNQUOTED: &str = "write a field as \"…\" with the quotes in it doubled; where quotes mean nothing, read the lines \
     themselves: `format: lines` with `pattern: '^(?<prompt>[^\\t]*)\\t(?<completion>.*)$'`";

fn unreadable(name: &str, line: u64, error: csv::Error) -> StageError {
    let line = error.position().map_or(line, csv::Position::line);
    match error.into_kind() {
        csv::ErrorKind::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<RowTooLong>()) => {
            let what =
                format!("the row takes more than {} MiB: a quote that opens in it is not closed", MAX_RECORD >> 20);
            StageError::input("ingest::csv", what).at(name, line, 0).hint(UNQUOTED)
        }
        csv::ErrorKind::Io(error) => open::damaged(name, error),
        kind => StageError::input("ingest::csv", format!("the table cannot be read: {kind:?}"))
            .at(name, line, 0)
            .hint(UNQUOTED),
    }
}
