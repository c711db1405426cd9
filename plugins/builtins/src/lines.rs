//! Lines, and what is repeated among pieces of text.

use crate::hash::hash;
use crate::vector::{self, BLOCK, Bytes, find};

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
    let bytes = text.as_bytes();
    let mut breaks = vector::positions(bytes, may_break);
    let mut start = 0;
    std::iter::from_fn(move || {
        let from = start;
        while from < bytes.len() {
            let Some(at) = breaks.next() else {
                start = bytes.len();
                return Some(&text[from..]);
            };
            // The second byte of a break is not one of its own.
            let length = if at < from { 0 } else { break_length(&bytes[at..]) };
            if length > 0 {
                start = at + length;
                return Some(&text[from..at]);
            }
        }
        None
    })
}

/// The pieces between line feeds.
pub fn split_feeds(text: &str) -> impl Iterator<Item = &str> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let start = next?;
        let end = find(text.as_bytes(), start, |bytes| bytes.is(b'\n'));
        next = end.map(|end| end + 1);
        Some(&text[start..end.unwrap_or(text.len())])
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

/// An open table of pieces; kept to be used again.
#[derive(Debug, Default)]
pub struct Pieces {
    slots: Vec<Slot>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    /// 0 if it is empty.
    hash: u64,
    start: u32,
    length: u32,
}

impl Pieces {
    /// What is repeated among at most `most` pieces of `text`.
    #[inline(never)]
    pub fn repeated<'a>(&mut self, text: &str, pieces: impl Iterator<Item = &'a str>, most: usize) -> Repeated {
        let bytes = text.as_bytes();
        let mask = (most * 2).next_power_of_two() - 1;
        self.slots.clear();
        self.slots.resize(mask + 1, Slot::default());
        let mut found = Repeated::default();
        for piece in pieces {
            found.pieces += 1;
            let hash = hash(piece.as_bytes()) | 1;
            let start = piece.as_ptr() as usize - text.as_ptr() as usize;
            let mut at = (hash >> 20) as usize & mask;
            loop {
                let slot = &mut self.slots[at];
                if slot.hash == 0 {
                    *slot = Slot { hash, start: start as u32, length: piece.len() as u32 };
                    break;
                }
                let before = slot.start as usize;
                if slot.hash == hash && bytes[before..before + slot.length as usize] == *piece.as_bytes() {
                    found.copies += 1;
                    found.characters += crate::chars(piece);
                    break;
                }
                at = (at + 1) & mask;
            }
        }
        found
    }
}

/// Whether two line feeds follow each other.
pub fn has_paragraphs(text: &str) -> bool {
    let bytes = text.as_bytes();
    let two = |at| vector::shifted(bytes, at, |[one, two]| one.is(b'\n').and(two.is(b'\n')));
    (0..bytes.len()).step_by(BLOCK).any(|at| two(at) != 0)
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
    fn feeds_split_as_the_library_does() {
        for text in ["", "\n", "a\n\nb", "a line that is longer than sixteen bytes\nanother one of that kind", "\nx\n"]
        {
            assert!(split_feeds(text).eq(text.split('\n')), "{text:?}");
        }
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
        let mut pieces = Pieces::default();
        let text = "éa b éa éa";
        let found = pieces.repeated(text, text.split(' '), 4);
        assert_eq!(found, Repeated { pieces: 4, copies: 2, characters: 4 });
        assert_eq!(pieces.repeated("", [].into_iter(), 1), Repeated::default());
    }

    #[test]
    fn paragraphs_are_seen_anywhere() {
        for before in 0..40 {
            let text = "x".repeat(before);
            assert!(has_paragraphs(&format!("{text}\n\n")) && !has_paragraphs(&format!("{text}\nx\n")), "{before}");
        }
    }
}
