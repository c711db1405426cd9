//! Metrics of answers and choices, as lm-evaluation-harness and jiwer define them.

use regex::Regex;

use super::config::{GenerationConfig, GenerationMetric, Take};

/// One item's part of a metric that is a sum over a sum: edits over reference words, hits over items.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    pub value: f64,
    pub weight: f64,
}

impl Part {
    pub fn of(value: f64) -> Self {
        Self { value, weight: 1.0 }
    }
}

/// `Σ value / Σ weight` with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub value: f64,
    /// Of the mean of equal weights: sample deviation over √n. Of a ratio: the same of its linearisation. `None` for
    /// fewer than two items.
    pub stderr: Option<f64>,
    pub items: usize,
}

impl Estimate {
    pub fn of(parts: &[Part]) -> Self {
        let items = parts.len();
        let value = ratio(parts.iter().copied());
        let stderr = (items > 1 && value.is_finite()).then(|| {
            let mean_weight = parts.iter().map(|part| part.weight).sum::<f64>() / items as f64;
            let squares: f64 = parts.iter().map(|part| (part.value - value * part.weight).powi(2)).sum();
            (squares / (items - 1) as f64).sqrt() / (items as f64).sqrt() / mean_weight
        });
        Self { value, stderr, items }
    }
}

/// `Σ value / Σ weight`; NaN without weight.
pub fn ratio(parts: impl Iterator<Item = Part>) -> f64 {
    let (mut value, mut weight) = (0.0, 0.0);
    for part in parts {
        value += part.value;
        weight += part.weight;
    }
    value / weight
}

/// How answers are compared with references.
pub struct Comparison {
    extract: Option<(Regex, Take)>,
    ignore: Vec<Regex>,
    ignore_case: bool,
    ignore_punctuation: bool,
    ignore_numbers: bool,
}

impl Comparison {
    /// # Errors
    /// A pattern that does not compile; `check` has reported it before.
    pub fn new(config: &GenerationConfig) -> Result<Self, regex::Error> {
        Ok(Self {
            extract: config.extract.as_deref().map(Regex::new).transpose()?.map(|pattern| (pattern, config.take)),
            ignore: config.regexes_to_ignore.iter().map(|pattern| Regex::new(pattern)).collect::<Result<_, _>>()?,
            ignore_case: config.ignore_case,
            ignore_punctuation: config.ignore_punctuation,
            ignore_numbers: config.ignore_numbers,
        })
    }

    /// The part of a text that counts: what `extract` finds, or nothing if it finds nothing; all of it without one.
    pub fn answer<'t>(&self, text: &'t str) -> &'t str {
        let text = text.trim();
        let Some((pattern, take)) = &self.extract else { return text };
        let found = match take {
            Take::First => pattern.captures(text),
            Take::Last => pattern.captures_iter(text).last(),
        };
        found.and_then(|found| found.get(1).or_else(|| found.get(0))).map_or("", |part| part.as_str())
    }

    /// One item's part of `metric`.
    pub fn part(&self, metric: GenerationMetric, answer: &str, reference: &str) -> Part {
        match metric {
            GenerationMetric::ExactMatch => Part::of(f64::from(self.exact_match(answer, reference))),
            GenerationMetric::Contains => Part::of(f64::from(answer.contains(reference))),
            GenerationMetric::WordErrorRate | GenerationMetric::PhonemeErrorRate => {
                let (answer, reference) = (words(answer), words(reference));
                Part { value: edit_distance(&answer, &reference) as f64, weight: reference.len() as f64 }
            }
            GenerationMetric::CharacterErrorRate => {
                let (answer, reference): (Vec<char>, Vec<char>) =
                    (answer.chars().collect(), reference.chars().collect());
                Part { value: edit_distance(&answer, &reference) as f64, weight: reference.len() as f64 }
            }
        }
    }

    /// lm-evaluation-harness' `exact_match`: the options are applied in its order.
    pub fn exact_match(&self, answer: &str, reference: &str) -> bool {
        self.normalise(answer) == self.normalise(reference)
    }

    fn normalise(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for pattern in &self.ignore {
            text = pattern.replace_all(&text, "").into_owned();
        }
        if self.ignore_case {
            text = text.to_lowercase();
        }
        if self.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if self.ignore_numbers {
            text.retain(|c| !c.is_ascii_digit());
        }
        text
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// Levenshtein distance: insertions, deletions and substitutions, each 1.
pub fn edit_distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The choice with the highest score; the first of equals.
pub fn best_choice(scores: impl IntoIterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, score) in scores.into_iter().enumerate() {
        if score > best.1 {
            best = (index, score);
        }
    }
    best.0
}

/// `acc`, `acc_norm` (per character) and `acc_bytes` of one item, from the log-likelihoods of its choices.
pub fn choice_parts(choices: &[String], log_likelihoods: &[f64], gold: usize) -> [Part; 3] {
    let hit = |length: fn(&str) -> usize| {
        let scores = choices.iter().zip(log_likelihoods).map(|(choice, score)| score / length(choice) as f64);
        Part::of(f64::from(best_choice(scores) == gold))
    };
    [hit(|_| 1), hit(|choice| choice.chars().count()), hit(str::len)]
}
