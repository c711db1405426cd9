//! Keeps dictionary entries that are plain words: letters a to z, within bounds of length.

use luthier_filter::{Config, Row, Verdict, filter};

#[derive(Config)]
struct Shape {
    /// Fewest letters.
    #[config(default = 1, min = 1)]
    min: usize,
    /// Most letters.
    #[config(default = 32)]
    max: usize,
}

/// Keeps words of `min` to `max` letters a to z.
#[filter(text = "word", reasons = ["not-letters", "too-short", "too-long"])]
fn word_shape(row: &Row, config: &Shape) -> Verdict {
    let word = row.text();
    if !word.bytes().all(|byte| byte.is_ascii_lowercase()) {
        Verdict::Drop("not-letters")
    } else if word.len() < config.min {
        Verdict::Drop("too-short")
    } else if word.len() > config.max {
        Verdict::Drop("too-long")
    } else {
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::{FilterOfThisCrate, Verdict};

    fn verdict(word: &str) -> Verdict {
        luthier_filter::judge::<FilterOfThisCrate>(r#"{"min": 3, "max": 10}"#, word, &[]).verdict
    }

    #[test]
    fn keeps_plain_words() {
        assert_eq!(verdict("luthier"), Verdict::Keep);
        assert_eq!(verdict("it's"), Verdict::Drop("not-letters"));
        assert_eq!(verdict("café"), Verdict::Drop("not-letters"));
        assert_eq!(verdict("at"), Verdict::Drop("too-short"));
        assert_eq!(verdict("luthierships"), Verdict::Drop("too-long"));
    }
}
