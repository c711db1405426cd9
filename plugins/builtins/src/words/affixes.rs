//! What comes off the ends of a piece of text, and where it is cut inside.

use crate::character::{is_icon, is_lower};

fn is_quote(c: char) -> bool {
    matches!(
        c,
        '\'' | '"'
            | '”'
            | '“'
            | '`'
            | '‘'
            | '´'
            | '’'
            | '‚'
            | ','
            | '„'
            | '»'
            | '«'
            | '「'
            | '」'
            | '『'
            | '』'
            | '（'
            | '）'
            | '〔'
            | '〕'
            | '【'
            | '】'
            | '《'
            | '》'
            | '〈'
            | '〉'
            | '⟦'
            | '⟧'
    )
}

fn is_mark(c: char) -> bool {
    matches!(
        c,
        '…' | ','
            | ':'
            | ';'
            | '!'
            | '?'
            | '¿'
            | '؟'
            | '¡'
            | '('
            | ')'
            | '['
            | ']'
            | '{'
            | '}'
            | '<'
            | '>'
            | '_'
            | '#'
            | '*'
            | '&'
            | '。'
            | '？'
            | '！'
            | '，'
            | '、'
            | '；'
            | '：'
            | '～'
            | '·'
            | '।'
            | '،'
            | '۔'
            | '؛'
            | '٪'
    )
}

fn is_currency(c: char) -> bool {
    matches!(c, '$' | '£' | '€' | '¥' | '฿' | '﷼' | '₠'..='₿')
}

fn dots(text: &[u8]) -> usize {
    let count = text.iter().take_while(|byte| **byte == b'.').count();
    if count >= 2 { count } else { 0 }
}

/// What an ASCII character is at an end of a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It stays.
    Stays,
    /// It comes off.
    Off,
    /// It depends on what is beside it.
    Depends,
}

/// At the front, and at the back.
const ENDS: [[End; 128]; 2] = {
    let mut ends = [[End::Stays; 128]; 2];
    let mut at = 0;
    while at < 128 {
        let byte = at as u8;
        let off = matches!(
            byte,
            b',' | b':'
                | b';'
                | b'!'
                | b'?'
                | b'('
                | b')'
                | b'['
                | b']'
                | b'{'
                | b'}'
                | b'<'
                | b'>'
                | b'_'
                | b'#'
                | b'*'
                | b'&'
                | b'\''
                | b'"'
                | b'`'
        );
        if off {
            ends[0][at] = End::Off;
            ends[1][at] = End::Off;
        } else if matches!(byte, b'%' | b'=' | b'$') {
            ends[0][at] = End::Off;
        } else if matches!(byte, b'U' | b'C' | b'A' | b'+' | b'.') {
            ends[0][at] = End::Depends;
        }
        if matches!(byte, b'.' | b'+' | b'$' | b'%') || byte.is_ascii_alphabetic() {
            ends[1][at] = End::Depends;
        }
        at += 1;
    }
    ends
};

fn end_of(side: usize, byte: Option<&u8>) -> End {
    byte.and_then(|byte| ENDS[side].get(usize::from(*byte))).map_or(End::Depends, |end| *end)
}

/// Bytes of what comes off the front.
pub fn prefix(text: &str) -> usize {
    match end_of(0, text.as_bytes().first()) {
        End::Stays => 0,
        End::Off => 1,
        End::Depends => odd_prefix(text),
    }
}

fn odd_prefix(text: &str) -> usize {
    let Some(c) = text.chars().next() else { return 0 };
    if c.is_ascii_alphanumeric() {
        if !matches!(c, 'U' | 'C' | 'A') {
            return 0;
        }
        return ["US$", "C$", "A$"].iter().find(|sign| text.starts_with(**sign)).map_or(0, |sign| sign.len());
    }
    let length = c.len_utf8();
    match c {
        '§' | '%' | '=' | '—' | '–' => length,
        '+' if !text[1..].starts_with(|c: char| c.is_ascii_digit()) => 1,
        '+' => 0,
        '.' => dots(text.as_bytes()),
        _ if is_mark(c) || is_quote(c) || is_currency(c) || is_icon(c) => length,
        _ => 0,
    }
}

const UNITS: &[&str] = &[
    "km/h", "mbar", "km²", "km³", "dm²", "dm³", "cm²", "cm³", "mm²", "mm³", "m/s", "kmh", "mph", "hPa", "µm", "µg",
    "m²", "m³", "km", "dm", "cm", "mm", "ha", "nm", "yd", "in", "ft", "kg", "mg", "lb", "oz", "Pa", "mb", "MB", "kb",
    "KB", "gb", "GB", "tb", "TB", "m", "g", "t", "T", "G", "M", "K", "%",
];

/// Bytes of what comes off the back.
pub fn suffix(text: &str) -> usize {
    match end_of(1, text.as_bytes().last()) {
        End::Stays => 0,
        End::Off => 1,
        End::Depends => odd_suffix(text),
    }
}

fn odd_suffix(text: &str) -> usize {
    let Some(c) = text.chars().next_back() else { return 0 };
    if c == '.' {
        return full_stop(text);
    }
    if matches!(c, 's' | 'S') {
        let before = &text[..text.len() - 1];
        let mark = ['\'', '’'].into_iter().find(|mark| before.ends_with(*mark));
        if let Some(mark) = mark {
            return 1 + mark.len_utf8();
        }
    }
    let length = c.len_utf8();
    if c == '…' && text.ends_with("……") {
        return 2 * length;
    }
    if is_mark(c) || is_quote(c) || is_icon(c) || matches!(c, '—' | '–') {
        return length;
    }
    let digit_before = |length: usize| text.as_bytes()[..text.len() - length].last().is_some_and(u8::is_ascii_digit);
    if c == '+' && digit_before(1) {
        return 1;
    }
    if is_currency(c) {
        for sign in ["US$", "C$", "A$"] {
            if text.ends_with(sign) && digit_before(sign.len()) {
                return sign.len();
            }
        }
        return if digit_before(length) { length } else { 0 };
    }
    if c.is_alphabetic() || matches!(c, '²' | '³' | '%') {
        // The longest unit has four letters after its digit.
        let before = &text.as_bytes()[text.len().saturating_sub(7)..text.len() - 1];
        if !before.iter().any(u8::is_ascii_digit) {
            return 0;
        }
        return UNITS
            .iter()
            .find(|unit| text.ends_with(**unit) && digit_before(unit.len()))
            .map_or(0, |unit| unit.len());
    }
    0
}

/// A full stop comes off after lower case, digits and punctuation, and after two capitals; a run of them always.
fn full_stop(text: &str) -> usize {
    let run = text.bytes().rev().take_while(|byte| *byte == b'.').count();
    if run >= 2 {
        return run;
    }
    let mut before = text[..text.len() - 1].chars().rev();
    let Some(last) = before.next() else { return 0 };
    let off = last.is_ascii_digit()
        || is_lower(last)
        || matches!(last, '%' | '²' | '-' | '+' | '|')
        || is_mark(last)
        || is_quote(last);
    if off {
        return 1;
    }
    let second = before.next();
    if matches!(last, 'F' | 'C' | 'K') && second == Some('°') {
        return 1;
    }
    let upper = |c: char| c.is_uppercase() || c.is_alphabetic() && !c.is_lowercase();
    usize::from(upper(last) && second.is_some_and(upper))
}

/// Bytes of what cuts a piece in two here.
pub fn infix(before: Option<char>, rest: &str) -> usize {
    let mut chars = rest.chars();
    let Some(c) = chars.next() else { return 0 };
    if c.is_ascii_alphanumeric() {
        return 0;
    }
    let next = chars.next();
    let alpha = |c: Option<char>| c.is_some_and(char::is_alphabetic);
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    match c {
        '.' => {
            let run = dots(rest.as_bytes());
            if run > 0 {
                return run;
            }
            let lower = before.is_some_and(|c| is_lower(c) || is_quote(c));
            let upper = next.is_some_and(|c| is_quote(c) || c.is_alphabetic() && !c.is_lowercase());
            usize::from(lower && upper)
        }
        '…' => c.len_utf8(),
        '+' | '*' | '^' => usize::from(digit(before) && next.is_some_and(|c| c.is_ascii_digit() || c == '-')),
        ',' => usize::from(alpha(before) && alpha(next)),
        ':' | '<' | '>' | '=' | '/' => {
            usize::from(before.is_some_and(|c| c.is_alphabetic() || c.is_ascii_digit()) && alpha(next))
        }
        '-' | '–' | '—' | '~' => hyphen(before, rest, c, next),
        _ if is_icon(c) => c.len_utf8(),
        _ => 0,
    }
}

fn hyphen(before: Option<char>, rest: &str, c: char, next: Option<char>) -> usize {
    if c == '-' && before.is_some_and(|c| c.is_ascii_digit()) && next.is_some_and(|c| c.is_ascii_digit() || c == '-') {
        return 1;
    }
    if !before.is_some_and(|c| c.is_alphabetic() || c.is_ascii_digit()) {
        return 0;
    }
    ["-", "–", "—", "--", "---", "——", "~"]
        .iter()
        .find(|mark| rest.strip_prefix(**mark).is_some_and(|rest| rest.starts_with(char::is_alphabetic)))
        .map_or(0, |mark| mark.len())
}
