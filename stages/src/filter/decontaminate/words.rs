//! The words of a text as they are compared: runs of letters and digits in lower case, each as 64 bits.

use std::ops::Range;

/// An odd number without structure: the fraction of the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Words in order, each with the bytes it has in the text.
#[derive(Debug, Default)]
pub(super) struct HashedWords {
    hashes: Vec<u64>,
    places: Vec<Range<usize>>,
    /// Polynomial hash of the words before each, and of all.
    prefixes: Vec<u64>,
}

fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

impl HashedWords {
    pub fn of(text: &str) -> Self {
        let mut words = Self::default();
        let mut current: Option<(usize, u64)> = None;
        for (at, c) in text.char_indices() {
            if c.is_alphanumeric() {
                let (start, mut hash) = current.unwrap_or((at, FACTOR));
                if c.is_ascii() {
                    hash = mix(hash ^ u64::from(c.to_ascii_lowercase()), FACTOR).wrapping_add(1);
                } else {
                    for lower in c.to_lowercase() {
                        hash = mix(hash ^ u64::from(lower), FACTOR).wrapping_add(1);
                    }
                }
                current = Some((start, hash));
            } else if !is_joined(c)
                && let Some((start, hash)) = current.take()
            {
                words.push(hash, start..at);
            }
        }
        if let Some((start, hash)) = current {
            words.push(hash, start..text.len());
        }
        words.prefixes.push(words.hashes.iter().fold(0, |prefix, hash| step(prefix, *hash)));
        words
    }

    fn push(&mut self, hash: u64, place: Range<usize>) {
        let before = match (self.prefixes.last(), self.hashes.last()) {
            (Some(prefix), Some(word)) => step(*prefix, *word),
            _ => 0,
        };
        self.prefixes.push(before);
        self.hashes.push(hash);
        self.places.push(place);
    }

    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// The bytes from word `first` to word `last`, both included.
    pub fn place(&self, first: usize, last: usize) -> Range<usize> {
        self.places[first].start..self.places[last].end
    }

    /// A number for all words together.
    pub fn whole(&self) -> u64 {
        mix(self.prefixes[self.len()] ^ self.len() as u64, FACTOR)
    }

    /// A number for each run of `n` words, by its first word.
    pub fn runs(&self, n: usize) -> impl Iterator<Item = u64> + '_ {
        let shift = (0..n).fold(1u64, |power, _| power.wrapping_mul(FACTOR));
        let count = (self.len() + 1).saturating_sub(n);
        (0..count).map(move |at| {
            let run = self.prefixes[at + n].wrapping_sub(self.prefixes[at].wrapping_mul(shift));
            mix(run ^ n as u64, FACTOR)
        })
    }
}

fn step(prefix: u64, word: u64) -> u64 {
    prefix.wrapping_mul(FACTOR).wrapping_add(word)
}

/// Marks within a word: an accent of its own, a soft hyphen, a joiner.
fn is_joined(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{ad}' | '\u{200c}' | '\u{200d}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_equal_where_words_are() {
        let a = HashedWords::of("The OLD luthier's tools, 42 of them!");
        let b = HashedWords::of("«the old» luthier s tools 42 — of (them");
        assert_eq!(a.len(), 8);
        assert_eq!(a.whole(), b.whole());
        assert!(a.runs(3).eq(b.runs(3)) && a.runs(3).count() == 6);
        let c = HashedWords::of("x the old luthier");
        assert_eq!(a.runs(3).next(), c.runs(3).nth(1));
        assert_ne!(a.runs(2).next(), a.runs(3).next());
        assert_eq!(&"The OLD luthier's"[a.place(1, 2)], "OLD luthier");
        assert_eq!(HashedWords::of("…").runs(1).count(), 0);
        assert_ne!(HashedWords::of("ab c").whole(), HashedWords::of("a bc").whole());
        assert_ne!(HashedWords::of("room 41").whole(), HashedWords::of("room 42").whole());
    }
}
