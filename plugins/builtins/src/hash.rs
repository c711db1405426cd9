//! A fast hash for tables whose order never shows: only membership and counts leave them.

/// An odd number without structure: the fraction of the golden ratio.
pub const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const OTHER: u64 = 0xd6e8_feb8_6659_fd93;

/// Multiplies in 128 bits and folds the halves.
#[must_use]
pub fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// 64 bits of these bytes.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    let (a, b) = match length {
        0 => (0, 0),
        1..=3 => {
            let middle = u64::from(bytes[length / 2]);
            (u64::from(bytes[0]) | middle << 8 | u64::from(bytes[length - 1]) << 16, 0)
        }
        4..=7 => {
            let half = |at: usize| {
                let mut half = [0; 4];
                half.copy_from_slice(&bytes[at..at + 4]);
                u64::from(u32::from_le_bytes(half))
            };
            (half(0), half(length - 4))
        }
        8..=16 => (word(&bytes[..8]), word(&bytes[length - 8..])),
        _ => {
            let mut state = 0;
            let mut chunks = bytes.chunks_exact(16);
            for chunk in &mut chunks {
                state = mix(word(&chunk[..8]) ^ state ^ FACTOR, word(&chunk[8..]) ^ OTHER);
            }
            (word(&bytes[length - 16..length - 8]) ^ state, word(&bytes[length - 8..]) ^ state)
        }
    };
    mix(mix(a ^ FACTOR, b ^ OTHER) ^ length as u64, FACTOR)
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
