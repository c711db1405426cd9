//! What a process elsewhere has written so far.

use std::collections::VecDeque;
use std::io::{Read, Seek, SeekFrom};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{EventSink, StageEvent, StageOutcome};

use super::StageFailure;
use super::wire::Message;

/// The end of a text file, at most `most` lines of it; nothing of one that cannot be read.
pub(super) fn last_lines(path: &Utf8Path, most: usize) -> Vec<String> {
    const BYTES: u64 = 64 << 10;
    let Ok(mut file) = fs_err::File::open(path) else { return Vec::new() };
    let size = file.metadata().map_or(0, |meta| meta.len());
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(size.saturating_sub(BYTES))).and_then(|_| file.read_to_end(&mut bytes)).is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines: VecDeque<&str> = text.lines().collect();
    while lines.len() > most {
        lines.pop_front();
    }
    lines.into_iter().map(str::to_owned).collect()
}

/// Reads a growing file of messages.
pub(super) struct Tail {
    path: Utf8PathBuf,
    at: u64,
    /// The beginning of a line whose end is yet to be written.
    rest: Vec<u8>,
}

impl Tail {
    pub fn new(path: Utf8PathBuf) -> Self {
        Self { path, at: 0, rest: Vec::new() }
    }

    /// Emits what is new; the result, if it is there.
    pub fn read(&mut self, sink: &dyn EventSink) -> Option<Result<(StageOutcome, u64), StageFailure>> {
        let mut file = fs_err::File::open(&self.path).ok()?;
        file.seek(SeekFrom::Start(self.at)).ok()?;
        let mut new = Vec::new();
        self.at += file.read_to_end(&mut new).ok()? as u64;
        self.rest.append(&mut new);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Message::Event(event)) => sink.emit(event),
                Ok(Message::Done { outcome, peak_memory }) => return Some(Ok((outcome, peak_memory))),
                Ok(Message::Failed(failure)) => return Some(Err(failure)),
                Err(_) => sink.emit(StageEvent::Log(String::from_utf8_lossy(&line).trim_end().to_owned())),
            }
        }
        None
    }
}
