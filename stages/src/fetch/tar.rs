//! A forward reader of tar archives: ustar, GNU long names, and pax headers' `path` and `size`. Source: POSIX.1-2017, pax
//! interchange format; GNU tar manual, "Basic Tar Format".

use std::io::{self, Read};

const BLOCK: usize = 512;
/// Names and pax headers longer than this are refused.
const MAX_EXTENSION: u64 = 1 << 20;

/// Reads file after file; between two calls of [`Self::next_file`] it reads as the content of the current file.
pub struct TarReader<R> {
    inner: R,
    /// Bytes left of the current content.
    left: u64,
    /// Bytes after the content up to the next block.
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// Goes to the next regular file: its path and size.
    ///
    /// # Errors
    /// A header whose checksum or numbers are wrong, or the end in the middle.
    pub fn next_file(&mut self) -> io::Result<Option<(String, u64)>> {
        let (mut long_name, mut long_size) = (None, None);
        loop {
            self.skip_rest()?;
            let mut header = [0u8; BLOCK];
            if !self.read_block(&mut header)? || header.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            check_sum(&header)?;
            let size = match long_size.take() {
                Some(size) => size,
                None => number(&header[124..136])?,
            };
            self.left = size;
            self.padding = size.next_multiple_of(BLOCK as u64) - size;
            match header[156] {
                b'0' | 0 | b'7' => {
                    let name = long_name.take().unwrap_or_else(|| plain_name(&header));
                    return Ok(Some((name.trim_start_matches("./").to_owned(), size)));
                }
                b'L' => long_name = Some(text(&self.read_extension(size)?)),
                b'x' => {
                    let records = self.read_extension(size)?;
                    for (key, value) in pax_records(&records) {
                        match key {
                            "path" => long_name = Some(value.to_owned()),
                            "size" => long_size = value.parse().ok(),
                            _ => {}
                        }
                    }
                }
                _ => (long_name, long_size) = (None, None),
            }
        }
    }

    fn read_extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(bad(format!("an extended header of {size} bytes")));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        if skipped < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// False at a clean end of the archive.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(true)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn bad(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the tar archive has {what}"))
}

fn check_sum(header: &[u8; BLOCK]) -> io::Result<()> {
    let stated = number(&header[148..156])?;
    let sum: u64 =
        header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    if sum == stated { Ok(()) } else { Err(bad("a header with a wrong checksum")) }
}

/// Octal digits, or big-endian binary if the first bit is set.
fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        if high[0] != 0x80 || high[1..].iter().any(|byte| *byte != 0) || low[0] & 0x80 != 0 {
            return Err(bad("a number that is too large"));
        }
        return Ok(low.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    }
    let digits = text(field);
    let digits = digits.trim();
    if digits.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(digits, 8).map_err(|_| bad("a number that is not octal"))
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn plain_name(header: &[u8; BLOCK]) -> String {
    let name = text(&header[..100]);
    let prefix = if &header[257..262] == b"ustar" { text(&header[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

/// `LENGTH KEY=VALUE\n`, the length counting itself.
fn pax_records(mut bytes: &[u8]) -> Vec<(&str, &str)> {
    let mut records = Vec::new();
    while let Some(space) = bytes.iter().position(|byte| *byte == b' ') {
        let length: Option<usize> = std::str::from_utf8(&bytes[..space]).ok().and_then(|digits| digits.parse().ok());
        let Some(length) = length.filter(|length| *length > space + 1 && *length <= bytes.len()) else { break };
        if let Ok(record) = std::str::from_utf8(&bytes[space + 1..length])
            && let Some((key, value)) = record.trim_end_matches('\n').split_once('=')
        {
            records.push((key, value));
        }
        bytes = &bytes[length..];
    }
    records
}
