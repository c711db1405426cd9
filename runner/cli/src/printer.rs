//! Everything the program says goes through here: results to standard output, the rest to standard error, colour and
//! verbosity decided once.

use std::io::{IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};

use crate::args::{ColorWhen, Global};
use crate::wrap::wrap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    Quiet,
    Normal,
    Verbose,
}

/// Decides where a line goes and how it looks.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    pub verbosity: Verbosity,
    pub json: bool,
    choice: ColorChoice,
    /// For standard output.
    results: ColorChoice,
    /// Standard error is a terminal, so a live display makes sense.
    pub live: bool,
    terminal: bool,
}

impl Printer {
    #[must_use]
    pub fn new(global: &Global) -> Self {
        let verbosity = match (global.quiet, global.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        };
        let choice = match global.color {
            ColorWhen::Always => ColorChoice::Always,
            ColorWhen::Never => ColorChoice::Never,
            ColorWhen::Auto => AutoStream::choice(&std::io::stderr()),
        };
        let results = match global.color {
            ColorWhen::Auto => AutoStream::choice(&std::io::stdout()),
            ColorWhen::Always | ColorWhen::Never => choice,
        };
        let terminal = std::io::stderr().is_terminal();
        let live = terminal && verbosity == Verbosity::Normal && !global.json;
        Self { verbosity, json: global.json, choice, results, live, terminal }
    }

    /// Whether standard error shows colour.
    #[must_use]
    pub fn color(&self) -> bool {
        matches!(self.choice, ColorChoice::Always | ColorChoice::AlwaysAnsi)
    }

    /// Whether results are shown in colour.
    #[must_use]
    pub fn result_color(&self) -> bool {
        !self.json && self.results != ColorChoice::Never
    }

    /// `COLUMNS`, else the columns of the terminal, else 100.
    #[must_use]
    pub fn width(&self) -> usize {
        let named = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let measured = || terminal_size::terminal_size_of(std::io::stderr()).map(|(width, _)| usize::from(width.0));
        named.or_else(measured).filter(|width| *width >= 40).unwrap_or(100)
    }

    /// The columns that a result may take, if it goes to a terminal.
    #[must_use]
    pub fn result_width(&self) -> Option<usize> {
        std::io::stdout().is_terminal().then(|| self.width())
    }

    /// A result: the thing that was asked for. A closed pipe ends the program quietly.
    pub fn result(&self, text: &str) {
        let choice = if self.json { ColorChoice::Never } else { self.results };
        let mut out = AutoStream::new(std::io::stdout(), choice);
        if writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    }

    /// A JSON result.
    pub fn json(&self, value: &impl serde::Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.result(&text),
            Err(error) => self.error_line(&format!("error: the result is not JSON: {error}")),
        }
    }

    /// Something worth knowing while working; not in quiet mode.
    pub fn note(&self, text: &str) {
        if self.verbosity > Verbosity::Quiet {
            self.message(text);
        }
    }

    /// Words to a person, always shown: a terminal gets lines of its width, a pipe gets them as they are.
    pub fn message(&self, text: &str) {
        if self.terminal {
            self.error_line(&wrap(text, self.width()));
        } else {
            self.error_line(text);
        }
    }

    /// Always shown, as it is.
    pub fn error_line(&self, text: &str) {
        let mut err = AutoStream::new(std::io::stderr(), self.choice);
        // Nothing can be said once standard error is gone.
        let _ = writeln!(err, "{}", text.trim_end_matches('\n'));
    }
}
