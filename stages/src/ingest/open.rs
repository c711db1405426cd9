//! Opening a file: decompression, byte-order mark, and which format it is.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};

use super::config::{Format, IngestConfig};

/// Bytes looked at to tell a format.
const PEEK: usize = 64 << 10;
/// The largest window a zstd frame may ask for, as the `zstd` program's `--long=27` needs.
const WINDOW_LOG: u32 = 27;

type Peeked<R> = Chain<Cursor<Vec<u8>>, R>;

/// Decompressed bytes without a byte-order mark.
pub type Bytes = BufReader<Box<dyn Read + Send>>;

/// Opens `path` and decides its format; a Parquet file is handed back unopened.
///
/// # Errors
/// Unreadable, in UTF-16, or a format that cannot be told.
pub fn open(path: &Utf8Path, name: &str, config: &IngestConfig) -> StageResult<(Format, Bytes)> {
    let file = fs_err::File::open(path)?;
    let (head, file) = peek(file)?;
    let (compressed, reader): (bool, Box<dyn Read + Send>) = if head.starts_with(&[0x1f, 0x8b]) {
        (true, Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::Decoder::new(file)?;
        decoder.window_log_max(WINDOW_LOG)?;
        (true, Box::new(decoder))
    } else {
        (false, Box::new(file))
    };
    if !compressed && let Some((by, command)) = packed(&head) {
        return Err(StageError::input(
            "ingest::packed",
            format!("`{name}` is packed by {by}, expected gzip, zstd or plain"),
        )
        .hint(format!("unpack it: {command} {name}")));
    }
    let (mut head, reader) = if compressed {
        let (head, reader) = peek(reader).map_err(|error| damaged(name, error))?;
        (head, Box::new(reader) as Box<dyn Read + Send>)
    } else {
        (head, reader)
    };
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return Err(StageError::input("ingest::encoding", format!("`{name}` is UTF-16, expected UTF-8"))
            .hint(format!("convert it: iconv -f UTF-16 -t UTF-8 {name} > converted")));
    }
    let mut bytes = BufReader::with_capacity(256 << 10, reader);
    if head.starts_with(&[0xef, 0xbb, 0xbf]) {
        bytes.fill_buf()?;
        bytes.consume(3);
        head.drain(..3);
    }
    let format = match config.format {
        Format::Auto => detect(name, &head, config)?,
        format => format,
    };
    Ok((format, bytes))
}

/// Programs whose files are not read, by their first bytes, and how to unpack those.
fn packed(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let known: [(&[u8], _, _); 5] = [
        (b"BZh", "bzip2", "bunzip2 --keep"),
        (b"\xfd7zXZ\0", "xz", "xz --decompress --keep"),
        (b"PK\x03\x04", "zip", "unzip"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x"),
        (b"\x04\x22\x4d\x18", "lz4", "lz4 --decompress"),
    ];
    known.into_iter().find(|(start, ..)| head.starts_with(start)).map(|(_, by, command)| (by, command))
}

pub fn damaged(name: &str, error: io::Error) -> StageError {
    StageError::input("ingest::damaged", format!("`{name}` cannot be read to its end"))
        .hint("the compressed file is damaged or cut off; fetch or write it again")
        .caused_by(error)
}

fn peek<R: Read>(mut reader: R) -> io::Result<(Vec<u8>, Peeked<R>)> {
    let mut head = Vec::new();
    reader.by_ref().take(PEEK as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Cursor::new(head).chain(reader)))
}

fn detect(name: &str, head: &[u8], config: &IngestConfig) -> StageResult<Format> {
    if config.pattern.is_some() {
        return Ok(Format::Lines);
    }
    if head.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    let lower = name.to_ascii_lowercase();
    let base = [".gz", ".zst", ".zstd"].iter().find_map(|end| lower.strip_suffix(end)).unwrap_or(&lower);
    let by_name = match base.rsplit_once('.').map(|(_, extension)| extension) {
        Some("jsonl" | "ndjson") => Some(Format::Jsonl),
        Some("csv") => Some(Format::Csv),
        Some("tsv" | "tab") => Some(Format::Tsv),
        Some("parquet") => Some(Format::Parquet),
        Some("txt" | "text" | "md") => Some(Format::Text),
        _ => None,
    };
    if let Some(format) = by_name {
        return Ok(format);
    }
    let start = head.iter().position(|byte| !byte.is_ascii_whitespace());
    match start.map(|start| (head[start], &head[start..])) {
        Some((b'[', _)) => Ok(Format::Json),
        Some((b'{', rest)) => Ok(detect_object(base.ends_with(".json"), rest, head.len() == PEEK)),
        _ => {
            Err(StageError::input("ingest::format", format!("the format of `{name}` cannot be told from its content"))
                .hint("set `format:` to one of jsonl, json, csv, tsv, parquet, text, lines"))
        }
    }
}

/// `{` begins a line of JSONL if the line is complete in itself and others follow; alone it is what the file's name says.
fn detect_object(named_json: bool, rest: &[u8], more: bool) -> Format {
    let alone = if named_json { Format::Json } else { Format::Jsonl };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return alone };
    let (line, after) = rest.split_at(end);
    if !more && after.iter().all(u8::is_ascii_whitespace) {
        return alone;
    }
    let complete = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
    if complete || !named_json && line.trim_ascii_end().len() > 1 { Format::Jsonl } else { Format::Json }
}
