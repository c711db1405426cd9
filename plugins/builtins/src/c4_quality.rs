//! C4's line and page rules (Raffel et al. 2020, arXiv 1910.10683, 2.2), with datatrove's defaults. Rewrites the text: only
//! good lines stay.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};

use crate::character::{is_space, trim};
use crate::lines::split_lines;
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
        Ok(Self { config, words: Words::default() })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let config = &self.config;
        let (mut lines, mut found) = (0, 0);
        let mut kept = String::new();
        let mut kept_lines = 0;
        for line in split_lines(row.text()) {
            lines += 1;
            let line = trim(line);
            let words = || line.split(is_space).filter(|word| !word.is_empty());
            let most = usize::try_from(config.max_word_length).unwrap_or(usize::MAX);
            if words().any(|word| word.len() > most && chars(word) > most) {
                continue;
            }
            let count = words().count();
            let cleaned;
            let line = if config.remove_citations && line.contains('[') {
                cleaned = without_citations(line);
                cleaned.as_str()
            } else {
                line
            };
            if config.terminal_punctuation && (!line.ends_with(['.', '?', '!', '"', '\'']) || line.ends_with("...")) {
                continue;
            }
            if i64::try_from(count).unwrap_or(i64::MAX) < config.min_line_words {
                continue;
            }
            let lower = line.to_lowercase();
            if config.lorem_ipsum && lower.contains("lorem ipsum") {
                return Verdict::Drop("lorem_ipsum");
            }
            if config.javascript && lower.contains("javascript") {
                continue;
            }
            if config.curly_bracket && line.contains('{') {
                return Verdict::Drop("curly_bracket");
            }
            if config.policy && POLICY.iter().any(|phrase| lower.contains(phrase)) {
                continue;
            }
            self.words.cut(line);
            found += sentences(self.words.iter(line));
            if kept_lines > 0 {
                kept.push('\n');
            }
            kept.push_str(line);
            kept_lines += 1;
        }
        scores.set("sentences", found as f32);
        scores.set("kept-lines", share(kept_lines, lines) as f32);
        if i64::try_from(found).unwrap_or(i64::MAX) < config.min_sentences {
            return Verdict::Drop("too_few_sentences");
        }
        let kept = trim(&kept);
        if kept == row.text() { Verdict::Keep } else { Verdict::Edit(kept.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::without_citations;

    #[test]
    fn citations_go() {
        assert_eq!(without_citations("a[1] b[] c[edit] d[citation needed] e[x] f[12"), "a b c d e[x] f[12");
    }
}
