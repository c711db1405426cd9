//! Why a call into a plugin failed.

use crate::limits::Limits;

/// The longest text of a guest that is shown or kept, bytes.
const LONGEST_TEXT: usize = 1_000;

/// A guest's words on one line of bounded length, without control characters that a terminal would obey.
pub(crate) fn tame(text: &str) -> String {
    let end = text.floor_char_boundary(LONGEST_TEXT);
    let mut out = String::with_capacity(end);
    for c in text[..end].chars() {
        match c {
            '\n' | '\r' | '\t' | ' ' if out.ends_with(' ') => {}
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    if end < text.len() {
        out.push('…');
    }
    out
}

/// One failed call. Its text is what a user reads after the plugin's name, and the reason of a row set aside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("panicked at {place}: {message}")]
    Panic { place: String, message: String },
    #[error("ran longer than {0} ms")]
    Deadline(u64),
    #[error("used all its fuel ({0} per call)")]
    Fuel(u64),
    #[error("wanted more than {0} MiB of memory")]
    Memory(u32),
    #[error("recursed too deep")]
    Stack,
    #[error("called `{0}`, which filters have no access to")]
    Forbidden(String),
    #[error("trapped: {0}")]
    Trap(String),
    #[error("returned nonsense: {0}")]
    Lie(String),
    #[error("refused the row: {0}")]
    Refused(String),
    #[error("failed: {0}")]
    Other(String),
}

impl Fault {
    /// An edit or a command that may help.
    #[must_use]
    pub fn hint(&self, limits: &Limits) -> String {
        match self {
            Self::Deadline(_) => format!(
                "raise `limits: {{timeout_ms: {}}}` on the step, or fix the loop in the plugin",
                limits.timeout_ms * 4
            ),
            Self::Fuel(fuel) => format!("raise `limits: {{fuel: {}}}` on the step", fuel.saturating_mul(4)),
            Self::Memory(_) => format!("raise `limits: {{memory_mib: {}}}` on the step", limits.memory_mib * 4),
            Self::Forbidden(import) if ["wasi:cli/std", "wasi:io/streams"].iter().any(|of| import.starts_with(of)) => {
                "print with the `log` of the SDK, which goes to the log of the stage".to_owned()
            }
            Self::Forbidden(_) => {
                "filters see the columns they are handed and nothing else: compute from those".to_owned()
            }
            Self::Lie(_) => "the plugin is broken: rebuild it with the SDK in plugins/sdk".to_owned(),
            _ => "fix the plugin, or set such rows aside with `on_trap: drop` on the step".to_owned(),
        }
    }

    /// Depends on the speed of the machine, so it must never decide about a row.
    #[must_use]
    pub fn depends_on_time(&self) -> bool {
        matches!(self, Self::Deadline(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_and_files_have_hints_of_their_own() {
        let hint = |import: &str| Fault::Forbidden(import.to_owned()).hint(&Limits::DEFAULT);
        let print = hint("wasi:io/streams@0.2.12#[method]output-stream.check-write");
        assert_eq!(print, "print with the `log` of the SDK, which goes to the log of the stage");
        assert!(hint("wasi:sockets/tcp@0.2.12#connect").starts_with("filters see the columns"));
    }

    #[test]
    fn tames_texts() {
        assert_eq!(tame("left: 1\n right: 2\u{1b}[31m"), "left: 1 right: 2\u{fffd}[31m");
        let long = tame(&"é".repeat(2_000));
        assert_eq!((long.len(), long.ends_with('…')), (1_003, true));
    }
}
