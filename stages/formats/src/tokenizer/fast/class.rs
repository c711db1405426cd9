//! What a character is to a pre-tokenizer: `\p{L}`, `\p{N}`, `\s` or none of them.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CharClass {
    Other,
    Letter,
    Number,
    Space,
}

use CharClass::{Letter, Number, Other, Space};

/// The first plane by code point, the rest as ranges; from the tables of the expression engine, so that both always know
/// the same Unicode.
struct Table {
    first_plane: Box<[CharClass]>,
    beyond: Vec<(u32, u32, CharClass)>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table { first_plane: vec![Other; 0x1_0000].into_boxed_slice(), beyond: Vec::new() };
    for (pattern, class) in [(r"\p{L}", Letter), (r"\p{N}", Number), (r"\s", Space)] {
        for (start, end) in ranges(pattern) {
            for code in start..=end.min(0xffff) {
                table.first_plane[code as usize] = class;
            }
            if end > 0xffff {
                table.beyond.push((start.max(0x1_0000), end, class));
            }
        }
    }
    table.beyond.sort_unstable_by_key(|range| range.0);
    table
});

fn ranges(pattern: &str) -> Vec<(u32, u32)> {
    match regex_syntax::parse(pattern).map(regex_syntax::hir::Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => {
            class.iter().map(|range| (u32::from(range.start()), u32::from(range.end()))).collect()
        }
        _ => Vec::new(),
    }
}

const fn ascii(byte: u8) -> CharClass {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' => Letter,
        b'0'..=b'9' => Number,
        b'\t'..=b'\r' | b' ' => Space,
        _ => Other,
    }
}

static ASCII: [CharClass; 128] = {
    let mut table = [Other; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte as usize] = ascii(byte);
        byte += 1;
    }
    table
};

/// The class of the character at a byte offset that is a boundary and not the end, and its length in bytes.
#[inline]
pub fn class_at(text: &str, at: usize) -> (CharClass, usize) {
    let byte = text.as_bytes()[at];
    if byte < 128 {
        return (ASCII[byte as usize], 1);
    }
    text[at..].chars().next().map_or((Other, 1), |character| (class_of(character), character.len_utf8()))
}

fn class_of(character: char) -> CharClass {
    let code = u32::from(character);
    if code < 0x1_0000 {
        return TABLE.first_plane[code as usize];
    }
    let beyond = &TABLE.beyond;
    let after = beyond.partition_point(|range| range.0 <= code);
    match after.checked_sub(1).map(|at| beyond[at]) {
        Some((_, end, class)) if code <= end => class,
        _ => Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_and_the_tables_agree() {
        for byte in 0..128u8 {
            assert_eq!(ascii(byte), class_of(char::from(byte)), "{byte}");
        }
    }

    #[test]
    fn beyond_the_first_plane() {
        let classes = ['𝔘', '𝟗', '😀', '\u{3000}', 'ß', '٣', '\u{85}'].map(class_of);
        assert_eq!(classes, [Letter, Number, Other, Space, Letter, Number, Space]);
    }
}
