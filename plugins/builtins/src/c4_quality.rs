//! C4's line and page rules (Raffel et al. 2020, arXiv 1910.10683, 2.2), with datatrove's defaults. Rewrites the text: only
//! good lines stay.

use std::ops::Range;

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::{is_space, trim};
use crate::lines::split_lines;
use crate::select::count;
use crate::shared::{offer, with_words};
use crate::vector::{self, BLOCK, Bytes};
use crate::words::{Sentences, Span, Words, sentences};
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
    kept: String,
    kept_words: Words,
}

/// The lines that stay, joined by line feeds, and their words. While they stand in the text like that, nothing is copied.
struct Kept<'a> {
    text: &'a str,
    all: &'a [Span],
    /// Where they stand in the text, and their words in `all`.
    part: Range<usize>,
    part_words: Range<usize>,
    lines: usize,
    copied: bool,
    copy: &'a mut String,
    words: &'a mut Words,
}

impl<'a> Kept<'a> {
    fn new(text: &'a str, all: &'a [Span], copy: &'a mut String, words: &'a mut Words) -> Self {
        copy.clear();
        words.clear();
        Self { text, all, part: 0..0, part_words: 0..0, lines: 0, copied: false, copy, words }
    }

    /// Adds a line as it is in the text.
    fn push(&mut self, line: Range<usize>, words: Range<usize>) {
        if !self.copied && self.lines == 0 {
            (self.part, self.part_words) = (line, words);
        } else if !self.copied && self.text.as_bytes()[self.part.end..line.start] == *b"\n" {
            (self.part.end, self.part_words.end) = (line.end, words.end);
        } else {
            self.push_copy(&self.text[line.clone()], &self.all[words], line.start);
        }
        self.lines += 1;
    }

    /// Adds a line that is not in the text.
    fn push_changed(&mut self, line: &str, words: &[Span]) {
        self.push_copy(line, words, 0);
        self.lines += 1;
    }

    /// Adds a line whose words are counted from `start`.
    #[inline(never)]
    fn push_copy(&mut self, line: &str, words: &[Span], start: usize) {
        if !self.copied {
            self.copied = true;
            self.copy.push_str(&self.text[self.part.clone()]);
            append(self.words, &self.all[self.part_words.clone()], self.part.start, 0);
        }
        if self.lines > 0 {
            self.copy.push('\n');
        }
        append(self.words, words, start, self.copy.len());
        self.copy.push_str(line);
    }

    #[inline(never)]
    fn verdict(self) -> Verdict {
        let (kept, words) = if self.copied {
            (self.copy.as_str(), self.words.spans())
        } else {
            (&self.text[self.part.clone()], &self.all[self.part_words.clone()])
        };
        let trimmed = trim(kept);
        // A part of the text that is as long as it is it: nothing need be compared.
        let same_length = trimmed.len() == self.text.len();
        if same_length && (!self.copied || trimmed == self.text) {
            return Verdict::Keep;
        }
        let before = trimmed.as_ptr() as usize - kept.as_ptr() as usize;
        let start = if self.copied { before } else { self.part.start + before };
        let edited = trimmed.to_owned();
        offer(&edited, |offered| {
            offered.clear();
            append(offered, words, start, 0);
        });
        Verdict::Edit(edited)
    }
}

/// Appends words that are moved from `start` to `to`.
fn append(words: &mut Words, moved: &[Span], start: usize, to: usize) {
    let shift = (to as u32).wrapping_sub(start as u32);
    words.extend(moved.iter().map(|word| Span {
        start: word.start.wrapping_add(shift),
        end: word.end.wrapping_add(shift),
        ..*word
    }));
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
        Ok(Self { config, words: Words::default(), kept: String::new(), kept_words: Words::default() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        with_words(row.text(), |words| self.verdict(row.text(), words, scores))
    }

    const THRESHOLDS: &'static [&'static str] = &["min_sentences"];

    fn select(&self, scores: &[f32], before: Option<&str>) -> Option<Verdict> {
        let few = i64::try_from(count(*scores.first()?)?).ok()? < self.config.min_sentences;
        match before {
            Some("lorem_ipsum") => Some(Verdict::Drop("lorem_ipsum")),
            Some("curly_bracket") => Some(Verdict::Drop("curly_bracket")),
            _ if few => Some(Verdict::Drop("too_few_sentences")),
            // What is left of its lines was not kept.
            Some(_) => None,
            None => Some(Verdict::Keep),
        }
    }
}

impl C4Quality {
    #[inline(never)]
    fn verdict(&mut self, text: &str, words: &Words, scores: &mut Scores<'_>) -> Verdict {
        let config = &self.config;
        let longest = usize::try_from(config.max_word_length).unwrap_or(usize::MAX);
        let least = usize::try_from(config.min_line_words).unwrap_or(0);
        // Most texts have none of these, and then no line has.
        let rare = Rare::of(text);
        let brackets = config.remove_citations && rare.brackets;
        let braces = config.curly_bracket && rare.braces;
        let look = brackets || Phrases::of(text, rare.letters).any();
        let (mut lines, mut kept_lines, mut found) = (0, 0, 0);
        let words = words.spans();
        let mut kept = Kept::new(text, words, &mut self.kept, &mut self.kept_words);
        let mut next = 0;
        for line in split_lines(text) {
            lines += 1;
            let line = trim(line);
            let start = line.as_ptr() as usize - text.as_ptr() as usize;
            // The words of a line are those of the text that lie in it: no word crosses white space.
            let end = start + line.len();
            let found_words = LineWords::of(text, &words[next..], end);
            let inside = next..next + found_words.count;
            next = inside.end;
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
            if config.terminal_punctuation && !is_terminated(left) {
                continue;
            }
            if found_words.pieces < least {
                continue;
            }
            let phrases = if look { Phrases::of(left, rare.letters) } else { Phrases::default() };
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
            if left.len() == line.len() {
                found += found_words.sentences;
                kept.push(start..end, inside);
            } else {
                self.words.cut(left);
                found += sentences(left, self.words.spans());
                kept.push_changed(left, self.words.spans());
            }
            kept_lines += 1;
        }
        scores.set_from(0, &[found as f64, share(kept_lines, lines)]);
        if i64::try_from(found).unwrap_or(i64::MAX) < config.min_sentences {
            return Verdict::Drop("too_few_sentences");
        }
        kept.verdict()
    }
}

fn is_terminated(line: &str) -> bool {
    matches!(line.as_bytes(), [.., b'.' | b'?' | b'!' | b'"' | b'\'']) && !line.as_bytes().ends_with(b"...")
}

/// What the words of a line are like.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct LineWords {
    count: usize,
    /// Between white space: words of one piece touch.
    pieces: usize,
    sentences: usize,
}

impl LineWords {
    /// Of those at the start of `words` that end at or before `end`.
    #[inline(never)]
    fn of(text: &str, words: &[Span], end: usize) -> Self {
        let mut line = Self::default();
        let mut sentences = Sentences::default();
        let mut last = u32::MAX;
        for word in words.iter().take_while(|word| word.end as usize <= end) {
            line.count += 1;
            line.pieces += usize::from(word.start != last);
            last = word.end;
            sentences.add(text, word);
        }
        line.sentences = sentences.after_first + usize::from(line.count > 0);
        line
    }
}

/// Whether a piece between white space has more than `longest` characters.
fn has_long_piece(line: &str, longest: usize) -> bool {
    let too_long = |piece: &str| piece.len() > longest && chars(piece) > longest;
    line.len() > longest && line.split(is_space).any(too_long)
}

/// What few texts have.
#[derive(Clone, Copy)]
struct Rare {
    /// `[`
    brackets: bool,
    /// `{`
    braces: bool,
    /// First bytes of letters that become ASCII letters in lower case.
    letters: bool,
}

impl Rare {
    fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let has = |class: &dyn Fn(Bytes) -> Bytes| vector::find(bytes, 0, class).is_some();
        // Both brackets differ from others by one bit.
        let any =
            vector::find(bytes, 0, |bytes| bytes.lower().is(b'{').or(bytes.is(0xc4)).or(bytes.is(0xe2))).is_some();
        Self {
            brackets: any && has(&|bytes| bytes.is(b'[')),
            braces: any && has(&|bytes| bytes.is(b'{')),
            letters: any && has(&|bytes| bytes.is(0xc4).or(bytes.is(0xe2))),
        }
    }
}

/// A phrase of lower-case ASCII, and where in it the three letters are that are looked for first.
type Phrase = (&'static str, usize);

/// `ips`, `jav`; and of the policies `f u`, `vac` and `kie`.
const LOREM: Phrase = ("lorem ipsum", 6);
const JAVASCRIPT: Phrase = ("javascript", 0);
const POLICY: [Phrase; 6] = [
    ("terms of use", 7),
    ("privacy policy", 3),
    ("cookie policy", 3),
    ("uses cookies", 8),
    ("use of cookies", 10),
    ("use cookies", 7),
];

/// Which phrases a text contains, whatever the case of its letters.
#[derive(Clone, Copy, Default)]
struct Phrases {
    lorem: bool,
    javascript: bool,
    policy: bool,
}

impl Phrases {
    /// `letters` says whether some of it may become ASCII letters in lower case.
    fn of(text: &str, letters: bool) -> Self {
        if letters && text.contains(['\u{212a}', '\u{130}']) {
            return Self::of_lower(text.to_lowercase().as_bytes());
        }
        Self::of_lower(text.as_bytes())
    }

    fn of_lower(text: &[u8]) -> Self {
        let mut found = Self::default();
        for block in (0..text.len()).step_by(BLOCK) {
            let mut bits = vector::shifted(text, block, |bytes: [Bytes; 3]| {
                let [a, b, c] = bytes.map(Bytes::lower);
                let all = |letters: &[u8; 3]| a.is(letters[0]).and(b.is(letters[1])).and(c.is(letters[2]));
                all(b"ips").or(all(b"jav")).or(all(b"f u")).or(all(b"vac")).or(all(b"kie"))
            });
            while bits != 0 {
                found.add(text, block + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
        found
    }

    /// Adds the phrase whose three letters are at `at`.
    fn add(&mut self, text: &[u8], at: usize) {
        let is_here = |(phrase, offset): Phrase| {
            let start = at.checked_sub(offset);
            let there = start.and_then(|start| text.get(start..start + phrase.len()));
            there.is_some_and(|there| there.eq_ignore_ascii_case(phrase.as_bytes()))
        };
        match text[at] | 0x20 {
            b'i' => self.lorem |= is_here(LOREM),
            b'j' => self.javascript |= is_here(JAVASCRIPT),
            _ => self.policy |= POLICY.into_iter().any(is_here),
        }
    }

    fn any(self) -> bool {
        self.lorem || self.javascript || self.policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn citations_go() {
        assert_eq!(without_citations("a[1] b[] c[edit] d[citation needed] e[x] f[12"), "a b c d e[x] f[12");
    }

    #[test]
    fn words_of_a_line_are_counted() {
        let mut words = Words::default();
        let text = " a\tb,c\u{1f}d. \"E\" (f) ... g-h!";
        words.cut(text);
        let spans = words.spans();
        for end in 0..text.len() + 3 {
            let inside = &spans[..spans.iter().filter(|word| word.end as usize <= end).count()];
            let gaps = inside.windows(2).filter(|pair| pair[0].end < pair[1].start).count();
            let pieces = if inside.is_empty() { 0 } else { gaps + 1 };
            let wanted = LineWords { count: inside.len(), pieces, sentences: sentences(text, inside) };
            assert_eq!(LineWords::of(text, spans, end), wanted, "{end}");
        }
        assert_eq!(LineWords::of(text, spans, text.len()).pieces, 7);
    }

    #[test]
    fn pieces_are_measured() {
        assert!(has_long_piece("abcd ef", 3) && !has_long_piece("äöü ef", 3));
    }

    #[test]
    fn phrases_are_found_in_any_case() {
        let found = |text: &str| {
            let Phrases { lorem, javascript, policy } = Phrases::of(text, Rare::of(text).letters);
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
