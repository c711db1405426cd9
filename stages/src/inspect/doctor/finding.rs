//! One check and what came of it.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing was found.
    Ok,
    /// A number to know.
    Note,
    Warning,
    Error,
}

/// A row that failed a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Its `id`, or its number from 1.
    pub row: String,
    /// The piece of it that matters.
    pub text: String,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub check: &'static str,
    /// How many, of how many, do what.
    pub found: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Examples kept of a check, and characters of each.
const EXAMPLES: usize = 3;
const CHARACTERS: usize = 120;

/// A check while it goes over the rows.
pub(super) struct Check {
    severity: Severity,
    check: &'static str,
    what: &'static str,
    hint: &'static str,
    count: usize,
    examples: Vec<Example>,
}

impl Check {
    pub fn error(check: &'static str, what: &'static str, hint: &'static str) -> Self {
        Self { severity: Severity::Error, check, what, hint, count: 0, examples: Vec::new() }
    }

    pub fn warning(check: &'static str, what: &'static str, hint: &'static str) -> Self {
        Self { severity: Severity::Warning, ..Self::error(check, what, hint) }
    }

    /// A row that fails; `text` is asked for only if it is shown.
    pub fn hit(&mut self, row: &str, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(Example { row: row.to_owned(), text: shortened(&text()) });
        }
    }

    /// Every row fails, so that none is an example.
    pub fn count_all(&mut self, total: usize) {
        self.count = total;
    }

    pub fn finish(self, total: usize) -> Finding {
        if self.count == 0 {
            return Finding {
                severity: Severity::Ok,
                check: self.check,
                found: format!("none of {total}"),
                examples: Vec::new(),
                hint: None,
            };
        }
        Finding {
            severity: self.severity,
            check: self.check,
            found: format!("{} of {total} {}", self.count, self.what),
            examples: self.examples,
            hint: Some(self.hint.to_owned()),
        }
    }
}

/// One line of at most [`CHARACTERS`], the middle left out.
fn shortened(text: &str) -> String {
    let line = text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    let count = line.chars().count();
    if count <= CHARACTERS {
        return line;
    }
    let half = CHARACTERS / 2;
    let head: String = line.chars().take(half).collect();
    let tail: String = line.chars().skip(count - half).collect();
    format!("{head} … {tail}")
}
