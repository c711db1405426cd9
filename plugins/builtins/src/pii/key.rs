//! Keys, tokens and passwords: the published shapes of well-known services, private keys in PEM, web tokens, and values of
//! high entropy that are assigned to something called a key, token, secret or password.

use std::ops::Range;

use super::{before, is_word};

/// What a token starts with, how many bytes follow at least, and at most.
const SHAPES: &[(&str, usize, usize)] = &[
    ("AKIA", 16, 16),
    ("ASIA", 16, 16),
    ("AIza", 35, 35),
    ("ghp_", 36, 255),
    ("gho_", 36, 255),
    ("ghu_", 36, 255),
    ("ghs_", 36, 255),
    ("ghr_", 36, 255),
    ("github_pat_", 22, 255),
    ("glpat-", 20, 64),
    ("sk-", 32, 255),
    ("sk_live_", 16, 255),
    ("sk_test_", 16, 255),
    ("pk_live_", 16, 255),
    ("rk_live_", 16, 255),
    ("xoxb-", 20, 255),
    ("xoxp-", 20, 255),
    ("xoxa-", 20, 255),
    ("xoxs-", 20, 255),
    ("hf_", 30, 64),
    ("npm_", 36, 36),
    ("pypi-", 50, 255),
    ("dop_v1_", 64, 64),
];

/// The names of secrets; a value assigned to one of them is masked if it looks random.
const NAMES: &[&str] = &["key", "token", "secret", "password", "passwd", "pwd", "credential", "apikey"];

/// Bits per byte that a random value of 16 bytes and more exceeds, and words do not.
const ENTROPY: f64 = 3.2;

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

pub fn find(text: &str, mut found: impl FnMut(Range<usize>)) {
    private_keys(text, &mut found);
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !is_token(bytes[at]) {
            at += 1;
            continue;
        }
        let length = bytes[at..].iter().take_while(|byte| is_token(**byte)).count();
        let token = &bytes[at..at + length];
        if !is_word(before(bytes, at)) && length >= 16 {
            if is_shaped(token) {
                found(at..at + length);
            } else if let Some(end) = web_token(bytes, at, length) {
                found(at..end);
            }
        }
        if let Some(value) = assigned(bytes, at, length) {
            found(value);
        }
        at += length;
    }
}

fn is_shaped(token: &[u8]) -> bool {
    SHAPES.iter().any(|(start, least, most)| {
        token.strip_prefix(start.as_bytes()).is_some_and(|rest| {
            let upper = !matches!(*start, "AKIA" | "ASIA")
                || rest.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
            (*least..=*most).contains(&rest.len()) && upper && entropy(rest) > ENTROPY - 0.7
        })
    })
}

/// `eyJ….eyJ….…` (RFC 7519).
fn web_token(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    if !bytes[at..].starts_with(b"eyJ") || !bytes[at + length..].starts_with(b".eyJ") {
        return None;
    }
    let part = |from: usize| bytes[from..].iter().take_while(|byte| is_token(**byte)).count();
    let second = at + length + 1;
    let end = second + part(second);
    if bytes.get(end) != Some(&b'.') {
        return None;
    }
    let third = part(end + 1);
    (third >= 16).then_some(end + 1 + third)
}

/// The value after `name = `, `"name": "` and the like, if the token at `at` names a secret.
fn assigned(bytes: &[u8], at: usize, length: usize) -> Option<Range<usize>> {
    let name = &bytes[at..at + length];
    let named = NAMES.iter().any(|secret| {
        name.len() >= secret.len() && name[name.len() - secret.len()..].eq_ignore_ascii_case(secret.as_bytes())
    });
    if !named {
        return None;
    }
    let mut from = at + length;
    let skip = |from: &mut usize, set: &[u8], most: usize| {
        let count = bytes[*from..].iter().take(most).take_while(|byte| set.contains(byte)).count();
        *from += count;
        count
    };
    skip(&mut from, b"\"'`]", 2);
    skip(&mut from, b" \t", 4);
    if skip(&mut from, b":=", 2) == 0 {
        return None;
    }
    skip(&mut from, b" \t", 4);
    skip(&mut from, b"\"'`", 1);
    let value = bytes[from..]
        .iter()
        .take_while(|byte| {
            is_token(**byte) || matches!(byte, b'+' | b'/' | b'=' | b'.' | b'~' | b'!' | b'$' | b'%' | b'^')
        })
        .count();
    let text = &bytes[from..from + value];
    let mixed = text.iter().any(u8::is_ascii_digit) && text.iter().any(u8::is_ascii_alphabetic);
    (value >= 16 && mixed && entropy(text) > ENTROPY).then_some(from..from + value)
}

/// From `-----BEGIN … PRIVATE KEY-----` to the line that ends it, or to the end of the text if that is cut off.
fn private_keys(text: &str, found: &mut impl FnMut(Range<usize>)) {
    let mut from = 0;
    while let Some(next) = text[from..].find("-----BEGIN ") {
        let start = from + next;
        from = start + 11;
        let Some(label) = text[from..].find("-----").filter(|end| *end <= 40) else { continue };
        let label = &text[from..from + label];
        if !label.ends_with("PRIVATE KEY") && label != "PRIVATE KEY BLOCK" {
            continue;
        }
        let mark = format!("-----END {label}-----");
        let end = text[from..].find(&mark).map_or(text.len(), |end| from + end + mark.len());
        found(start..end);
        from = end;
    }
}

/// Shannon's entropy of the bytes, bits per byte.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0usize; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let sum: f64 = counts.iter().filter(|count| **count > 1).map(|count| *count as f64 * log2(*count)).sum();
    log2(bytes.len()) - sum / bytes.len().max(1) as f64
}

/// By squaring alone, which is the same on every machine.
fn log2(number: usize) -> f64 {
    let Some(whole) = number.checked_ilog2() else { return 0.0 };
    let mut rest = number as f64 / (1u64 << whole) as f64;
    let (mut log, mut bit) = (f64::from(whole), 0.5);
    for _ in 0..40 {
        rest *= rest;
        if rest >= 2.0 {
            rest /= 2.0;
            log += bit;
        }
        bit /= 2.0;
    }
    log
}

#[cfg(test)]
mod tests {
    use super::{entropy, log2};

    #[test]
    fn entropy_is_shannon_s() {
        for number in [1usize, 2, 3, 100, 12_345] {
            assert!((log2(number) - (number as f64).log2()).abs() < 1e-9, "{number}");
        }
        assert_eq!(entropy(b""), 0.0);
        assert_eq!(entropy(b"aaaa"), 0.0);
        assert!((entropy(b"aabc") - 1.5).abs() < 1e-9);
    }
}
