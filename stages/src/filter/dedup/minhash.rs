//! MinHash signatures for locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.4).
//!
//! A text is the set of its runs of `ngrams` words, lower-cased and without punctuation. Each of `buckets × hashes` random
//! functions `(a·x + b) mod (2^61 − 1)` keeps its least value over the set; two texts of Jaccard similarity `s` agree in
//! all functions of at least one bucket with probability `1 − (1 − s^hashes)^buckets`: with 14 × 8, one half at 0.72.

use luthier_core::ConfigIssue;

use super::Normalize;

const PRIME: u64 = (1 << 61) - 1;

/// The shape of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::filter) struct MinHashShape {
    pub ngrams: usize,
    pub buckets: usize,
    pub hashes: usize,
    pub seed: u64,
}

impl MinHashShape {
    pub fn check(&self, path: &str, issues: &mut Vec<ConfigIssue>) {
        let functions = self.buckets.saturating_mul(self.hashes);
        if functions > 4_096 {
            let message = format!("{} × {} hash functions, the most are 4096", self.buckets, self.hashes);
            issues.push(ConfigIssue::new(format!("{path}.buckets"), message).help("14 × 8 are the default"));
        }
    }
}

/// Makes signatures; shared by all threads.
pub(in crate::filter) struct MinHasher {
    shape: MinHashShape,
    normalize: Normalize,
    /// `a` and `b` of each function.
    functions: Vec<(u64, u64)>,
}

/// `a·x + b` modulo 2^61 − 1, for `a`, `b` below it.
fn apply(a: u64, b: u64, x: u64) -> u64 {
    let product = u128::from(a) * u128::from(x) + u128::from(b);
    let folded = (product as u64 & PRIME) + (product >> 61) as u64;
    if folded >= PRIME { folded - PRIME } else { folded }
}

impl MinHasher {
    pub fn new(shape: MinHashShape, normalize: Normalize) -> Self {
        let mut seed = blake3::Hasher::new_derive_key("luthier 2026-11 minhash functions v1");
        seed.update(&shape.seed.to_le_bytes());
        let mut stream = seed.finalize_xof();
        let mut next = |least: u64| {
            let mut bytes = [0u8; 8];
            stream.fill(&mut bytes);
            least + u64::from_le_bytes(bytes) % (PRIME - least)
        };
        let functions = (0..shape.buckets * shape.hashes).map(|_| (next(1), next(0))).collect();
        Self { shape, normalize, functions }
    }

    /// The key of each bucket; `None` for a text without words, which is like no other.
    pub fn keys(&self, text: &str) -> Option<Vec<u64>> {
        let text = self.normalize.apply(text);
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.is_empty() {
            return None;
        }
        let mut least = vec![u64::MAX; self.functions.len()];
        let run = self.shape.ngrams.clamp(1, words.len());
        for words in words.windows(run) {
            let x = shingle(words) % PRIME;
            for (slot, (a, b)) in least.iter_mut().zip(&self.functions) {
                *slot = (*slot).min(apply(*a, *b, x));
            }
        }
        let key = |values: &[u64]| {
            let mut hasher = blake3::Hasher::new();
            values.iter().for_each(|value| {
                hasher.update(&value.to_le_bytes());
            });
            first_word(&hasher)
        };
        Some(least.chunks_exact(self.shape.hashes).map(key).collect())
    }
}

fn shingle(words: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in words {
        hasher.update(word.as_bytes());
        hasher.update(b" ");
    }
    first_word(&hasher)
}

fn first_word(hasher: &blake3::Hasher) -> u64 {
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: MinHashShape = MinHashShape { ngrams: 1, buckets: 14, hashes: 8, seed: 1 };

    #[test]
    fn arithmetic_is_modulo_the_prime() {
        for (a, b, x) in
            [(1, 0, 5), (PRIME - 1, PRIME - 1, PRIME - 1), (123_456_789, 987, PRIME - 2), (PRIME - 1, 0, 2)]
        {
            let wanted = (u128::from(a) * u128::from(x) + u128::from(b)) % u128::from(PRIME);
            assert_eq!(u128::from(apply(a, b, x)), wanted, "{a} {b} {x}");
        }
    }

    #[test]
    fn pairs_meet_as_often_as_the_formula_says() {
        let hasher = MinHasher::new(SHAPE, Normalize::None);
        // Two sets of words with a known share in common.
        for (common, wanted) in [(30, 0.5f64), (72, 0.72), (80, 0.8), (90, 0.9)] {
            let apart = if common == 30 { 15 } else { (100 - common) / 2 };
            let similarity = common as f64 / (common + 2 * apart) as f64;
            let formula = 1.0 - (1.0 - similarity.powi(8)).powi(14);
            let trials = 400;
            let met = (0..trials)
                .filter(|trial| {
                    let side = |name: &str| -> String {
                        let both = (0..common).map(|word| format!("{trial}c{word} "));
                        both.chain((0..apart).map(|word| format!("{trial}{name}{word} "))).collect()
                    };
                    let (a, b) = (hasher.keys(&side("a")).unwrap(), hasher.keys(&side("b")).unwrap());
                    a.iter().zip(&b).any(|(a, b)| a == b)
                })
                .count() as f64
                / f64::from(trials);
            // Four standard deviations of a binomial.
            let bound = 4.0 * (formula * (1.0 - formula) / f64::from(trials)).sqrt();
            assert!((met - formula).abs() <= bound, "s = {similarity} ({wanted}): {met} against {formula} ± {bound}");
        }
    }

    #[test]
    fn a_text_without_words_has_no_keys() {
        let hasher = MinHasher::new(SHAPE, Normalize::Loose);
        assert_eq!(hasher.keys(" … !"), None);
        assert_eq!(hasher.keys("A, b!"), hasher.keys("a b"));
        assert!(hasher.keys("short").is_some_and(|keys| keys.len() == 14));
    }
}
