//! Lines, and what is repeated among pieces of text.

use crate::hash::hash;
use crate::vector::{self, Bytes, find};

/// The first bytes of line breaks.
fn may_break(bytes: Bytes) -> Bytes {
    let ascii = bytes.within(b'\n', b'\r').or(bytes.within(0x1c, 0x1e));
    ascii.or(bytes.is(0xc2)).or(bytes.is(0xe2))
}

/// Bytes of the line break that starts here, 0 if none does.
fn break_length(bytes: &[u8]) -> usize {
    match bytes {
        [b'\r', b'\n', ..] => 2,
        [b'\n' | b'\r' | 0x0b | 0x0c | 0x1c..=0x1e, ..] => 1,
        // U+0085, U+2028 and U+2029.
        [0xc2, 0x85, ..] => 2,
        [0xe2, 0x80, 0xa8 | 0xa9, ..] => 3,
        _ => 0,
    }
}

/// The lines of a text as Python's `splitlines` has them: ended by any line break of Unicode or ASCII.
pub fn split_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text).filter(|text| !text.is_empty());
    std::iter::from_fn(move || {
        let text = rest?;
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(found) = find(bytes, at, may_break) {
            at = found;
            let length = break_length(&bytes[at..]);
            if length > 0 {
                rest = Some(&text[at + length..]).filter(|rest| !rest.is_empty());
                return Some(&text[..at]);
            }
            at += 1;
        }
        rest = None;
        Some(text)
    })
}

/// The pieces between runs of at least `least` line feeds; a run at either end leaves an empty piece.
pub fn split_runs(text: &str, least: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(start) = find(bytes, at, |bytes| bytes.is(b'\n')) {
            let run = bytes[start..].iter().take_while(|byte| **byte == b'\n').count();
            if run >= least {
                rest = Some(&text[start + run..]);
                return Some(&text[..start]);
            }
            at = start + run;
        }
        rest = None;
        Some(text)
    })
}

/// Pieces of a text that came before in it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Repeated {
    pub pieces: usize,
    /// Second and later copies.
    pub copies: usize,
    /// Characters of those.
    pub characters: usize,
}

/// What is repeated among at most `most` pieces.
pub fn repeated<'a>(pieces: impl Iterator<Item = &'a str>, most: usize) -> Repeated {
    let mask = (most * 2).next_power_of_two() - 1;
    let mut slots: Vec<(u64, &str)> = vec![(0, ""); mask + 1];
    let mut found = Repeated::default();
    for piece in pieces {
        found.pieces += 1;
        // 0 marks an empty slot.
        let hash = hash(piece.as_bytes()) | 1;
        let mut at = (hash >> 20) as usize & mask;
        loop {
            let slot = &mut slots[at];
            if slot.0 == 0 {
                *slot = (hash, piece);
                break;
            }
            if slot.0 == hash && slot.1 == piece {
                found.copies += 1;
                found.characters += crate::chars(piece);
                break;
            }
            at = (at + 1) & mask;
        }
    }
    found
}

/// Line feeds in a text.
pub fn line_feeds(text: &str) -> usize {
    vector::count(text.as_bytes(), |bytes| bytes.is(b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_in_python() {
        let lines = |text| split_lines(text).collect::<Vec<_>>();
        assert_eq!(lines("a\r\nb\rc\n\nd\u{2028}e\n"), ["a", "b", "c", "", "d", "e"]);
        assert!(lines("").is_empty());
        assert_eq!(lines("\n"), [""]);
        assert_eq!(lines("é\u{85}ö\u{2026}\u{2029}\u{b}x\u{1f}"), ["é", "ö…", "", "x\u{1f}"]);
    }

    #[test]
    fn runs_split_as_the_regular_expression_does() {
        let runs = |text, least| split_runs(text, least).collect::<Vec<_>>();
        assert_eq!(runs("a\nb\n\nc", 2), ["a\nb", "c"]);
        assert_eq!(runs("\na\n\n", 1), ["", "a", ""]);
        assert_eq!(runs("", 1), [""]);
    }

    #[test]
    fn counts_second_copies() {
        let found = repeated(["éa", "b", "éa", "éa"].into_iter(), 4);
        assert_eq!(found, Repeated { pieces: 4, copies: 2, characters: 4 });
        assert_eq!(repeated([].into_iter(), 1), Repeated::default());
    }
}
