//! NeMo Curator's document heuristics for English, with the bounds of its published English pipeline.
//!
//! Words are what white space separates, lines those that are not blank. Cookie banners of its list that no shorter phrase
//! of the list covers are recognised by a fragment.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::{is_digit, is_space, trim};
use crate::{chars, share};

#[derive(Config)]
pub struct CuratorQualityConfig {
    /// Largest share of characters other than letters, digits, line feeds and `?!,.`, all of ASCII.
    #[config(default = 0.25, min = 0.0)]
    max_non_alphanumeric: f64,
    /// Largest share of words that are ellipses or mostly `#`.
    #[config(default = 0.1, min = 0.0)]
    max_symbol_words: f64,
    /// Largest share of characters that are digits.
    #[config(default = 0.15, min = 0.0)]
    max_digits: f64,
    /// Largest share of characters in addresses.
    #[config(default = 0.2, min = 0.0)]
    max_urls: f64,
    /// Largest share of white space.
    #[config(default = 0.25, min = 0.0)]
    max_white_space: f64,
    /// Largest share of brackets.
    #[config(default = 0.1, min = 0.0)]
    max_brackets: f64,
    /// Largest share of paragraphs about cookies, terms and privacy.
    #[config(default = 0.4, min = 0.0)]
    max_boilerplate: f64,
    /// Fewest words.
    #[config(default = 50)]
    min_words: usize,
    /// Most words.
    #[config(default = 100_000)]
    max_words: usize,
    /// Largest share of lines that end without `.`, `?`, `!` or a quote.
    #[config(default = 0.85, min = 0.0)]
    max_unpunctuated: f64,
    /// Least share of words with a letter.
    #[config(default = 0.8, min = 0.0)]
    min_alphabetic: f64,
    /// Fewest of the words the, be, to, of, and, that, have, with; copies count.
    #[config(default = 2)]
    min_common_words: usize,
    /// Least mean word length in characters.
    #[config(default = 3.0, min = 0.0)]
    min_word_length: f64,
    /// Largest mean word length in characters.
    #[config(default = 10.0, min = 0.0)]
    max_word_length: f64,
    /// Most characters of a word.
    #[config(default = 1000)]
    longest_word: usize,
    /// Largest share of lines that end in an ellipsis or in `read more`.
    #[config(default = 0.3, min = 0.0)]
    max_ellipses: f64,
    /// Largest share of lines that start with a bullet.
    #[config(default = 0.9, min = 0.0)]
    max_bullets: f64,
}

const ELLIPSES: [&str; 8] = ["...", "[...]", "…", "(...)", "[…]", "-»", "read more..", "read more"];
const COMMON: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];
const BULLETS: [char; 12] = ['•', '‣', '⁃', '⁌', '⁍', '∙', '○', '●', '◘', '◦', '⦾', '⦿'];
const POLICY: [&str; 12] = [
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "privacy overview",
    "use of cookies",
    "use cookies",
    "privacy & cookies policy",
    "privacy and cookies policy",
    "necessary cookies are absolutely essential",
    "not be particularly necessary for the website to function",
    "changing your cookie settings, you agree to this use",
];

/// Drops texts that NeMo Curator's English heuristics drop, but for those on repetition.
pub struct CuratorQuality {
    config: CuratorQualityConfig,
}

/// Characters by class.
#[derive(Default)]
struct Letters {
    all: usize,
    plain: usize,
    digits: usize,
    spaces: usize,
    brackets: usize,
}

impl Letters {
    fn of(text: &str) -> Self {
        let mut letters = Self::default();
        for c in text.chars() {
            letters.all += 1;
            let plain = c.is_ascii_alphanumeric() || matches!(c, '\n' | '?' | '!' | ',' | '.');
            letters.plain += usize::from(plain);
            letters.digits += usize::from(is_digit(c));
            letters.spaces += usize::from(matches!(c, '\t' | '\n' | '\r' | '\u{8}' | ' '));
            letters.brackets += usize::from(matches!(c, '{' | '}' | '⟨' | '⟩' | '[' | ']' | '(' | ')'));
        }
        letters
    }
}

#[derive(Default)]
struct WordCensus {
    count: usize,
    chars: usize,
    longest: usize,
    symbols: usize,
    alphabetic: usize,
    common: usize,
}

impl WordCensus {
    fn of(text: &str) -> Self {
        let mut census = Self::default();
        for word in text.split(is_space).filter(|word| !word.is_empty()) {
            let length = chars(word);
            census.count += 1;
            census.chars += length;
            census.longest = census.longest.max(length);
            // Runs of `#` count, not the characters of them.
            let hashes = word.as_bytes().split(|byte| *byte != b'#').filter(|run| !run.is_empty()).count();
            census.symbols += usize::from(2 * hashes > length || ELLIPSES.contains(&word));
            census.alphabetic += usize::from(word.chars().any(char::is_alphabetic));
            census.common += usize::from(COMMON.contains(&word));
        }
        census
    }
}

/// Characters in `http://` and `https://` with the letters, digits, marks and escapes that the original takes for those of
/// an address; a slash after the host ends it.
fn url_chars(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut total, mut at) = (0, 0);
    while let Some(found) = text[at..].find("http") {
        let start = at + found;
        let rest = &bytes[start + 4..];
        let rest = rest.strip_prefix(b"s").unwrap_or(rest);
        let Some(mut host) = rest.strip_prefix(b"://") else {
            at = start + 4;
            continue;
        };
        let before = host.len();
        loop {
            host = match host {
                [b'%', a, b, rest @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
                [byte, rest @ ..] if byte.is_ascii_alphanumeric() || b"$-_@.&+!*\\(),".contains(byte) => rest,
                _ => break,
            };
        }
        let end = bytes.len() - host.len();
        if before > host.len() {
            total += end - start;
            at = end;
        } else {
            at = start + 4;
        }
    }
    total
}

/// Share of paragraphs with a phrase of the policy list; 1 if one has `lorem ipsum`.
fn boilerplate(text: &str) -> f64 {
    let (mut paragraphs, mut found) = (0, 0);
    for paragraph in text.split("\n\n") {
        let lower = paragraph.to_lowercase();
        if lower.contains("lorem ipsum") {
            return 1.0;
        }
        paragraphs += 1;
        found += usize::from(POLICY.iter().any(|phrase| lower.contains(phrase)));
    }
    share(found, paragraphs)
}

impl Filter for CuratorQuality {
    type Config = CuratorQualityConfig;

    const ABOUT: About = About {
        name: "curator-quality",
        version: "1",
        about: "Drops texts by NeMo Curator's heuristics on characters, words and lines.",
        text: "",
        reads: &[],
        scores: &[
            ("non-alphanumeric", ScoreKind::Real),
            ("digits", ScoreKind::Real),
            ("words", ScoreKind::Count),
            ("mean-word-length", ScoreKind::Real),
            ("unpunctuated-lines", ScoreKind::Real),
        ],
        reasons: &[
            "non_alpha_numeric",
            "symbols_to_words",
            "numbers",
            "urls",
            "white_space",
            "parentheses",
            "boilerplate_string",
            "word_count",
            "punctuation",
            "words_without_alphabets",
            "common_english_words",
            "mean_word_length",
            "long_word",
            "ellipsis",
            "bullets",
        ],
        edits: false,
    };

    fn open(config: CuratorQualityConfig) -> Result<Self, String> {
        if config.min_words > config.max_words || config.min_word_length > config.max_word_length {
            return Err("a minimum is larger than its maximum, so every row would be dropped".to_owned());
        }
        Ok(Self { config })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let (text, config) = (row.text(), &self.config);
        let letters = Letters::of(text);
        let words = WordCensus::of(text);
        let (mut lines, mut open, mut ellipses, mut bullets) = (0, 0, 0, 0);
        for line in text.split('\n').map(trim).filter(|line| !line.is_empty()) {
            lines += 1;
            open += usize::from(!line.ends_with(['.', '?', '!', '"', '\'']));
            let lower = line.to_lowercase();
            ellipses += usize::from(ELLIPSES.iter().any(|end| lower.ends_with(end)));
            bullets += usize::from(line.starts_with(BULLETS));
        }
        // What has no characters, words or lines fails every bound on a share of them.
        let part = |part: usize, whole: usize| if whole == 0 { 1.0 } else { share(part, whole) };
        let non_alphanumeric = part(letters.all - letters.plain, letters.all);
        let mean = share(words.chars, words.count);
        let unpunctuated = part(open, lines);
        scores.set("non-alphanumeric", non_alphanumeric as f32);
        scores.set("digits", part(letters.digits, letters.all) as f32);
        scores.set("words", words.count as f32);
        scores.set("mean-word-length", mean as f32);
        scores.set("unpunctuated-lines", unpunctuated as f32);
        let checks: [(bool, &'static str); 15] = [
            (non_alphanumeric > config.max_non_alphanumeric, "non_alpha_numeric"),
            (part(words.symbols, words.count) > config.max_symbol_words, "symbols_to_words"),
            (part(letters.digits, letters.all) > config.max_digits, "numbers"),
            (part(url_chars(text), letters.all) > config.max_urls, "urls"),
            (part(letters.spaces, letters.all) > config.max_white_space, "white_space"),
            (part(letters.brackets, letters.all) > config.max_brackets, "parentheses"),
            (boilerplate(text) > config.max_boilerplate, "boilerplate_string"),
            (!(config.min_words..=config.max_words).contains(&words.count), "word_count"),
            (unpunctuated > config.max_unpunctuated, "punctuation"),
            (share(words.alphabetic, words.count) < config.min_alphabetic, "words_without_alphabets"),
            (words.common < config.min_common_words, "common_english_words"),
            (mean < config.min_word_length || mean > config.max_word_length, "mean_word_length"),
            (words.count == 0 || words.longest > config.longest_word, "long_word"),
            (part(ellipses, lines) > config.max_ellipses, "ellipsis"),
            (part(bullets, lines) > config.max_bullets, "bullets"),
        ];
        checks.iter().find(|(fails, _)| *fails).map_or(Verdict::Keep, |(_, reason)| Verdict::Drop(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_end_as_the_original_expression_does() {
        assert_eq!(url_chars("see https://example.com/a%20b, http://x"), 19 + 8);
        assert_eq!(url_chars("http:// https:/x httphttp://a%2Fb"), 12);
        assert_eq!(url_chars("http://a%zz é http://é"), 8);
    }

    #[test]
    fn banners_and_lorem_ipsum_are_boilerplate() {
        assert_eq!(boilerplate("We Use Cookies.\n\nText.\n\nMore."), 1.0 / 3.0);
        assert_eq!(boilerplate("Lorem Ipsum\n\nx"), 1.0);
        assert_eq!(boilerplate(""), 0.0);
    }
}
