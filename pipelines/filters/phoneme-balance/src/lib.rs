//! Drops entries that are not read as they are written, such as `aaa`, read "triple A".

use luthier_filter::{Config, Row, Scores, Verdict, filter};

#[derive(Config)]
struct Balance {
    /// Fewest phonemes per letter.
    #[config(default = 0.5, min = 0.0)]
    min: f64,
    /// Most phonemes per letter.
    #[config(default = 1.2)]
    max: f64,
}

/// Keeps words whose phonemes per letter lie between `min` and `max`.
#[filter(
    text = "word",
    reads = ["completion"],
    scores = ["phonemes-per-letter"],
    reasons = ["too-few-phonemes", "too-many-phonemes"]
)]
fn phoneme_balance(row: &Row, config: &Balance, scores: &mut Scores) -> Verdict {
    let letters = row.text().chars().count().max(1);
    let phonemes = row.column("completion").split_whitespace().count();
    let ratio = phonemes as f64 / letters as f64;
    scores.set("phonemes-per-letter", ratio as f32);
    if ratio < config.min {
        Verdict::Drop("too-few-phonemes")
    } else if ratio > config.max {
        Verdict::Drop("too-many-phonemes")
    } else {
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::{FilterOfThisCrate, Verdict};

    fn judged(word: &str, phonemes: &str) -> (Verdict, f32) {
        let judged = luthier_filter::judge::<FilterOfThisCrate>("{}", word, &[("completion", phonemes)]);
        (judged.verdict, judged.scores[0])
    }

    #[test]
    fn drops_what_is_not_read_as_written() {
        assert_eq!(judged("luthier", "L UW1 TH IY0 ER0"), (Verdict::Keep, 5.0 / 7.0));
        assert_eq!(judged("aaa", "T R IH1 P AH0 L EY1").0, Verdict::Drop("too-many-phonemes"));
        assert_eq!(judged("though", "DH OW1").0, Verdict::Drop("too-few-phonemes"));
    }
}
