//! The eight stop words that Gopher's rule counts.

const STOP_WORDS: [&[u8]; 8] = [b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with"];

/// Each as the little-endian number of its bytes, at its place; the others no word is.
const TABLE: [u64; 16] = {
    let mut table = [u64::MAX; 16];
    let mut at = 0;
    while at < STOP_WORDS.len() {
        let word = STOP_WORDS[at];
        let mut number = 0;
        let mut byte = word.len();
        while byte > 0 {
            byte -= 1;
            number = number << 8 | word[byte] as u64;
        }
        assert!(table[place(number)] == u64::MAX, "two stop words have one place");
        table[place(number)] = number;
        at += 1;
    }
    table
};

const fn place(number: u64) -> usize {
    // The factor was found by trial: it gives every stop word a place of its own.
    (number.wrapping_mul(0xa648_a7dd_0683_9eb9) >> 60) as usize
}

/// A bit of its own for each stop word, 0 for other words: `number` is a word's first eight bytes, the first lowest, and 0
/// where it has fewer.
#[must_use]
#[inline]
pub fn stop_word(number: u64) -> u32 {
    let place = place(number);
    u32::from(TABLE[place] == number) << place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::eight;

    #[test]
    fn each_has_a_bit_and_others_have_none() {
        let bit = |word: &[u8]| stop_word(eight(word, 0, word.len()));
        let all = STOP_WORDS.iter().fold(0, |all, word| all | bit(word));
        assert_eq!(all.count_ones(), 8);
        for word in ["", "t", "th", "then", "The", "bee", "withstand", "thatthat"] {
            assert_eq!(bit(word.as_bytes()), 0, "{word}");
        }
    }
}
