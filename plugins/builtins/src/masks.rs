//! A bit per byte of a text: which are white space, which are no ASCII letters.

use crate::character::is_space;
use crate::vector::{self, Bytes, bits64};

/// Bits of a text, the first byte lowest, padded with white space to at least one byte more than the text.
#[derive(Debug, Default, Clone)]
pub struct Masks {
    blocks: Vec<Bits>,
}

/// Of 64 bytes.
#[derive(Debug, Default, Clone, Copy)]
struct Bits {
    /// Bytes of white space.
    spaces: u64,
    /// Bytes that are no ASCII letters.
    others: u64,
}

const BLOCK: usize = 64;

impl Bits {
    /// The bits, and whether all of the bytes are ASCII.
    #[inline(always)]
    fn of(block: &[u8; BLOCK]) -> (Self, bool) {
        let bytes = vector::four(block, 0);
        let spaces = bytes.map(|bytes| bytes.within(b'\t', b'\r').or(bytes.within(0x1c, b' ')));
        let letters = bytes.map(|bytes| bytes.lower().within(b'a', b'z'));
        let [a, b, c, d] = bytes;
        let ascii = a.or(b).or(c.or(d)).bits() == 0;
        (Self { spaces: bits64(&spaces), others: !bits64(&letters) }, ascii)
    }
}

impl Masks {
    /// Takes the bits of `text`; buffers are reused.
    #[inline(never)]
    pub fn fill(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let (whole, rest) = bytes.as_chunks::<BLOCK>();
        let mut last = [b' '; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        let mut ascii = true;
        self.blocks.clear();
        self.blocks.extend(whole.iter().chain(std::iter::once(&last)).map(|block| {
            let (bits, is_ascii) = Bits::of(block);
            ascii &= is_ascii;
            bits
        }));
        if !ascii {
            self.add_wide(text);
        }
    }

    /// Adds the white space outside ASCII.
    fn add_wide(&mut self, text: &str) {
        for from in (0..text.len()).step_by(BLOCK) {
            // The first bytes of such characters.
            let first = |bytes: Bytes| bytes.is(0xc2).or(bytes.within(0xe1, 0xe3));
            let mut firsts = bits64(&vector::four(text.as_bytes(), from).map(first));
            while firsts != 0 {
                let at = from + firsts.trailing_zeros() as usize;
                firsts &= firsts - 1;
                if let Some(c) = text[at..].chars().next()
                    && is_space(c)
                {
                    for at in at..at + c.len_utf8() {
                        self.blocks[at / BLOCK].spaces |= 1 << (at % BLOCK);
                    }
                }
            }
        }
    }

    /// Calls with the bytes of each piece between white space, in order, and with how many letters it starts with, of up to
    /// 64.
    #[inline]
    pub fn each_piece(&self, mut call: impl FnMut(usize, usize, usize)) {
        // 1 inside of a piece, which started at `start`.
        let (mut inside, mut start) = (0, 0);
        for (block, Bits { spaces, others }) in self.blocks.iter().enumerate() {
            let base = BLOCK * block;
            let after_text = !spaces << 1 | inside;
            let (mut starts, mut ends) = (!spaces & !after_text, spaces & after_text);
            if inside == 0 {
                start = base + starts.trailing_zeros() as usize;
                starts &= starts.wrapping_sub(1);
            }
            while ends != 0 {
                let end = base + ends.trailing_zeros() as usize;
                // What ends a piece is no letter, so one that started in this block ends in its letters' bits.
                let letters = if start >= base {
                    (others >> (start % BLOCK)).trailing_zeros() as usize
                } else {
                    self.letters(start)
                };
                call(start, end, letters);
                start = base + starts.trailing_zeros() as usize;
                starts &= starts.wrapping_sub(1);
                ends &= ends - 1;
            }
            inside = !spaces >> (BLOCK - 1);
        }
    }

    /// How many letters there are from `at` on, up to 64.
    #[inline(never)]
    fn letters(&self, at: usize) -> usize {
        self.window(|bits| bits.others, at).trailing_zeros() as usize
    }

    /// Of some bits those from byte `at` on, 64 of them; past the end all are set.
    #[inline]
    fn window(&self, of: impl Fn(&Bits) -> u64, at: usize) -> u64 {
        let (block, shift) = (at / BLOCK, at % BLOCK);
        let low = self.blocks.get(block).map_or(u64::MAX, &of) >> shift;
        // In two steps, because a shift by 64 is none.
        let high = self.blocks.get(block + 1).map_or(u64::MAX, &of) << (BLOCK - 1 - shift) << 1;
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
                let bit = |of: fn(&Bits) -> u64, at: usize| masks.window(of, at) & 1 == 1;
                for at in at..at + found.len_utf8() {
                    assert_eq!(bit(|bits| bits.spaces, at), is_space(found), "{found:?} {at}");
                    assert_eq!(bit(|bits| bits.others, at), !found.is_ascii_alphabetic(), "{found:?} {at}");
                }
            }
            assert_eq!(masks.window(|bits| bits.spaces, text.len()), u64::MAX);
            let mut pieces = Vec::new();
            masks.each_piece(|start, end, letters| {
                let found = text.as_bytes()[start..end].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
                assert_eq!(letters, found, "{text:?} {start}");
                pieces.push(&text[start..end]);
            });
            assert!(text.split(is_space).filter(|piece| !piece.is_empty()).eq(pieces), "{text:?}");
        }
    }
}
