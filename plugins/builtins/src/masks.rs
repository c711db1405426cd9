//! A bit per byte of a text: which are white space, which are no ASCII letters.

use crate::character::is_space;
use crate::vector::{Bytes, WIDTH};

/// Bits of a text, the first byte lowest, padded with white space to at least one byte more than the text.
#[derive(Debug, Default, Clone)]
pub struct Masks {
    /// Bytes of white space.
    spaces: Vec<u64>,
    /// Bytes that are no ASCII letters.
    others: Vec<u64>,
}

const BLOCK: usize = 64;

/// White space and letters among 64 bytes, and whether all are ASCII.
struct Classes {
    spaces: u64,
    letters: u64,
    ascii: bool,
}

fn classes(block: &[u8; BLOCK]) -> Classes {
    let mut found = Classes { spaces: 0, letters: 0, ascii: true };
    for (part, bytes) in block.as_chunks::<WIDTH>().0.iter().enumerate() {
        let bytes = Bytes::new(bytes);
        let spaces = bytes.within(b'\t', b'\r').or(bytes.within(0x1c, b' '));
        found.spaces |= u64::from(spaces.bits()) << (WIDTH * part);
        found.letters |= u64::from(bytes.lower().within(b'a', b'z').bits()) << (WIDTH * part);
        found.ascii &= bytes.bits() == 0;
    }
    found
}

impl Masks {
    /// Takes the bits of `text`; buffers are reused.
    pub fn fill(&mut self, text: &str) {
        let bytes = text.as_bytes();
        self.spaces.clear();
        self.others.clear();
        let blocks = bytes.len() / BLOCK + 1;
        self.spaces.reserve(blocks);
        self.others.reserve(blocks);
        let mut ascii = true;
        let (whole, rest) = bytes.as_chunks::<BLOCK>();
        let mut last = [b' '; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        for block in whole.iter().chain(std::iter::once(&last)) {
            let found = classes(block);
            self.spaces.push(found.spaces);
            self.others.push(!found.letters);
            ascii &= found.ascii;
        }
        if !ascii {
            self.add_wide(text);
        }
    }

    /// Adds the white space outside ASCII.
    fn add_wide(&mut self, text: &str) {
        for (at, byte) in text.bytes().enumerate() {
            // The first bytes of such characters.
            if matches!(byte, 0xc2 | 0xe1..=0xe3)
                && let Some(c) = text[at..].chars().next()
                && is_space(c)
            {
                for at in at..at + c.len_utf8() {
                    self.spaces[at / BLOCK] |= 1 << (at % BLOCK);
                }
            }
        }
    }

    /// Calls with the bytes of each piece between white space, in order.
    #[inline]
    pub fn each_piece(&self, mut call: impl FnMut(usize, usize)) {
        let (mut inside, mut start) = (false, 0);
        for (block, spaces) in self.spaces.iter().enumerate() {
            // Where a piece starts or ends.
            let mut edges = !spaces ^ (!spaces << 1 | u64::from(inside));
            while edges != 0 {
                let at = BLOCK * block + edges.trailing_zeros() as usize;
                edges &= edges - 1;
                if inside {
                    call(start, at);
                } else {
                    start = at;
                }
                inside = !inside;
            }
        }
    }

    /// How many letters there are from `at` on, up to 64.
    #[inline]
    pub fn letters(&self, at: usize) -> usize {
        Self::window(&self.others, at).trailing_zeros() as usize
    }

    /// The bits of `of` from byte `at` on, 64 of them; past the end all are set.
    fn window(of: &[u64], at: usize) -> u64 {
        let (block, shift) = (at / BLOCK, at % BLOCK);
        let low = of.get(block).map_or(u64::MAX, |bits| *bits) >> shift;
        // In two steps, because a shift by 64 is none.
        let high = of.get(block + 1).map_or(u64::MAX, |bits| *bits) << (BLOCK - 1 - shift) << 1;
        low | high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_of_its_class() {
        let mut masks = Masks::default();
        for c in ('\0'..=char::MAX).filter(|c| u32::from(*c) < 0x3100 || u32::from(*c) % 97 == 0) {
            let text = format!("{}{c}{c}x", "y".repeat(61));
            masks.fill(&text);
            for (at, found) in text.char_indices() {
                let bit = |of: &[u64], at: usize| Masks::window(of, at) & 1 == 1;
                for at in at..at + found.len_utf8() {
                    assert_eq!(bit(&masks.spaces, at), is_space(found), "{found:?} {at}");
                    assert_eq!(bit(&masks.others, at), !found.is_ascii_alphabetic(), "{found:?} {at}");
                }
            }
            assert_eq!(Masks::window(&masks.spaces, text.len()), u64::MAX);
            let mut pieces = Vec::new();
            masks.each_piece(|start, end| pieces.push(&text[start..end]));
            assert!(text.split(is_space).filter(|piece| !piece.is_empty()).eq(pieces), "{text:?}");
        }
    }
}
