//! What the functions see that a guest may call.

use crate::bindings::{v0_1, v0_2, v0_3};
use crate::fault::tame;
use crate::limits::{Limits, MemoryLimiter};

/// Lines a guest may log in one call; more are dropped.
const MOST_LINES: usize = 100;
const LONGEST_LINE: usize = 4_096;

/// The host's side of one instance.
pub(crate) struct HostState {
    pub(crate) limiter: MemoryLimiter,
    lines: Vec<String>,
    /// Place and message.
    panic: Option<(String, String)>,
    started: bool,
}

impl HostState {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { limiter: MemoryLimiter::new(limits), lines: Vec::new(), panic: None, started: false }
    }

    /// The guest is instantiated: from now on its own code runs.
    pub(crate) fn start(&mut self) {
        self.started = true;
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started
    }

    /// Place and message of the panic that the guest announced.
    pub(crate) fn panic(&self) -> Option<&(String, String)> {
        self.panic.as_ref()
    }

    /// What the guest logged since the last call of this.
    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    fn keep_line(&mut self, mut message: String) {
        if self.lines.len() < MOST_LINES {
            message.truncate(message.floor_char_boundary(LONGEST_LINE));
            self.lines.push(message);
        }
    }

    fn keep_panic(&mut self, place: &str, message: &str) {
        self.panic = Some((tame(place), tame(message)));
    }
}

impl v0_1::luthier::filter::host::Host for HostState {
    fn log(&mut self, level: v0_1::luthier::filter::host::Level, message: String) {
        // The world has no call for panics: its SDK sent them as an error line of four parts.
        let mut parts = message.split('\u{1f}');
        if let (v0_1::luthier::filter::host::Level::Error, Some("panic"), Some(_row), Some(place), Some(what)) =
            (level, parts.next(), parts.next(), parts.next(), parts.next())
        {
            self.keep_panic(place, what);
        } else {
            self.keep_line(message);
        }
    }
}

impl v0_2::luthier::filter::host::Host for HostState {
    fn log(&mut self, _level: v0_2::luthier::filter::host::Level, message: String) {
        self.keep_line(message);
    }

    fn panic(&mut self, _row: Option<u32>, place: String, message: String) {
        self.keep_panic(&place, &message);
    }
}

impl v0_3::luthier::filter::host::Host for HostState {
    fn log(&mut self, _level: v0_3::luthier::filter::host::Level, message: String) {
        self.keep_line(message);
    }

    fn panic(&mut self, _row: Option<u32>, place: String, message: String) {
        self.keep_panic(&place, &message);
    }
}
