//! NeMo Curator's document heuristics for English, with the bounds of its published English pipeline.
//!
//! Words are what white space separates, lines those that are not blank. Cookie banners of its list that no shorter phrase
//! of the list covers are recognised by a fragment.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::{is_digit, trim};
use crate::hash::eight;
use crate::lines::split_feeds;
use crate::masks::Masks;
use crate::select::{above, below, count, first};
use crate::stop_words::stop_word;
use crate::vector::{self, BLOCK, Bytes};
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
    masks: Masks,
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
    #[inline(never)]
    fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut letters = Self { all: chars(text), ..Self::default() };
        for at in (0..bytes.len()).step_by(BLOCK) {
            let block = vector::four(bytes, at);
            let count = |class: &dyn Fn(Bytes) -> Bytes| vector::bits64(&block.map(class)).count_ones() as usize;
            let digits = |bytes: Bytes| bytes.within(b'0', b'9');
            letters.plain += count(&|bytes| {
                let marks = bytes.is(b'\n').or(bytes.is(b'?')).or(bytes.is(b'!')).or(bytes.is(b',')).or(bytes.is(b'.'));
                bytes.lower().within(b'a', b'z').or(digits(bytes)).or(marks)
            });
            letters.digits += count(&digits);
            // Backspace, tab and line feed are neighbours.
            letters.spaces += count(&|bytes| bytes.within(0x08, b'\n').or(bytes.is(b'\r')).or(bytes.is(b' ')));
            letters.brackets += count(&|bytes| {
                let curly = bytes.is(b'{').or(bytes.is(b'}'));
                curly.or(bytes.is(b'[')).or(bytes.is(b']')).or(bytes.within(b'(', b')'))
            });
        }
        for c in wide_chars(text) {
            letters.digits += usize::from(is_digit(c));
            letters.brackets += usize::from(matches!(c, '⟨' | '⟩'));
        }
        letters
    }
}

/// The characters outside ASCII.
fn wide_chars(text: &str) -> impl Iterator<Item = char> {
    let starts = vector::positions(text.as_bytes(), |bytes| bytes.within(0xc0, 0xff));
    starts.filter_map(|at| text[at..].chars().next())
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
    #[inline(never)]
    fn of(text: &str, masks: &mut Masks) -> Self {
        masks.fill(text);
        let has_hashes = vector::find(text.as_bytes(), 0, |bytes| bytes.is(b'#')).is_some();
        let mut census = Self::default();
        masks.each_piece(|start, end, letters| {
            let (word, length) = (&text[start..end], end - start);
            census.count += 1;
            if letters >= length {
                // Of letters alone: none of the marks, and a common word at most.
                census.chars += length;
                census.longest = census.longest.max(length);
                census.alphabetic += 1;
                census.common += usize::from(stop_word(eight(text.as_bytes(), start, length)) != 0);
                return;
            }
            let length = if word.is_ascii() { length } else { chars(word) };
            census.chars += length;
            census.longest = census.longest.max(length);
            // Runs of `#` count, not the characters of them.
            let hashes = || word.as_bytes().split(|byte| *byte != b'#').filter(|run| !run.is_empty()).count();
            // None of the ellipses that are words starts with a letter.
            let is_ellipsis = letters == 0 && word.len() <= 5 && ELLIPSES.contains(&word);
            let is_symbol = has_hashes && 2 * hashes() > length || is_ellipsis;
            census.symbols += usize::from(is_symbol);
            census.alphabetic += usize::from(letters > 0 || word.chars().any(char::is_alphabetic));
        });
        census
    }
}

/// Characters in `http://` and `https://` with the letters, digits, marks and escapes that the original takes for those of
/// an address; a slash after the host ends it.
fn url_chars(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut total, mut at) = (0, 0);
    while let Some(start) = vector::find_four(bytes, at, b"http") {
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
    if !may_have_policy(text) {
        return 0.0;
    }
    let (mut paragraphs, mut found) = (0, 0);
    for paragraph in text.split("\n\n") {
        paragraphs += 1;
        if !may_have_policy(paragraph) {
            continue;
        }
        let lower = paragraph.to_lowercase();
        if lower.contains("lorem ipsum") {
            return 1.0;
        }
        found += usize::from(POLICY.iter().any(|phrase| lower.contains(phrase)));
    }
    share(found, paragraphs)
}

/// Whether a phrase of the policy list or `lorem ipsum` may be there: four letters of each, in either case.
fn may_have_policy(text: &str) -> bool {
    let bytes = text.as_bytes();
    // Some letters outside ASCII become letters of ASCII in lower case.
    let odd = |bytes: Bytes| bytes.is(0xc4).or(bytes.is(0xe2));
    vector::find(bytes, 0, odd).is_some_and(|_| text.contains(['\u{212a}', '\u{130}']))
        || (0..bytes.len()).step_by(BLOCK).any(|at| {
            let found = vector::shifted(bytes, at, |bytes: [Bytes; 4]| {
                let [a, b, c, d] = bytes.map(Bytes::lower);
                let all = |four: &[u8; 4]| a.is(four[0]).and(b.is(four[1])).and(c.is(four[2]).and(d.is(four[3])));
                all(b"okie").or(all(b"vacy")).or(all(b"erms")).or(all(b"ebsi")).or(all(b"ipsu"))
            });
            found != 0
        })
}

/// Whether a line ends, in lower case, with one of [`ELLIPSES`].
fn ends_open(line: &str) -> bool {
    let ends = |with: &str| {
        let start = line.len().checked_sub(with.len());
        start.is_some_and(|start| line.as_bytes()[start..].eq_ignore_ascii_case(with.as_bytes()))
    };
    match line.as_bytes().last() {
        Some(b'.' | b'e' | b'E' | b']' | b')' | 0x80..) => ELLIPSES.into_iter().any(ends),
        _ => false,
    }
}

impl Filter for CuratorQuality {
    type Config = CuratorQualityConfig;

    const ABOUT: About = About {
        name: "curator-quality",
        version: "2",
        about: "Drops texts by NeMo Curator's heuristics on characters, words and lines.",
        text: "",
        reads: &[],
        scores: &[
            ("non-alphanumeric", ScoreKind::Real),
            ("symbol-words", ScoreKind::Real),
            ("digits", ScoreKind::Real),
            ("url-chars", ScoreKind::Real),
            ("white-space", ScoreKind::Real),
            ("brackets", ScoreKind::Real),
            ("boilerplate", ScoreKind::Real),
            ("words", ScoreKind::Count),
            ("unpunctuated-lines", ScoreKind::Real),
            ("alphabetic-words", ScoreKind::Real),
            ("common-words", ScoreKind::Count),
            ("mean-word-length", ScoreKind::Real),
            ("longest-word", ScoreKind::Count),
            ("ellipsis-lines", ScoreKind::Real),
            ("bullet-lines", ScoreKind::Real),
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
        Ok(Self { config, masks: Masks::default() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let (text, config) = (row.text(), &self.config);
        let letters = Letters::of(text);
        let words = WordCensus::of(text, &mut self.masks);
        let (mut lines, mut open, mut ellipses, mut bullets) = (0, 0, 0, 0);
        for line in split_feeds(text).map(trim).filter(|line| !line.is_empty()) {
            lines += 1;
            open += usize::from(!matches!(line.as_bytes(), [.., b'.' | b'?' | b'!' | b'"' | b'\'']));
            ellipses += usize::from(ends_open(line));
            bullets += usize::from(!line.as_bytes()[0].is_ascii() && line.starts_with(BULLETS));
        }
        // What has no characters, words or lines fails every bound on a share of them.
        let part = |part: usize, whole: usize| if whole == 0 { 1.0 } else { share(part, whole) };
        let non_alphanumeric = part(letters.all - letters.plain, letters.all);
        let symbols = part(words.symbols, words.count);
        let digits = part(letters.digits, letters.all);
        let urls = part(url_chars(text), letters.all);
        let white_space = part(letters.spaces, letters.all);
        let brackets = part(letters.brackets, letters.all);
        let boilerplate = boilerplate(text);
        let unpunctuated = part(open, lines);
        let alphabetic = share(words.alphabetic, words.count);
        let mean = share(words.chars, words.count);
        let (ellipses, bullets) = (part(ellipses, lines), part(bullets, lines));
        scores.set_from(
            0,
            &[
                non_alphanumeric,
                symbols,
                digits,
                urls,
                white_space,
                brackets,
                boilerplate,
                words.count as f64,
                unpunctuated,
                alphabetic,
                words.common as f64,
                mean,
                words.longest as f64,
                ellipses,
                bullets,
            ],
        );
        let checks: [(bool, &'static str); 15] = [
            (non_alphanumeric > config.max_non_alphanumeric, "non_alpha_numeric"),
            (symbols > config.max_symbol_words, "symbols_to_words"),
            (digits > config.max_digits, "numbers"),
            (urls > config.max_urls, "urls"),
            (white_space > config.max_white_space, "white_space"),
            (brackets > config.max_brackets, "parentheses"),
            (boilerplate > config.max_boilerplate, "boilerplate_string"),
            (!(config.min_words..=config.max_words).contains(&words.count), "word_count"),
            (unpunctuated > config.max_unpunctuated, "punctuation"),
            (alphabetic < config.min_alphabetic, "words_without_alphabets"),
            (words.common < config.min_common_words, "common_english_words"),
            (mean < config.min_word_length || mean > config.max_word_length, "mean_word_length"),
            (words.count == 0 || words.longest > config.longest_word, "long_word"),
            (ellipses > config.max_ellipses, "ellipsis"),
            (bullets > config.max_bullets, "bullets"),
        ];
        checks.iter().find(|(fails, _)| *fails).map_or(Verdict::Keep, |(_, reason)| Verdict::Drop(reason))
    }

    const THRESHOLDS: &'static [&'static str] = &[
        "max_non_alphanumeric",
        "max_symbol_words",
        "max_digits",
        "max_urls",
        "max_white_space",
        "max_brackets",
        "max_boilerplate",
        "min_words",
        "max_words",
        "max_unpunctuated",
        "min_alphabetic",
        "min_common_words",
        "min_word_length",
        "max_word_length",
        "longest_word",
        "max_ellipses",
        "max_bullets",
    ];

    fn select(&self, scores: &[f32], _before: Option<&str>) -> Option<Verdict> {
        let config = &self.config;
        let [plain, symbols, digits, urls, white_space, brackets, boilerplate, words, rest @ ..] =
            *scores.first_chunk::<15>()?;
        let [unpunctuated, alphabetic, common, mean, longest, ellipses, bullets] = rest;
        let (words, common, longest) = (count(words)?, count(common)?, count(longest)?);
        let odd_mean = match below(mean, config.min_word_length) {
            Some(false) => above(mean, config.max_word_length),
            other => other,
        };
        first(&[
            (above(plain, config.max_non_alphanumeric), "non_alpha_numeric"),
            (above(symbols, config.max_symbol_words), "symbols_to_words"),
            (above(digits, config.max_digits), "numbers"),
            (above(urls, config.max_urls), "urls"),
            (above(white_space, config.max_white_space), "white_space"),
            (above(brackets, config.max_brackets), "parentheses"),
            (above(boilerplate, config.max_boilerplate), "boilerplate_string"),
            (Some(!(config.min_words..=config.max_words).contains(&words)), "word_count"),
            (above(unpunctuated, config.max_unpunctuated), "punctuation"),
            (below(alphabetic, config.min_alphabetic), "words_without_alphabets"),
            (Some(common < config.min_common_words), "common_english_words"),
            (odd_mean, "mean_word_length"),
            (Some(words == 0 || longest > config.longest_word), "long_word"),
            (above(ellipses, config.max_ellipses), "ellipsis"),
            (above(bullets, config.max_bullets), "bullets"),
        ])
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
    fn every_phrase_may_be_one() {
        for phrase in POLICY.into_iter().chain(["lorem ipsum"]) {
            for phrase in [phrase.to_owned(), phrase.to_uppercase(), format!("{}{phrase}", "é".repeat(17))] {
                assert!(may_have_policy(&phrase), "{phrase}");
            }
        }
        assert!(may_have_policy("use coo\u{212a}ies") && !may_have_policy("we use cooks"));
    }

    #[test]
    fn line_ends_are_those_of_lower_case() {
        for line in
            ["x...", "x […]", "x-»", "READ MORE", "Read more..", "x….", "é", "", "e", "K\u{212a}", "read mor\u{130}"]
        {
            let lower = line.to_lowercase();
            assert_eq!(ends_open(line), ELLIPSES.iter().any(|end| lower.ends_with(end)), "{line}");
        }
    }

    #[test]
    fn characters_are_counted_by_class() {
        let text = "aZ09 \t\n\r\u{8}\u{b}?!,.;{}[]()⟨⟩٣é漢@[`{".repeat(3);
        let letters = Letters::of(&text);
        let count = |of: &dyn Fn(char) -> bool| text.chars().filter(|c| of(*c)).count();
        assert_eq!(letters.all, text.chars().count());
        assert_eq!(letters.plain, count(&|c| c.is_ascii_alphanumeric() || "\n?!,.".contains(c)));
        assert_eq!(letters.digits, count(&is_digit));
        assert_eq!(letters.spaces, count(&|c| "\t\n\r\u{8} ".contains(c)));
        assert_eq!(letters.brackets, count(&|c| "{}⟨⟩[]()".contains(c)));
    }

    #[test]
    fn banners_and_lorem_ipsum_are_boilerplate() {
        assert_eq!(boilerplate("We Use Cookies.\n\nText.\n\nMore."), 1.0 / 3.0);
        assert_eq!(boilerplate("Lorem Ipsum\n\nx"), 1.0);
        assert_eq!(boilerplate(""), 0.0);
    }
}
