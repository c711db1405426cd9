//! Telephone numbers: international ones with a plus sign (ITU-T E.164), and those of North America with their
//! separators. National forms of other countries are not told from other numbers.

use std::ops::Range;

use super::{before, digits, is_word};

pub fn find(bytes: &[u8], mut found: impl FnMut(Range<usize>)) {
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'(')) {
        at += next;
        let free =
            !is_word(before(bytes, at)) && !matches!(before(bytes, at), Some(b'.' | b'-' | b'/' | b'_' | b'+' | b','));
        let length = if !free {
            None
        } else if bytes[at] == b'+' {
            international(&bytes[at..])
        } else {
            north_american(&bytes[at..])
        };
        match length {
            Some(length) => {
                found(at..at + length);
                at += length;
            }
            // A number is skipped as a whole.
            None => at += digits(&bytes[at..]).max(1),
        }
    }
}

fn ends(bytes: &[u8], at: usize) -> bool {
    match (bytes.get(at).copied(), bytes.get(at + 1).copied()) {
        (Some(b'.' | b'-' | b',' | b'/'), after) => !is_word(after),
        (Some(b'_' | b'@' | b'%'), _) => false,
        (after, _) => !is_word(after),
    }
}

/// `+`, a country code, 8 to 15 digits in all; runs of digits joined by single separators, one run in parentheses.
fn international(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    let (mut count, mut runs) = (0, 0);
    if !bytes.get(1).is_some_and(|byte| (b'1'..=b'9').contains(byte)) {
        return None;
    }
    let mut end = 0;
    loop {
        let run = digits(&bytes[at..]);
        if run == 0 {
            break;
        }
        count += run;
        runs += 1;
        at += run;
        end = at;
        match &bytes[at..] {
            [b')', b' ' | b'-', next, ..] if next.is_ascii_digit() => at += 2,
            [b' ', b'(', next, ..] if next.is_ascii_digit() => at += 2,
            [b' ' | b'-' | b'.' | b'/' | b'(' | b')', next, ..] if next.is_ascii_digit() => at += 1,
            _ => break,
        }
    }
    // Without a separator, eight or nine digits may be any number.
    ((8..=15).contains(&count) && (runs > 1 || count >= 10) && ends(bytes, end)).then_some(end)
}

/// `(212) 555-0123`, `212-555-0123`, `212.555.0123`, each with `1` before or not. Area and exchange start with 2 to 9,
/// and the area is no service code.
fn north_american(bytes: &[u8]) -> Option<usize> {
    let mut at = match bytes {
        [b'1', b'-' | b'.' | b' ', ..] => 2,
        _ => 0,
    };
    let enclosed = bytes.get(at) == Some(&b'(');
    at += usize::from(enclosed);
    if digits(&bytes[at..]) != 3 {
        return None;
    }
    let area = &bytes[at..at + 3];
    at += 3;
    let separator = if enclosed {
        if bytes.get(at) != Some(&b')') {
            return None;
        }
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b' ' | b'-')));
        b'-'
    } else {
        let separator = *bytes.get(at).filter(|byte| matches!(byte, b'-' | b'.'))?;
        at += 1;
        separator
    };
    if digits(&bytes[at..]) != 3 {
        return None;
    }
    let exchange = bytes[at];
    at += 3;
    let joined = bytes.get(at).is_some_and(|byte| *byte == separator || enclosed && matches!(byte, b'.' | b' '));
    if !joined || digits(&bytes[at + 1..]) != 4 {
        return None;
    }
    let end = at + 5;
    let plausible = (b'2'..=b'9').contains(&area[0]) && &area[1..] != b"11" && (b'2'..=b'9').contains(&exchange);
    (plausible && ends(bytes, end)).then_some(end)
}
