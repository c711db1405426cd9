//! Lines, and what is repeated among pieces of text.

use crate::hash::Set;

/// The lines of a text as Python's `splitlines` has them: ended by any line break of Unicode or ASCII.
pub fn split_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text).filter(|text| !text.is_empty());
    std::iter::from_fn(move || {
        let text = rest?;
        let ends = |c: char| {
            matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
        };
        let Some(at) = text.find(ends) else {
            rest = None;
            return Some(text);
        };
        let (line, after) = text.split_at(at);
        let length = match after.as_bytes() {
            [b'\r', b'\n', ..] => 2,
            _ => after.chars().next().map_or(1, char::len_utf8),
        };
        rest = Some(&after[length..]).filter(|rest| !rest.is_empty());
        Some(line)
    })
}

/// The pieces between runs of at least `least` line feeds; a run at either end leaves an empty piece.
pub fn split_runs(text: &str, least: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\n') {
            let start = at + found;
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

/// How many of the pieces came before, and how many characters those have.
pub fn duplicates<'a>(pieces: impl Iterator<Item = &'a str>) -> (usize, usize) {
    let mut seen = Set::default();
    let (mut count, mut characters) = (0, 0);
    for piece in pieces {
        if !seen.insert(piece) {
            count += 1;
            characters += crate::chars(piece);
        }
    }
    (count, characters)
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
        assert_eq!(duplicates(["éa", "b", "éa", "éa"].into_iter()), (2, 4));
    }
}
