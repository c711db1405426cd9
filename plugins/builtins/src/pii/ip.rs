//! IP addresses, and not version numbers, outline numbers or times of day.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::{before, digits, is_word};

pub fn find(text: &str, private: bool, mut found: impl FnMut(Range<usize>)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte.is_ascii_digit()
            && !is_word(before(bytes, at))
            && let Some((length, address)) = version_4(&bytes[at..])
        {
            if (private || is_public_4(address)) && is_address_4(bytes, at, length, address) {
                found(at..at + length);
            }
            at += length;
            continue;
        }
        if byte.is_ascii_hexdigit() && !is_word(before(bytes, at)) && before(bytes, at) != Some(b':') {
            let run = bytes[at..].iter().take_while(|byte| byte.is_ascii_hexdigit() || **byte == b':').count();
            let piece = text[at..at + run].trim_end_matches(':');
            if run >= 8 && !is_word(bytes.get(at + run).copied()) && is_address_6(piece, private) {
                found(at..at + piece.len());
            }
            at += run.max(1);
            continue;
        }
        at += 1;
    }
}

/// Four numbers up to 255 without leading zeros, and nothing that goes on.
fn version_4(bytes: &[u8]) -> Option<(usize, Ipv4Addr)> {
    let mut parts = [0u8; 4];
    let mut at = 0;
    for (index, part) in parts.iter_mut().enumerate() {
        if index > 0 {
            if bytes.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
        let count = digits(&bytes[at..]);
        let number = &bytes[at..at + count];
        if !(1..=3).contains(&count) || (count > 1 && number[0] == b'0') {
            return None;
        }
        *part = std::str::from_utf8(number).ok()?.parse().ok()?;
        at += count;
    }
    let goes_on = match (bytes.get(at).copied(), bytes.get(at + 1).copied()) {
        (Some(b'.'), after) => after.is_some_and(|byte| byte.is_ascii_digit()),
        (Some(b'-' | b'_' | b'+'), after) => after.is_some_and(|byte| byte.is_ascii_alphabetic()),
        (after, _) => is_word(after) || after == Some(b'_'),
    };
    (!goes_on).then_some((at, Ipv4Addr::from(parts)))
}

/// Globally routed, by the special-purpose registry of IANA (RFC 6890).
fn is_public_4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(matches!(a, 0 | 10 | 127 | 224..)
        || (a == 100 && (64..128).contains(&b))
        || (a == 169 && b == 254)
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && ((b == 0 && matches!(c, 0 | 2)) || b == 168))
        || (a == 198 && (matches!(b, 18 | 19) || (b == 51 && c == 100)))
        || (a == 203 && b == 0 && c == 113))
}

/// Words before four numbers that make them a version or a place in a text.
const VERSIONS: [&str; 18] = [
    "v", "ver", "version", "versions", "release", "releases", "rev", "revision", "build", "firmware", "driver",
    "kernel", "section", "chapter", "clause", "figure", "table", "oid",
];

fn is_address_4(bytes: &[u8], at: usize, length: usize, address: Ipv4Addr) -> bool {
    let line_start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lead = &bytes[line_start..at];
    // `1.2.3.4 Title` is an outline.
    let outline = lead.iter().all(u8::is_ascii_whitespace) && address.octets().iter().all(|part| *part < 30);
    if outline && matches!(&bytes[at + length..], [b' ' | b'\t', next, ..] if next.is_ascii_uppercase()) {
        return false;
    }
    match lead {
        // Another part of a longer number, a range of them, or a name.
        [.., b'.' | b'_' | b'-'] => return false,
        // `name==1.2.3.4`, `>=1.2.3.4`.
        [.., b'=' | b'<' | b'>' | b'~' | b'^' | b'!', b'='] | [.., b'<' | b'>' | b'~' | b'^'] => return false,
        // `Browser/1.2.3.4`.
        [.., letter, b'/'] if letter.is_ascii_alphanumeric() => return false,
        _ => {}
    }
    let end = lead.iter().rposition(|byte| !matches!(byte, b' ' | b':' | b'#' | b'(' | b'=')).map_or(0, |at| at + 1);
    let word = &lead[..end];
    let start = word.iter().rposition(|byte| !byte.is_ascii_alphabetic()).map_or(0, |at| at + 1);
    let word = &word[start..];
    !VERSIONS.iter().any(|version| word.eq_ignore_ascii_case(version.as_bytes()))
}

/// At least three groups with a digit among them: `a::b` is a path of C++.
fn is_address_6(text: &str, private: bool) -> bool {
    let groups = text.split(':').filter(|group| !group.is_empty()).count();
    if groups < 3 || !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let Ok(address) = text.parse::<Ipv6Addr>() else { return false };
    let [first, second, ..] = address.segments();
    // Of what is assigned so far, 2000::/3 is routed, and 2001:db8::/32 is for documentation.
    private || (first & 0xe000 == 0x2000 && !(first == 0x2001 && second == 0xdb8))
}
