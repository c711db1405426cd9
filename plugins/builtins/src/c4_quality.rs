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
        let least = usize::try_from(config.min_line_words).unwrap_or(0);
        // Most texts have none of these, and then no line has.
        let brackets = config.remove_citations && text.contains('[');
        let braces = config.curly_bracket && text.contains('{');
        let look = brackets || Phrases::of(text).any();
        let (mut lines, mut kept_lines, mut found) = (0, 0, 0);
        let mut kept = String::new();
        self.kept_words.clear();
        let mut ahead = words.spans();
        for line in split_lines(text) {
            lines += 1;
            let line = trim(line);
            let start = line.as_ptr() as usize - text.as_ptr() as usize;
            if has_long_piece(line, longest) {
                continue;
            }
            let cleaned;
            let left = if brackets && line.contains('[') {
                cleaned = without_citations(line);
                cleaned.as_str()
            } else {
                line
            };
            if config.terminal_punctuation && (!left.ends_with(['.', '?', '!', '"', '\'']) || left.ends_with("...")) {
                continue;
            }
            if !has_pieces(line, least) {
                continue;
            }
            let phrases = if look { Phrases::of(left) } else { Phrases::default() };
            if config.lorem_ipsum && phrases.lorem {
                return Verdict::Drop("lorem_ipsum");
            }
            if config.javascript && phrases.javascript {
                continue;
            }
            if braces && left.contains('{') {
                return Verdict::Drop("curly_bracket");
            }
            if config.policy && phrases.policy {
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

/// Whether white space cuts a line into at least `least` pieces.
fn has_pieces(line: &str, least: usize) -> bool {
    least == 0 || line.split(is_space).filter(|piece| !piece.is_empty()).nth(least - 1).is_some()
}

/// Whether a piece between white space has more than `longest` characters.
fn has_long_piece(line: &str, longest: usize) -> bool {
    let too_long = |piece: &str| piece.len() > longest && chars(piece) > longest;
    line.len() > longest && line.split(is_space).any(too_long)
}

/// A phrase of lower-case ASCII, and where in it the letter is that is looked for first.
type Phrase = (&'static str, usize);

const LOREM: Phrase = ("lorem ipsum", 7);
const JAVASCRIPT: Phrase = ("javascript", 0);
const POLICY: [Phrase; 6] = [
    ("terms of use", 7),
    ("privacy policy", 3),
    ("cookie policy", 3),
    ("uses cookies", 8),
    ("use of cookies", 10),
    ("use cookies", 7),
];

/// The letters that are looked for, in either case: `p`, `j`, `f`, `v` and `k`.
const RARE: [bool; 256] = {
    let mut rare = [false; 256];
    let letters = b"pjfvkPJFVK";
    let mut at = 0;
    while at < letters.len() {
        rare[letters[at] as usize] = true;
        at += 1;
    }
    rare
};

/// Which phrases a text contains, whatever the case of its letters.
#[derive(Clone, Copy, Default)]
struct Phrases {
    lorem: bool,
    javascript: bool,
    policy: bool,
}

impl Phrases {
    fn of(text: &str) -> Self {
        // These become ASCII letters in lower case.
        if !text.is_ascii() && text.contains(['\u{212a}', '\u{130}']) {
            return Self::of_lower(text.to_lowercase().as_bytes());
        }
        Self::of_lower(text.as_bytes())
    }

    fn of_lower(text: &[u8]) -> Self {
        let mut found = Self::default();
        let mut at = 0;
        while let Some(next) = text[at..].iter().position(|byte| RARE[usize::from(*byte)]) {
            at += next;
            let is_here = |(phrase, offset): Phrase| {
                let start = at.checked_sub(offset);
                let there = start.and_then(|start| text.get(start..start + phrase.len()));
                there.is_some_and(|there| there.eq_ignore_ascii_case(phrase.as_bytes()))
            };
            match text[at] | 0x20 {
                b'p' => found.lorem |= is_here(LOREM),
                b'j' => found.javascript |= is_here(JAVASCRIPT),
                _ => found.policy |= POLICY.into_iter().any(is_here),
            }
            at += 1;
        }
        found
    }

    fn any(self) -> bool {
        self.lorem || self.javascript || self.policy
    }
}

#[cfg(test)]
mod tests {
    use super::{POLICY, Phrases, has_long_piece, has_pieces, without_citations};

    #[test]
    fn citations_go() {
        assert_eq!(without_citations("a[1] b[] c[edit] d[citation needed] e[x] f[12"), "a b c d e[x] f[12");
    }

    #[test]
    fn pieces_are_counted() {
        assert!(has_pieces(" a\tbc\u{1f}d ", 3) && !has_pieces(" a\tbc\u{1f}d ", 4) && has_pieces("", 0));
        assert!(has_long_piece("abcd ef", 3) && !has_long_piece("äöü ef", 3));
    }

    #[test]
    fn phrases_are_found_in_any_case() {
        let found = |text: &str| {
            let Phrases { lorem, javascript, policy } = Phrases::of(text);
            (lorem, javascript, policy)
        };
        for (phrase, _) in POLICY {
            assert_eq!(found(&format!("x{}", phrase.to_uppercase())), (false, false, true), "{phrase}");
            assert_eq!(found(&phrase[..phrase.len() - 1]), (false, false, false), "{phrase}");
        }
        assert_eq!(found("Lorem Ipsum JavaScripts"), (true, true, false));
        assert_eq!(found("é use coo\u{212a}ies"), (false, false, true));
        assert_eq!(found("the lore of java script, terms of us"), (false, false, false));
    }
}
