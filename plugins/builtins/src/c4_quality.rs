//! C4's line and page rules (Raffel et al. 2020, arXiv 1910.10683, 2.2), with datatrove's defaults. Rewrites the text: only
//! good lines stay.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::{is_space, trim};
use crate::lines::split_lines;
use crate::shared::{offer, with_words};
use crate::words::{Words, sentences};
use crate::{chars, share};

#[derive(Config)]
pub struct C4QualityConfig {
    /// Take Wikipedia's citation marks out: `[1]`, `[edit]`, `[citation needed]`.
    #[config(default = true)]
    remove_citations: bool,
    /// Drop lines that do not end in `.`, `?`, `!`, `"` or `'`, or that end in `...`.
    #[config(default = true)]
    terminal_punctuation: bool,
    /// Fewest sentences in what is left; -1 for no bound.
    #[config(default = 5)]
    min_sentences: i64,
    /// Fewest words of a line; -1 for no bound.
    #[config(default = 3)]
    min_line_words: i64,
    /// Most characters of a word in a line; -1 for no bound.
    #[config(default = 1000)]
    max_word_length: i64,
    /// Drop texts with `lorem ipsum`.
    #[config(default = true)]
    lorem_ipsum: bool,
    /// Drop lines with `javascript`.
    #[config(default = true)]
    javascript: bool,
    /// Drop texts with `{`.
    #[config(default = true)]
    curly_bracket: bool,
    /// Drop lines about cookies, terms of use and privacy policies.
    #[config(default = true)]
    policy: bool,
}

const POLICY: [&str; 6] =
    ["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"];

/// Keeps the lines that are sentences, and the texts that have enough of them.
pub struct C4Quality {
    config: C4QualityConfig,
    words: Words,
    kept_words: Words,
}

/// Takes out `[…digits…]`, `[edit]` and `[citation needed]`.
fn without_citations(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('[') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let digits: usize = after.chars().take_while(|c| c.is_numeric()).map(char::len_utf8).sum();
        let length = if after[digits..].starts_with(']') {
            Some(digits + 1)
        } else {
            ["edit]", "citation needed]"].iter().find(|mark| after.starts_with(**mark)).map(|mark| mark.len())
        };
        match length {
            Some(length) => rest = &after[length..],
            None => {
                out.push('[');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

impl Filter for C4Quality {
    type Config = C4QualityConfig;

    const ABOUT: About = About {
        name: "c4-quality",
        version: "1",
        about: "Keeps lines that are sentences; drops texts with too few of them, lorem ipsum or a curly bracket.",
        text: "",
        reads: &[],
        scores: &[("sentences", ScoreKind::Count), ("kept-lines", ScoreKind::Real)],
        reasons: &["lorem_ipsum", "curly_bracket", "too_few_sentences"],
        edits: true,
    };

    fn open(config: C4QualityConfig) -> Result<Self, String> {
        Ok(Self { config, words: Words::default(), kept_words: Words::default() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        with_words(row.text(), |words| self.verdict(row.text(), words, scores))
    }
}

impl C4Quality {
    fn verdict(&mut self, text: &str, words: &Words, scores: &mut Scores<'_>) -> Verdict {
        let config = &self.config;
        let longest = usize::try_from(config.max_word_length).unwrap_or(usize::MAX);
        let (mut lines, mut kept_lines, mut found) = (0, 0, 0);
        let mut kept = String::new();
        self.kept_words.clear();
        let mut ahead = words.spans();
        for line in split_lines(text) {
            lines += 1;
            let line = trim(line);
            let start = line.as_ptr() as usize - text.as_ptr() as usize;
            let (count, too_long) = pieces(line, longest);
            if too_long {
                continue;
            }
            let cleaned;
            let left = if config.remove_citations && line.contains('[') {
                cleaned = without_citations(line);
                cleaned.as_str()
            } else {
                line
            };
            if config.terminal_punctuation && (!left.ends_with(['.', '?', '!', '"', '\'']) || left.ends_with("...")) {
                continue;
            }
            if i64::try_from(count).unwrap_or(i64::MAX) < config.min_line_words {
                continue;
            }
            let phrases = Phrases::of(left);
            if config.lorem_ipsum && phrases.contain("lorem ipsum") {
                return Verdict::Drop("lorem_ipsum");
            }
            if config.javascript && phrases.contain("javascript") {
                continue;
            }
            if config.curly_bracket && left.contains('{') {
                return Verdict::Drop("curly_bracket");
            }
            if config.policy && POLICY.iter().any(|phrase| phrases.contain(phrase)) {
                continue;
            }
            if kept_lines > 0 {
                kept.push('\n');
            }
            let offset = kept.len() as u32;
            if left.len() == line.len() {
                // The words of a line are those of the text that lie in it: no word crosses white space.
                let skipped = ahead.partition_point(|(_, end)| (*end as usize) <= start);
                let inside = ahead[skipped..].partition_point(|(_, end)| (*end as usize) <= start + line.len());
                let spans = &ahead[skipped..skipped + inside];
                ahead = &ahead[skipped + inside..];
                found += sentences(spans.iter().map(|(from, to)| &text[*from as usize..*to as usize]));
                let shift = offset.wrapping_sub(start as u32);
                for (from, to) in spans {
                    self.kept_words.append(from.wrapping_add(shift), to.wrapping_add(shift));
                }
            } else {
                self.words.cut(left);
                found += sentences(self.words.iter(left));
                for (from, to) in self.words.spans() {
                    self.kept_words.append(from + offset, to + offset);
                }
            }
            kept.push_str(left);
            kept_lines += 1;
        }
        scores.set("sentences", found as f32);
        scores.set("kept-lines", share(kept_lines, lines) as f32);
        if i64::try_from(found).unwrap_or(i64::MAX) < config.min_sentences {
            return Verdict::Drop("too_few_sentences");
        }
        let trimmed = trim(&kept);
        if trimmed == text {
            return Verdict::Keep;
        }
        let shift = (trimmed.as_ptr() as usize - kept.as_ptr() as usize) as u32;
        let edited = trimmed.to_owned();
        offer(&edited, |words| {
            words.clear();
            self.kept_words.spans().iter().for_each(|(from, to)| words.append(from - shift, to - shift));
        });
        Verdict::Edit(edited)
    }
}

/// How many pieces white space cuts a line into, and whether one has more than `longest` characters.
fn pieces(line: &str, longest: usize) -> (usize, bool) {
    let too_long = |piece: &str| piece.len() > longest && chars(piece) > longest;
    if !line.is_ascii() || line.len() > longest {
        let pieces = || line.split(is_space).filter(|piece| !piece.is_empty());
        return (pieces().count(), pieces().any(too_long));
    }
    let mut count = 0;
    let mut space = true;
    for byte in line.bytes() {
        let is_space = matches!(byte, b'\t'..=b'\r' | 0x1c..=0x1f | b' ');
        count += usize::from(space && !is_space);
        space = is_space;
    }
    (count, false)
}

/// A line in which phrases of lower-case ASCII are looked for, whatever the case of its letters.
enum Phrases<'a> {
    Ascii(&'a [u8]),
    Lower(String),
}

impl<'a> Phrases<'a> {
    fn of(line: &'a str) -> Self {
        if line.is_ascii() { Self::Ascii(line.as_bytes()) } else { Self::Lower(line.to_lowercase()) }
    }

    fn contain(&self, phrase: &str) -> bool {
        match self {
            Self::Ascii(line) => {
                let Some((first, rest)) = phrase.as_bytes().split_first() else { return true };
                let Some(last) = line.len().checked_sub(rest.len()) else { return false };
                (0..last).any(|at| {
                    line[at] | 0x20 == *first && line[at + 1..at + 1 + rest.len()].eq_ignore_ascii_case(rest)
                })
            }
            Self::Lower(line) => line.contains(phrase),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Phrases, pieces, without_citations};

    #[test]
    fn citations_go() {
        assert_eq!(without_citations("a[1] b[] c[edit] d[citation needed] e[x] f[12"), "a b c d e[x] f[12");
    }

    #[test]
    fn pieces_and_phrases_are_found_without_copies() {
        assert_eq!(pieces(" a\tbc\u{1f}d ", 1000), (3, false));
        assert_eq!(pieces("abcd ef", 3), (2, true));
        assert_eq!(pieces("äöü ef", 3), (2, false));
        for (line, found) in [("Use Cookies", true), ("USES COOKIES", false), ("use cookie", false), ("é use CooKies", true)] {
            assert_eq!(Phrases::of(line).contain("use cookies"), found, "{line}");
        }
    }
}
