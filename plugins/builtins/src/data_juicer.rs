//! Data-Juicer's common text filters, with the defaults of their classes: those that need no model and no word list.

use std::collections::BTreeMap;

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::lines::split_lines;
use crate::run_counts::RunCounts;
use crate::select::{above, below, count, first};
use crate::share;
use crate::special_characters::is_special;

#[derive(Config)]
pub struct DataJuicerConfig {
    /// Least share of letters and digits (`alphanumeric_filter`).
    #[config(default = 0.25, min = 0.0)]
    min_alphanumeric: f64,
    /// Least mean length of a line in characters (`average_line_length_filter`).
    #[config(default = 10.0, min = 0.0)]
    min_average_line: f64,
    /// Characters of a run (`character_repetition_filter`).
    #[config(default = 10, min = 1)]
    char_run: usize,
    /// Largest share of the most frequent runs of characters (`character_repetition_filter`).
    #[config(default = 0.5, min = 0.0)]
    max_char_repetition: f64,
    /// Least length of the longest line in characters (`maximum_line_length_filter`).
    #[config(default = 10)]
    min_longest_line: usize,
    /// Largest share of marks, digits, white space and pictures (`special_characters_filter`).
    #[config(default = 0.25, min = 0.0)]
    max_special: f64,
    /// Fewest characters (`text_length_filter`).
    #[config(default = 10)]
    min_chars: usize,
    /// Most characters (`text_length_filter`).
    max_chars: Option<usize>,
    /// Words of a run (`word_repetition_filter`).
    #[config(default = 10, min = 1)]
    word_run: usize,
    /// Largest share of repeated runs of words (`word_repetition_filter`).
    #[config(default = 0.5, min = 0.0)]
    max_word_repetition: f64,
    /// Fewest words (`words_num_filter`).
    #[config(default = 10)]
    min_words: usize,
    /// Most words (`words_num_filter`).
    max_words: Option<usize>,
}

/// Drops texts that Data-Juicer's common filters drop.
pub struct DataJuicer {
    config: DataJuicerConfig,
    letters: Vec<u32>,
    table: RunCounts,
}

/// Of all runs of `n` characters, the share of the most frequent ones: as many different runs as the square root of their
/// number, those that come twice at most.
fn char_repetition(text: &[u32], n: usize, table: &mut RunCounts) -> f64 {
    let counts = table.count(text, n);
    let repeated = counts.iter().filter(|count| **count > 1).count();
    let top = counts.len().isqrt().min(repeated);
    share(sum(&counts[..top]), sum(counts))
}

fn word_repetition(words: &[u32], n: usize, table: &mut RunCounts) -> f64 {
    let counts = table.count(words, n);
    let repeated = counts.iter().filter(|count| **count > 1).count();
    share(sum(&counts[..repeated]), sum(counts))
}

fn sum(counts: &[u32]) -> usize {
    counts.iter().map(|count| *count as usize).sum()
}

/// Pieces between spaces, tabs and line feeds, in lower case, without special characters at the ends: each as a number,
/// equal ones as equal ones.
fn words(text: &str) -> Vec<u32> {
    let mut known: BTreeMap<Box<str>, u32> = BTreeMap::new();
    let mut lower = String::new();
    let mut numbers = Vec::with_capacity(text.len() / 6);
    for piece in text.split([' ', '\t', '\n']) {
        let word = if piece.is_ascii() {
            lower.clear();
            lower.push_str(piece);
            lower.make_ascii_lowercase();
            trim_special(&lower)
        } else {
            lower = piece.to_lowercase();
            trim_special(&lower)
        };
        if word.is_empty() {
            continue;
        }
        let next = known.len() as u32;
        let number = match known.get(word) {
            Some(number) => *number,
            None => *known.entry(word.into()).or_insert(next),
        };
        numbers.push(number);
    }
    numbers
}

fn trim_special(word: &str) -> &str {
    word.trim_matches(is_special)
}

fn outside(value: usize, least: usize, most: Option<usize>) -> bool {
    value < least || most.is_some_and(|most| value > most)
}

impl Filter for DataJuicer {
    type Config = DataJuicerConfig;

    const ABOUT: About = About {
        name: "data-juicer",
        version: "2",
        about: "Drops texts by Data-Juicer's filters on characters, lines, words and repetition.",
        text: "",
        reads: &[],
        scores: &[
            ("alphanumeric", ScoreKind::Real),
            ("average-line", ScoreKind::Real),
            ("char-repetition", ScoreKind::Real),
            ("longest-line", ScoreKind::Count),
            ("special", ScoreKind::Real),
            ("chars", ScoreKind::Count),
            ("word-repetition", ScoreKind::Real),
            ("words", ScoreKind::Count),
        ],
        reasons: &[
            "alphanumeric_filter",
            "average_line_length_filter",
            "character_repetition_filter",
            "maximum_line_length_filter",
            "special_characters_filter",
            "text_length_filter",
            "word_repetition_filter",
            "words_num_filter",
        ],
        edits: false,
    };

    fn open(config: DataJuicerConfig) -> Result<Self, String> {
        let crossed = |least: usize, most: Option<usize>| most.is_some_and(|most| most < least);
        if crossed(config.min_chars, config.max_chars) || crossed(config.min_words, config.max_words) {
            return Err("a minimum is larger than its maximum, so every row would be dropped".to_owned());
        }
        Ok(Self { config, letters: Vec::new(), table: RunCounts::default() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let (text, config) = (row.text(), &self.config);
        self.letters.clear();
        let (mut alphanumeric, mut special) = (0, 0);
        for c in text.chars() {
            self.letters.push(u32::from(c));
            alphanumeric += usize::from(c.is_alphanumeric());
            special += usize::from(is_special(c));
        }
        let length = self.letters.len();
        let (alphanumeric, special) = (share(alphanumeric, length), share(special, length));
        let (mut lines, mut longest) = (0, 0);
        for line in split_lines(text) {
            lines += 1;
            longest = longest.max(crate::chars(line));
        }
        let average = share(length, lines);
        let char_repetition = char_repetition(&self.letters, config.char_run, &mut self.table);
        let words = words(text);
        let word_repetition = word_repetition(&words, config.word_run, &mut self.table);
        let measured = [
            alphanumeric,
            average,
            char_repetition,
            longest as f64,
            special,
            length as f64,
            word_repetition,
            words.len() as f64,
        ];
        scores.set_from(0, &measured);
        let checks: [(bool, &'static str); 8] = [
            (alphanumeric < config.min_alphanumeric, "alphanumeric_filter"),
            (average < config.min_average_line, "average_line_length_filter"),
            (char_repetition > config.max_char_repetition, "character_repetition_filter"),
            (longest < config.min_longest_line, "maximum_line_length_filter"),
            (special > config.max_special, "special_characters_filter"),
            (outside(length, config.min_chars, config.max_chars), "text_length_filter"),
            (word_repetition > config.max_word_repetition, "word_repetition_filter"),
            (outside(words.len(), config.min_words, config.max_words), "words_num_filter"),
        ];
        checks.iter().find(|(fails, _)| *fails).map_or(Verdict::Keep, |(_, reason)| Verdict::Drop(reason))
    }

    const THRESHOLDS: &'static [&'static str] = &[
        "min_alphanumeric",
        "min_average_line",
        "max_char_repetition",
        "min_longest_line",
        "max_special",
        "min_chars",
        "max_chars",
        "max_word_repetition",
        "min_words",
        "max_words",
    ];

    fn select(&self, scores: &[f32], _before: Option<&str>) -> Option<Verdict> {
        let config = &self.config;
        let [alphanumeric, average, char_repetition, longest, special, chars, word_repetition, words] =
            *scores.first_chunk::<8>()?;
        let (longest, chars, words) = (count(longest)?, count(chars)?, count(words)?);
        first(&[
            (below(alphanumeric, config.min_alphanumeric), "alphanumeric_filter"),
            (below(average, config.min_average_line), "average_line_length_filter"),
            (above(char_repetition, config.max_char_repetition), "character_repetition_filter"),
            (Some(longest < config.min_longest_line), "maximum_line_length_filter"),
            (above(special, config.max_special), "special_characters_filter"),
            (Some(outside(chars, config.min_chars, config.max_chars)), "text_length_filter"),
            (above(word_repetition, config.max_word_repetition), "word_repetition_filter"),
            (Some(outside(words, config.min_words, config.max_words)), "words_num_filter"),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_counts_runs() {
        let mut table = RunCounts::default();
        let letters: Vec<u32> = "abcabcabc".chars().map(u32::from).collect();
        // Runs of three: abc 3, bca 2, cab 2; the square root of 3 is 1.
        assert_eq!(char_repetition(&letters, 3, &mut table), 3.0 / 7.0);
        assert_eq!(char_repetition(&letters, 10, &mut table), 0.0);
        let text = words("One two, ONE two! (one) ... two");
        assert_eq!(text, [0, 1, 0, 1, 0, 1]);
        assert_eq!(word_repetition(&text, 2, &mut table), 1.0);
    }
}
