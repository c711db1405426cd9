//! Sixteen bytes at a time, with instructions that every machine of the target has: there is nothing to dispatch, and
//! WebAssembly has the same ones.

#[cfg(feature = "regex")]
pub mod nibbles;

use crate::hash::eight;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, _mm_add_epi8, _mm_and_si128, _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_or_si128,
    _mm_set_epi64x, _mm_set1_epi8,
};

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use std::arch::wasm32::{
    i8x16_add, i8x16_lt, i8x16_splat, i64x2, u8x16_bitmask, u8x16_eq, u8x16_splat, v128, v128_and, v128_or,
};

#[cfg(target_arch = "x86_64")]
type Lanes = __m128i;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
type Lanes = v128;
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
type Lanes = [u8; 16];

/// How many bytes a [`Bytes`] has.
pub const WIDTH: usize = 16;

/// Sixteen bytes, or of each the answer to a question: all bits or none.
#[derive(Clone, Copy)]
pub struct Bytes(Lanes);

// SAFETY of all: every x86-64 processor has SSE2.
#[cfg(target_arch = "x86_64")]
impl Bytes {
    #[inline]
    pub fn new(bytes: &[u8; WIDTH]) -> Self {
        let half = |at: usize| i64::from_le_bytes(half(bytes, at));
        // SAFETY: as above.
        Self(unsafe { _mm_set_epi64x(half(8), half(0)) })
    }

    /// Whether it is this one.
    #[inline]
    pub fn is(self, byte: u8) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm_cmpeq_epi8(self.0, _mm_set1_epi8(byte as i8)) })
    }

    /// Whether it is one of `first..=last`.
    #[inline]
    pub fn within(self, first: u8, last: u8) -> Self {
        let (bias, end) = biased(first, last);
        // SAFETY: as above.
        Self(unsafe { _mm_cmplt_epi8(_mm_add_epi8(self.0, _mm_set1_epi8(bias)), _mm_set1_epi8(end)) })
    }

    /// Sets 0x20, which makes ASCII letters lower-case ones and nothing else a letter.
    #[inline]
    pub fn lower(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm_or_si128(self.0, _mm_set1_epi8(0x20)) })
    }

    #[inline]
    pub fn or(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm_or_si128(self.0, other.0) })
    }

    #[inline]
    pub fn and(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm_and_si128(self.0, other.0) })
    }

    /// The highest bit of each, the first lowest.
    #[inline]
    pub fn bits(self) -> u32 {
        // SAFETY: as above.
        unsafe { _mm_movemask_epi8(self.0) as u32 }
    }
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
impl Bytes {
    #[inline]
    pub fn new(bytes: &[u8; WIDTH]) -> Self {
        let half = |at: usize| i64::from_le_bytes(half(bytes, at));
        Self(i64x2(half(0), half(8)))
    }

    #[inline]
    pub fn is(self, byte: u8) -> Self {
        Self(u8x16_eq(self.0, u8x16_splat(byte)))
    }

    #[inline]
    pub fn within(self, first: u8, last: u8) -> Self {
        let (bias, end) = biased(first, last);
        Self(i8x16_lt(i8x16_add(self.0, i8x16_splat(bias)), i8x16_splat(end)))
    }

    #[inline]
    pub fn lower(self) -> Self {
        Self(v128_or(self.0, u8x16_splat(0x20)))
    }

    #[inline]
    pub fn or(self, other: Self) -> Self {
        Self(v128_or(self.0, other.0))
    }

    #[inline]
    pub fn and(self, other: Self) -> Self {
        Self(v128_and(self.0, other.0))
    }

    #[inline]
    pub fn bits(self) -> u32 {
        u32::from(u8x16_bitmask(self.0))
    }
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
impl Bytes {
    pub fn new(bytes: &[u8; WIDTH]) -> Self {
        Self(*bytes)
    }

    pub fn is(self, byte: u8) -> Self {
        Self(self.0.map(|found| if found == byte { 0xff } else { 0 }))
    }

    pub fn within(self, first: u8, last: u8) -> Self {
        Self(self.0.map(|found| if (first..=last).contains(&found) { 0xff } else { 0 }))
    }

    pub fn lower(self) -> Self {
        Self(self.0.map(|byte| byte | 0x20))
    }

    pub fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] | other.0[at]))
    }

    pub fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & other.0[at]))
    }

    pub fn bits(self) -> u32 {
        self.0.iter().rev().fold(0, |bits, byte| bits << 1 | u32::from(byte >> 7))
    }
}

/// What to add to a byte, and below what it then is as a number with a sign if it is one of `first..=last`, which are less
/// than all: vectors compare such numbers with one instruction, and those without a sign with up to four.
#[cfg(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
fn biased(first: u8, last: u8) -> (i8, i8) {
    (0x80u8.wrapping_sub(first) as i8, (last - first).wrapping_add(0x81) as i8)
}

#[cfg(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline]
fn half(bytes: &[u8; WIDTH], at: usize) -> [u8; 8] {
    let mut half = [0; 8];
    half.copy_from_slice(&bytes[at..at + 8]);
    half
}

/// The sixteen bytes from `at` on, which may be past the end: 0 is what follows the last.
#[inline(always)]
pub fn from(bytes: &[u8], at: usize) -> Bytes {
    match bytes.get(at..).unwrap_or_default() {
        [] => Bytes::new(&[0; WIDTH]),
        rest => match rest.first_chunk() {
            Some(block) => Bytes::new(block),
            None => few(rest),
        },
    }
}

/// Less than sixteen bytes, and 0 after them. Put together from numbers: a copy of any length is a call in WebAssembly.
#[inline(never)]
fn few(bytes: &[u8]) -> Bytes {
    let length = bytes.len();
    let low = eight(bytes, 0, length);
    let high = if length > 8 { eight(bytes, 8, length - 8) } else { 0 };
    let mut block = [0; WIDTH];
    block[..8].copy_from_slice(&low.to_le_bytes());
    block[8..].copy_from_slice(&high.to_le_bytes());
    Bytes::new(&block)
}

/// Bytes that are looked at in one turn of a loop: what a turn costs besides is shared by more of them.
pub const BLOCK: usize = 4 * WIDTH;

/// Where the first byte at or after `at` is that belongs to a class; 0 must not.
#[inline]
pub fn find(bytes: &[u8], mut at: usize, class: impl Fn(Bytes) -> Bytes) -> Option<usize> {
    while at < bytes.len() {
        let bits = bits64(&four(bytes, at).map(&class));
        if bits != 0 {
            return Some(at + bits.trailing_zeros() as usize);
        }
        at += BLOCK;
    }
    None
}

/// Where the bytes of a class are, in order; 0 must not be one. Each block is looked at once, however many it has.
#[inline]
pub fn positions<C: Fn(Bytes) -> Bytes>(bytes: &[u8], class: C) -> Positions<'_, C> {
    Positions { bytes, class, next: 0, bits: 0 }
}

/// See [`positions`].
pub struct Positions<'a, C> {
    bytes: &'a [u8],
    class: C,
    /// Where the block after that of `bits` starts.
    next: usize,
    bits: u64,
}

impl<C: Fn(Bytes) -> Bytes> Iterator for Positions<'_, C> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.bits == 0 {
            if self.next >= self.bytes.len() {
                return None;
            }
            self.bits = bits64(&four(self.bytes, self.next).map(&self.class));
            self.next += BLOCK;
        }
        let at = self.next - BLOCK + self.bits.trailing_zeros() as usize;
        self.bits &= self.bits - 1;
        Some(at)
    }
}

/// The bits of 64 bytes from `at` on by the bytes that start at each, one later, and so on; 0 is what follows the last.
#[inline(always)]
pub fn shifted<const N: usize>(bytes: &[u8], at: usize, class: impl Fn([Bytes; N]) -> Bytes) -> u64 {
    const { assert!(N <= 8) };
    let bits = |block: &[u8; BLOCK + 8]| {
        bits64(&std::array::from_fn(|part| {
            class(std::array::from_fn(|shift| {
                let mut bytes = [0; WIDTH];
                bytes.copy_from_slice(&block[WIDTH * part + shift..][..WIDTH]);
                Bytes::new(&bytes)
            }))
        }))
    };
    match bytes.get(at..).unwrap_or_default().first_chunk() {
        Some(block) => bits(block),
        None => {
            let rest = bytes.get(at..).unwrap_or_default();
            let mut block = [0; BLOCK + 8];
            block[..rest.len()].copy_from_slice(rest);
            bits(&block)
        }
    }
}

/// How many bytes belong to a class; 0 must not.
#[inline]
pub fn count(bytes: &[u8], class: impl Fn(Bytes) -> Bytes) -> usize {
    (0..bytes.len()).step_by(BLOCK).map(|at| bits64(&four(bytes, at).map(&class)).count_ones() as usize).sum()
}

/// Sixty-four bytes from `at` on; 0 is what follows the last.
#[inline(always)]
pub fn four(bytes: &[u8], at: usize) -> [Bytes; 4] {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.first_chunk::<BLOCK>() {
        Some(block) => std::array::from_fn(|part| {
            let mut bytes = [0; WIDTH];
            bytes.copy_from_slice(&block[WIDTH * part..][..WIDTH]);
            Bytes::new(&bytes)
        }),
        None => std::array::from_fn(|part| from(rest, WIDTH * part)),
    }
}

/// The highest bit of each byte: counting 64 of them at once takes a quarter of the time.
#[inline(always)]
pub fn bits64(bytes: &[Bytes; 4]) -> u64 {
    bytes.iter().rev().fold(0, |bits, bytes| bits << WIDTH | u64::from(bytes.bits()))
}

/// Where these four bytes first are at or after `at`; none of them may be 0, and the last two should be the rare ones.
#[inline]
pub fn find_four(bytes: &[u8], mut at: usize, four: &[u8; 4]) -> Option<usize> {
    while at < bytes.len() {
        let mut bits = shifted(bytes, at, |[_, _, c, d]| c.is(four[2]).and(d.is(four[3])));
        while bits != 0 {
            let found = at + bits.trailing_zeros() as usize;
            if bytes[found..].starts_with(four) {
                return Some(found);
            }
            bits &= bits - 1;
        }
        at += BLOCK;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_asked_alike() {
        for byte in 0..=u8::MAX {
            for at in 0..WIDTH {
                let mut block = *b"aZ[`{@09/:\0\x7f\x80\xff \n";
                block[at] = byte;
                let bytes = Bytes::new(&block);
                let bits = |asked: &dyn Fn(u8) -> bool| {
                    block.iter().enumerate().fold(0, |bits, (at, byte)| bits | u32::from(asked(*byte)) << at)
                };
                assert_eq!(bytes.is(byte).bits(), bits(&|found| found == byte));
                assert_eq!(bytes.within(b'@', 0x80).bits(), bits(&|found| (b'@'..=0x80).contains(&found)));
                assert_eq!(bytes.lower().is(byte).bits(), bits(&|found| found | 0x20 == byte));
                assert_eq!(bytes.is(b'a').or(bytes.is(byte)).bits(), bits(&|found| found == b'a' || found == byte));
                assert_eq!(
                    bytes.within(0, 0x7f).and(bytes.is(byte)).bits(),
                    bits(&|found| found < 0x80 && found == byte)
                );
                assert_eq!(bytes.bits(), bits(&|found| found >= 0x80));
            }
        }
    }

    #[test]
    fn finds_and_counts_to_the_end() {
        let text = "a.b..c................d........................................................".as_bytes();
        for end in 0..text.len() {
            let text = &text[..end];
            for at in 0..end + 3 {
                let wanted = text.iter().skip(at).position(|byte| *byte == b'.').map(|found| at + found);
                assert_eq!(find(text, at, |bytes| bytes.is(b'.')), wanted, "{end} {at}");
            }
            let dots = text.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
            assert!(positions(text, |bytes| bytes.is(b'.')).eq(dots), "{end}");
            assert_eq!(find_four(text, 0, b"c..."), (end > 8).then_some(5), "{end}");
            assert_eq!(count(text, |bytes| bytes.is(b'.')), text.iter().filter(|byte| **byte == b'.').count());
        }
    }
}
