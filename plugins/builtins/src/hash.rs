//! A fast hash for tables whose order never shows: only membership and counts leave them.

/// An odd number without structure: the fraction of the golden ratio.
pub const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const OTHER: u64 = 0xd6e8_feb8_6659_fd93;

/// Two numbers as one. By 64-bit products alone, because WebAssembly has no wider ones.
#[must_use]
#[inline]
pub fn mix(a: u64, b: u64) -> u64 {
    let mixed = a.wrapping_mul(FACTOR) ^ b.wrapping_mul(OTHER).rotate_left(32);
    (mixed ^ mixed >> 29).wrapping_mul(OTHER)
}

/// The first eight bytes from `at` on, as many of them as `length` says; the others are 0.
#[must_use]
#[inline]
pub fn eight(bytes: &[u8], at: usize, length: usize) -> u64 {
    if length == 0 {
        return 0;
    }
    match bytes.get(at..at + 8) {
        Some(block) => word(block) & u64::MAX >> (64 - 8 * length.min(8)),
        None => last_eight(&bytes[at..at + length.min(8)]),
    }
}

/// Apart, because it comes once in a text.
#[cold]
#[inline(never)]
fn last_eight(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// 64 bits of these bytes.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    let (mut a, mut b) = (FACTOR ^ length as u64, OTHER);
    let mut rest = bytes;
    while let Some((block, after)) = rest.split_at_checked(16) {
        a = mix(a, word(&block[..8]));
        b = mix(b, word(&block[8..]));
        rest = after;
    }
    let low = eight(rest, 0, rest.len());
    let high = if rest.len() > 8 { eight(rest, 8, rest.len() - 8) } else { 0 };
    let mixed = mix(mix(a, low), mix(b, high));
    mixed ^ mixed >> 32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_byte_and_the_length_count() {
        let mut seen = BTreeSet::new();
        for length in 0..40 {
            let mut bytes = vec![0; length];
            assert!(seen.insert(hash(&bytes)));
            for at in 0..length {
                for value in [1, 0x80] {
                    bytes[at] = value;
                    assert!(seen.insert(hash(&bytes)), "{length} {at}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
