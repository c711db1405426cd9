//! What two texts may differ in and still count as equal.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unicode_normalization::char::is_combining_mark;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::filter) enum Normalize {
    None,
    Space,
    Loose,
}

impl Normalize {
    pub fn apply<'a>(self, text: &'a str) -> Cow<'a, str> {
        match self {
            Self::None => Cow::Borrowed(text),
            Self::Space => squeeze(text),
            Self::Loose => Cow::Owned(loose(text)),
        }
    }
}

/// NFC, with runs of white space as one space and none at the ends.
fn squeeze(text: &str) -> Cow<'_, str> {
    let composed = match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        _ => Cow::Owned(text.nfc().collect::<String>()),
    };
    let plain = !composed.starts_with(char::is_whitespace)
        && !composed.ends_with(char::is_whitespace)
        && !composed.as_bytes().windows(2).any(|pair| pair == b"  ")
        && !composed.chars().any(|c| c != ' ' && c.is_whitespace());
    if plain {
        return composed;
    }
    let words: Vec<&str> = composed.split_whitespace().collect();
    Cow::Owned(words.join(" "))
}

/// Lower case, numbers as `0`, punctuation as space, no accents, white space squeezed.
fn loose(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.nfd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).peekable();
    while let Some(c) = chars.next() {
        if c.is_numeric() {
            // Digits with separators inside are one number.
            let mut pending = None;
            while let Some(next) = chars.peek().copied() {
                if next.is_numeric() {
                    pending = None;
                } else if matches!(next, '.' | ',') && pending.is_none() {
                    pending = Some(next);
                } else {
                    break;
                }
                chars.next();
            }
            out.push('0');
            out.extend(pending.map(|_| ' '));
        } else if c.is_alphanumeric() {
            out.push(c);
        } else {
            out.push(' ');
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::Normalize;

    #[test]
    fn levels_of_equality() {
        assert_eq!(Normalize::Space.apply(" a\t b\u{a0}c\n"), "a b c");
        assert_eq!(Normalize::Space.apply("e\u{301}"), "é");
        assert_eq!(Normalize::Space.apply("a b"), "a b");
        assert_eq!(Normalize::Loose.apply("Héllo, World! 1,234.5 x 7."), "hello world 0 x 0");
        assert_eq!(Normalize::None.apply(" a "), " a ");
    }
}
