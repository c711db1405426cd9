//! Gopher's document quality heuristics (Rae et al. 2021, arXiv 2112.11446, A.1), with datatrove's defaults.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::{is_space, is_symbol};
use crate::hash::eight;
use crate::lines::split_lines;
use crate::select::{above, below, count, first};
use crate::shared::with_words;
use crate::stop_words::stop_word;
use crate::vector;
use crate::words::Span;
use crate::{chars, share};

#[derive(Config)]
pub struct GopherQualityConfig {
    /// Fewest words; 0 for no bound.
    #[config(default = 50)]
    min_words: usize,
    /// Most words; 0 for no bound.
    #[config(default = 100_000)]
    max_words: usize,
    /// Least mean word length in characters; 0 for no bound.
    #[config(default = 3.0, min = 0.0)]
    min_word_length: f64,
    /// Largest mean word length in characters; 0 for no bound.
    #[config(default = 10.0, min = 0.0)]
    max_word_length: f64,
    /// Most `#`, and most ellipses, per word; 0 for no bound.
    #[config(default = 0.1, min = 0.0)]
    max_symbols: f64,
    /// Largest share of lines that start with a bullet; 0 for no bound.
    #[config(default = 0.9, min = 0.0)]
    max_bullet_lines: f64,
    /// Largest share of lines that end with an ellipsis; 0 for no bound.
    #[config(default = 0.3, min = 0.0)]
    max_ellipsis_lines: f64,
    /// Least share of words with a letter; 0 for no bound.
    #[config(default = 0.8, min = 0.0)]
    min_alphabetic: f64,
    /// Fewest different stop words; 0 for no bound.
    #[config(default = 2)]
    min_stop_words: usize,
}

/// Drops texts whose words and lines are unlike prose.
pub struct GopherQuality {
    config: GopherQualityConfig,
}

/// What the words of a text are like.
#[derive(Default)]
struct Census {
    words: usize,
    /// Words with more than punctuation.
    real: usize,
    real_chars: usize,
    alphabetic: usize,
    /// A bit for each that came.
    stop_words: u32,
}

impl Census {
    #[inline(never)]
    fn of(words: &[Span], text: &str) -> Self {
        let mut census = Self { words: words.len(), ..Self::default() };
        for word in words {
            if word.letters {
                let length = (word.end - word.start) as usize;
                census.real += 1;
                census.real_chars += length;
                census.alphabetic += 1;
                census.stop_words |= stop_word(eight(text.as_bytes(), word.start as usize, length));
            } else {
                census.add(&text[word.range()]);
            }
        }
        census
    }

    /// A word that is not only letters.
    fn add(&mut self, word: &str) {
        if let [byte] = word.as_bytes() {
            let is_real = !is_symbol(char::from(*byte));
            self.real += usize::from(is_real);
            self.real_chars += usize::from(is_real);
            return;
        }
        if word.chars().any(|c| !is_symbol(c)) {
            self.real += 1;
            self.real_chars += chars(word);
        }
        self.alphabetic += usize::from(word.chars().any(char::is_alphabetic));
    }
}

/// `...`, without overlap, and `…`.
#[inline(never)]
fn ellipses_in(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut count, mut end) = (0, 0);
    for at in vector::positions(bytes, |bytes| bytes.is(b'.').or(bytes.is(0xe2))) {
        let is_here = || bytes[at..].starts_with(b"...") || bytes[at..].starts_with("…".as_bytes());
        if at >= end && is_here() {
            count += 1;
            end = at + 3;
        }
    }
    count
}

/// Whether a line starts with a bullet, and whether it ends with an ellipsis, white space at the ends aside.
fn line_ends(line: &str) -> (bool, bool) {
    let bytes = line.as_bytes();
    let bullet = match bytes {
        [0x21..=0x7f, ..] => bytes[0] == b'-',
        _ => line.trim_start_matches(is_space).starts_with(['•', '-']),
    };
    let ellipsis = match bytes {
        [.., before, 0x21..=0x7f] => bytes[bytes.len() - 1] == b'.' && *before == b'.' && line.ends_with("..."),
        _ => {
            let end = line.trim_end_matches(is_space);
            end.ends_with("...") || end.ends_with('…')
        }
    };
    (bullet, ellipsis)
}

impl Filter for GopherQuality {
    type Config = GopherQualityConfig;

    const ABOUT: About = About {
        name: "gopher-quality",
        version: "1",
        about: "Drops texts whose words and lines are unlike prose: too short, too many symbols, bullets, few stop words.",
        text: "",
        reads: &[],
        scores: &[
            ("words", ScoreKind::Count),
            ("mean-word-length", ScoreKind::Real),
            ("alphabetic", ScoreKind::Real),
            ("bullet-lines", ScoreKind::Real),
            ("ellipsis-lines", ScoreKind::Real),
            ("stop-words", ScoreKind::Count),
            ("hashes", ScoreKind::Real),
            ("ellipses", ScoreKind::Real),
        ],
        reasons: &[
            "gopher_short_doc",
            "gopher_long_doc",
            "gopher_below_avg_threshold",
            "gopher_above_avg_threshold",
            "gopher_too_many_hashes",
            "gopher_too_many_ellipsis",
            "gopher_too_many_bullets",
            "gopher_too_many_end_ellipsis",
            "gopher_below_alpha_threshold",
            "gopher_enough_stop_words",
        ],
        edits: false,
    };

    fn open(config: GopherQualityConfig) -> Result<Self, String> {
        Ok(Self { config })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let text = row.text();
        let config = &self.config;
        let census = with_words(text, |words| Census::of(words.spans(), text));
        let (mut lines, mut bullets, mut ellipses) = (0, 0, 0);
        for line in split_lines(text) {
            let (bullet, ellipsis) = line_ends(line);
            lines += 1;
            bullets += usize::from(bullet);
            ellipses += usize::from(ellipsis);
        }
        let mean = share(census.real_chars, census.real);
        let alphabetic = share(census.alphabetic, census.words);
        let stop_words = census.stop_words.count_ones() as usize;
        // `bound` is off at 0, as a falsy bound is in the original.
        let over = |value: f64, bound: f64| bound != 0.0 && value > bound;
        let under = |value: f64, bound: f64| bound != 0.0 && value < bound;
        let hashes = share(vector::count(text.as_bytes(), |bytes| bytes.is(b'#')), census.words);
        let dots = share(ellipses_in(text), census.words);
        let words = census.real as f64;
        let (bullet_lines, ellipsis_lines) = (share(bullets, lines), share(ellipses, lines));
        scores.set_from(0, &[words, mean, alphabetic, bullet_lines, ellipsis_lines, stop_words as f64, hashes, dots]);
        let checks: [(bool, &'static str); 10] = [
            (config.min_words != 0 && census.real < config.min_words, "gopher_short_doc"),
            (config.max_words != 0 && census.real > config.max_words, "gopher_long_doc"),
            (under(mean, config.min_word_length), "gopher_below_avg_threshold"),
            (over(mean, config.max_word_length), "gopher_above_avg_threshold"),
            (over(hashes, config.max_symbols), "gopher_too_many_hashes"),
            (over(dots, config.max_symbols), "gopher_too_many_ellipsis"),
            (over(bullet_lines, config.max_bullet_lines), "gopher_too_many_bullets"),
            (over(ellipsis_lines, config.max_ellipsis_lines), "gopher_too_many_end_ellipsis"),
            (under(alphabetic, config.min_alphabetic), "gopher_below_alpha_threshold"),
            (config.min_stop_words != 0 && stop_words < config.min_stop_words, "gopher_enough_stop_words"),
        ];
        checks.iter().find(|(fails, _)| *fails).map_or(Verdict::Keep, |(_, reason)| Verdict::Drop(reason))
    }

    const THRESHOLDS: &'static [&'static str] = &[
        "min_words",
        "max_words",
        "min_word_length",
        "max_word_length",
        "max_symbols",
        "max_bullet_lines",
        "max_ellipsis_lines",
        "min_alphabetic",
        "min_stop_words",
    ];

    fn select(&self, scores: &[f32], _before: Option<&str>) -> Option<Verdict> {
        let config = &self.config;
        let [words, mean, alphabetic, bullets, ends, stop_words, hashes, dots] = *scores.first_chunk::<8>()?;
        let (words, stop_words) = (count(words)?, count(stop_words)?);
        let over = |score: f32, bound: f64| if bound == 0.0 { Some(false) } else { above(score, bound) };
        let under = |score: f32, bound: f64| if bound == 0.0 { Some(false) } else { below(score, bound) };
        first(&[
            (Some(config.min_words != 0 && words < config.min_words), "gopher_short_doc"),
            (Some(config.max_words != 0 && words > config.max_words), "gopher_long_doc"),
            (under(mean, config.min_word_length), "gopher_below_avg_threshold"),
            (over(mean, config.max_word_length), "gopher_above_avg_threshold"),
            (over(hashes, config.max_symbols), "gopher_too_many_hashes"),
            (over(dots, config.max_symbols), "gopher_too_many_ellipsis"),
            (over(bullets, config.max_bullet_lines), "gopher_too_many_bullets"),
            (over(ends, config.max_ellipsis_lines), "gopher_too_many_end_ellipsis"),
            (under(alphabetic, config.min_alphabetic), "gopher_below_alpha_threshold"),
            (Some(config.min_stop_words != 0 && stop_words < config.min_stop_words), "gopher_enough_stop_words"),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::ellipses_in;

    #[test]
    fn ellipses_are_counted_without_overlap() {
        for (text, count) in [("a... b…", 2), ("......", 2), (".....", 1), ("‥ ..", 0), ("….…", 2), ("", 0)] {
            assert_eq!(ellipses_in(text), count, "{text}");
        }
    }
}
