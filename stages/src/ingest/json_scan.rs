//! Cuts one big JSON array or object into its elements, without holding or parsing the whole.
//!
//! Only brackets, strings and commas at the top are understood here; every element is checked when it is parsed.

use std::io::{self, BufRead};

use super::record::{MAX_RECORD, Raw, Record};

pub struct JsonScan<R> {
    reader: R,
    line: u64,
    object: Option<bool>,
    finished: bool,
}

/// What is wrong with the outermost value.
#[derive(Debug)]
pub enum ScanError {
    Io(io::Error),
    Syntax { line: u64, what: String },
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<R: BufRead> JsonScan<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, line: 1, object: None, finished: false }
    }

    /// # Errors
    /// The outermost value is neither an array nor an object, or is not closed.
    pub fn next_record(&mut self) -> Result<Option<Record>, ScanError> {
        if self.finished {
            return Ok(None);
        }
        let object = match self.object {
            Some(object) => object,
            None => match self.skip_space()? {
                Some(open @ (b'[' | b'{')) => {
                    self.take()?;
                    self.object = Some(open == b'{');
                    open == b'{'
                }
                other => return Err(self.syntax("a JSON array or object", other)),
            },
        };
        loop {
            match self.skip_space()? {
                Some(b',') => drop(self.take()?),
                Some(b']') if !object => break,
                Some(b'}') if object => break,
                None => return Err(self.syntax(if object { "`}`" } else { "`]`" }, None)),
                Some(_) => return self.element(object).map(Some),
            }
        }
        self.take()?;
        self.finished = true;
        match self.skip_space()? {
            None => Ok(None),
            other => Err(self.syntax("the end of the file after the JSON value", other)),
        }
    }

    fn element(&mut self, object: bool) -> Result<Record, ScanError> {
        let line = self.line;
        if !object {
            let (value, length) = self.value()?;
            let raw = if length > MAX_RECORD { Raw::TooLong(length as u64) } else { Raw::Json(value) };
            return Ok(Record { line, raw });
        }
        if self.peek()? != Some(b'"') {
            let found = self.peek()?;
            return Err(self.syntax("a key in quotes", found));
        }
        let (key, key_length) = self.value()?;
        match self.skip_space()? {
            Some(b':') => drop(self.take()?),
            other => return Err(self.syntax("`:`", other)),
        }
        self.skip_space()?;
        let (value, length) = self.value()?;
        let total = key_length + length;
        let raw = if total > MAX_RECORD { Raw::TooLong(total as u64) } else { Raw::JsonMember(key, value) };
        Ok(Record { line, raw })
    }

    /// The bytes up to the next `,`, `:`, `]` or `}` of the same depth; not kept beyond the limit, but counted.
    fn value(&mut self) -> Result<(Vec<u8>, usize), ScanError> {
        let (mut bytes, mut length) = (Vec::new(), 0usize);
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        loop {
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                return Err(self.syntax("the rest of a value", None));
            }
            let mut used = 0;
            let mut ended = false;
            for byte in available {
                if in_string {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => in_string = false,
                        _ => {}
                    }
                } else {
                    match byte {
                        b'"' => in_string = true,
                        b'[' | b'{' => depth += 1,
                        b']' | b'}' | b',' | b':' if depth == 0 => {
                            ended = true;
                            break;
                        }
                        b']' | b'}' => depth -= 1,
                        _ => {}
                    }
                }
                used += 1;
                self.line += u64::from(*byte == b'\n');
            }
            length += used;
            if ended && length == 0 {
                // Nothing would be consumed, and the same place be met for ever.
                let found = available.first().copied();
                return Err(self.syntax("a value", found));
            }
            if length <= MAX_RECORD {
                bytes.extend_from_slice(&available[..used]);
            } else {
                bytes = Vec::new();
            }
            self.reader.consume(used);
            if ended {
                return Ok((bytes, length));
            }
        }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.reader.fill_buf()?.first().copied())
    }

    fn take(&mut self) -> io::Result<Option<u8>> {
        let byte = self.peek()?;
        if byte.is_some() {
            self.reader.consume(1);
        }
        self.line += u64::from(byte == Some(b'\n'));
        Ok(byte)
    }

    fn skip_space(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(byte) if byte.is_ascii_whitespace() => drop(self.take()?),
                other => return Ok(other),
            }
        }
    }

    fn syntax(&self, wanted: &str, found: Option<u8>) -> ScanError {
        let found = match found {
            Some(byte) => format!("`{}`", byte.escape_ascii()),
            None => "the end of the file".to_owned(),
        };
        ScanError::Syntax { line: self.line, what: format!("found {found}, expected {wanted}") }
    }
}
