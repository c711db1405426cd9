//! Answers that repeat their instruction.

use std::collections::BTreeSet;

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::hash::{FACTOR, hash, mix};
use crate::select::{above, below, count, first};
use crate::share;
use crate::words::Words;

#[derive(Config)]
pub struct OverlapConfig {
    /// Largest share of the answer's runs of words that also stand in the instruction.
    #[config(default = 0.8, min = 0.0, max = 1.0)]
    max_copied: f64,
    /// Words of a run.
    #[config(default = 3, min = 1, max = 20)]
    ngrams: usize,
    /// Answers of fewer words may repeat the instruction, as those of a choice do.
    #[config(default = 8)]
    min_words: usize,
    /// Least share of the instruction's different words of four letters and more that the answer uses; 0 for no bound.
    #[config(default = 0.0, min = 0.0, max = 1.0)]
    min_shared: f64,
}

/// Drops answers that are their instruction, mostly consist of it, or have nothing to do with it.
pub struct Overlap {
    config: OverlapConfig,
    words: Words,
}

impl Overlap {
    /// A number for each word with a letter or digit, whatever its case.
    fn numbers(&mut self, text: &str, longest: &mut BTreeSet<u64>) -> Vec<u64> {
        self.words.cut(text);
        let mut numbers = Vec::new();
        for word in self.words.iter(text).filter(|word| word.chars().any(char::is_alphanumeric)) {
            let number = if word.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
                hash(word.to_lowercase().as_bytes())
            } else {
                hash(word.as_bytes())
            };
            numbers.push(number);
            if word.chars().count() >= 4 {
                longest.insert(number);
            }
        }
        numbers
    }
}

fn runs(numbers: &[u64], n: usize) -> impl Iterator<Item = u64> {
    numbers.windows(n).map(|run| run.iter().fold(0, |state, number| mix(state ^ number, FACTOR)))
}

impl Filter for Overlap {
    type Config = OverlapConfig;

    const ABOUT: About = About {
        name: "overlap",
        version: "2",
        about: "Drops answers that are their instruction, mostly repeat it, or share no word with it.",
        text: "completion",
        reads: &["prompt"],
        scores: &[
            ("copied", ScoreKind::Real),
            ("shared", ScoreKind::Real),
            ("words", ScoreKind::Count),
            ("prompt-words", ScoreKind::Count),
            ("same", ScoreKind::Flag),
        ],
        reasons: &["same_as_prompt", "copied_prompt", "unrelated"],
        edits: false,
    };

    fn open(config: OverlapConfig) -> Result<Self, String> {
        Ok(Self { config, words: Words::default() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let (mut asked_long, mut given_long) = (BTreeSet::new(), BTreeSet::new());
        let asked = self.numbers(row.column("prompt"), &mut asked_long);
        let given = self.numbers(row.text(), &mut given_long);
        let n = self.config.ngrams;
        let known: BTreeSet<u64> = runs(&asked, n).collect();
        let total = (given.len() + 1).saturating_sub(n);
        let copied = share(runs(&given, n).filter(|run| known.contains(run)).count(), total);
        let shared = share(asked_long.intersection(&given_long).count(), asked_long.len());
        let same = !given.is_empty() && given == asked;
        let measured = [copied, shared, given.len() as f64, asked_long.len() as f64, f64::from(u8::from(same))];
        scores.set_from(0, &measured);
        let long = given.len() >= self.config.min_words;
        if long && same {
            Verdict::Drop("same_as_prompt")
        } else if long && copied > self.config.max_copied {
            Verdict::Drop("copied_prompt")
        } else if !asked_long.is_empty() && shared < self.config.min_shared {
            Verdict::Drop("unrelated")
        } else {
            Verdict::Keep
        }
    }

    const THRESHOLDS: &'static [&'static str] = &["max_copied", "min_words", "min_shared"];

    fn select(&self, scores: &[f32], _before: Option<&str>) -> Option<Verdict> {
        let [copied, shared, words, asked, same] = *scores.first_chunk::<5>()?;
        let long = count(words)? >= self.config.min_words;
        first(&[
            (Some(long && same == 1.0), "same_as_prompt"),
            (if long { above(copied, self.config.max_copied) } else { Some(false) }, "copied_prompt"),
            (if asked > 0.0 { below(shared, self.config.min_shared) } else { Some(false) }, "unrelated"),
        ])
    }
}

#[cfg(test)]
mod tests {
    use luthier_filter::{Judged, Verdict, judge};

    use super::Overlap;

    #[test]
    fn measures_what_an_answer_repeats() {
        let judged = |config: &str, prompt: &str, answer: &str| -> Judged {
            judge::<Overlap>(config, answer, &[("prompt", prompt)])
        };
        let ask = "Name three woods that luthiers use for the back of a violin.";
        assert_eq!(judged("{}", ask, &ask.to_uppercase()).verdict, Verdict::Drop("same_as_prompt"));
        let echo = format!("{ask} Maple.");
        let echo = judged("{}", ask, &echo);
        assert_eq!(echo.verdict, Verdict::Drop("copied_prompt"));
        // 13 words have 11 runs of three, of which the 10 of the instruction's 12 words came before.
        assert_eq!(echo.scores[0], 10.0 / 11.0);
        assert_eq!(judged("{}", ask, "Maple, poplar and willow.").verdict, Verdict::Keep);
        // Short answers may repeat.
        assert_eq!(judged("{}", "Yes or no?", "yes or no").verdict, Verdict::Keep);
        let strict = r#"{"min_shared": 0.2}"#;
        assert_eq!(judged(strict, ask, "I like trains.").verdict, Verdict::Drop("unrelated"));
        assert_eq!(judged(strict, ask, "A luthier likes the back of a violin.").verdict, Verdict::Keep);
        assert_eq!(judged("{}", "", "").scores, [0.0; 5]);
    }
}
