//! Raw records: the pieces a file is cut into before they are parsed, which happens in parallel.

use std::io::{self, BufRead};
use std::sync::Arc;

use arrow::array::RecordBatch;

/// A record that exceeds this is broken; it bounds memory.
pub const MAX_RECORD: usize = 64 << 20;

/// One uncut record and where it begins.
#[derive(Debug)]
pub struct Record {
    /// 1-based line in the decompressed file; for Parquet the row.
    pub line: u64,
    pub raw: Raw,
}

#[derive(Debug)]
pub enum Raw {
    /// The text of a line, paragraph or document.
    Text(Vec<u8>),
    /// One JSON value.
    Json(Vec<u8>),
    /// One member of a JSON object: its key as JSON, and its value.
    JsonMember(Vec<u8>, Vec<u8>),
    Fields(Arc<Vec<String>>, csv::ByteRecord),
    Row(RecordBatch, usize),
    /// Longer than [`MAX_RECORD`], with its length.
    TooLong(u64),
    /// The reader could cut it out but says that it is broken, with the text it has.
    Broken(String, Vec<u8>),
}

impl Raw {
    /// Bytes held, for batching.
    pub fn weight(&self) -> usize {
        match self {
            Self::Text(text) | Self::Json(text) | Self::Broken(_, text) => text.len(),
            Self::JsonMember(key, value) => key.len() + value.len(),
            Self::Fields(_, record) => record.as_slice().len(),
            Self::Row(batch, _) => batch.get_array_memory_size() / batch.num_rows().max(1),
            Self::TooLong(_) => 0,
        }
    }

    /// The text to keep with a rejected row.
    pub fn excerpt(&self) -> String {
        const MOST: usize = 4096;
        let bytes: Vec<u8> = match self {
            Self::Text(text) | Self::Json(text) | Self::Broken(_, text) => text[..text.len().min(MOST)].to_vec(),
            Self::JsonMember(key, value) => {
                let mut bytes = key.clone();
                bytes.extend_from_slice(b": ");
                bytes.extend_from_slice(&value[..value.len().min(MOST)]);
                bytes
            }
            Self::Fields(_, record) => {
                record.iter().collect::<Vec<_>>().join(&b"\t"[..]).into_iter().take(MOST).collect()
            }
            Self::Row(..) | Self::TooLong(_) => Vec::new(),
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Reads lines without their ends (`\n` or `\r\n`); a line over [`MAX_RECORD`] is skipped, and told.
pub struct Lines<R> {
    reader: R,
    line: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, line: 0 }
    }

    pub fn next_line(&mut self) -> io::Result<Option<Record>> {
        let mut text = Vec::new();
        let mut length = 0u64;
        loop {
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                if length == 0 {
                    return Ok(None);
                }
                break;
            }
            let (count, ended) = match available.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (available.len(), false),
            };
            length += count as u64;
            if text.len() + count <= MAX_RECORD {
                text.extend_from_slice(&available[..count]);
            } else {
                text = Vec::new();
            }
            self.reader.consume(count);
            if ended {
                break;
            }
        }
        self.line += 1;
        if length > MAX_RECORD as u64 {
            return Ok(Some(Record { line: self.line, raw: Raw::TooLong(length) }));
        }
        if text.last() == Some(&b'\n') {
            text.pop();
            if text.last() == Some(&b'\r') {
                text.pop();
            }
        }
        Ok(Some(Record { line: self.line, raw: Raw::Text(text) }))
    }
}
