//! Regular expressions: keep, drop or rewrite texts. The engine takes time linear in the text, whatever the expression.

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};
use regex::{Regex as Expression, RegexSet, RegexSetBuilder};

/// What a match means.
#[derive(Config)]
pub enum RegexAction {
    Keep,
    Drop,
    Replace,
}

#[derive(Config)]
pub struct RegexConfig {
    /// Regular expressions, in the syntax of the Rust crate `regex`: Unicode, no look-around, no references back.
    patterns: Vec<String>,
    /// `keep` the texts in which one is found, `drop` them, or `replace` what is found, one expression after the other.
    action: RegexAction,
    /// With `replace`: what takes the place of a match; `$1` and `${name}` are groups.
    #[config(default = "")]
    replacement: String,
}

/// Keeps, drops or rewrites texts by regular expressions.
pub struct Regex {
    action: RegexAction,
    set: RegexSet,
    expressions: Vec<Expression>,
    replacement: String,
}

/// Bytes of a compiled expression.
const LARGEST: usize = 8 << 20;

fn explain(pattern: &str, error: &regex::Error) -> String {
    // The message of a syntax error is a picture of several lines; its last line says what is wrong.
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
    format!("`patterns`: `{pattern}` is not a regular expression: {last}")
}

impl Filter for Regex {
    type Config = RegexConfig;

    const ABOUT: About = About {
        name: "regex",
        version: "1",
        about: "Keeps, drops or rewrites texts by regular expressions, in time linear in the text.",
        text: "",
        reads: &[],
        scores: &[("matches", ScoreKind::Count)],
        reasons: &["no_match", "match"],
        edits: true,
    };

    fn open(config: RegexConfig) -> Result<Self, String> {
        if config.patterns.is_empty() {
            return Err("`patterns` is empty: expected at least one regular expression".to_owned());
        }
        let mut expressions = Vec::new();
        for pattern in &config.patterns {
            let compiled = regex::RegexBuilder::new(pattern).size_limit(LARGEST).build();
            expressions.push(compiled.map_err(|error| explain(pattern, &error))?);
        }
        let set = RegexSetBuilder::new(&config.patterns).size_limit(LARGEST * 2).build();
        let set = set.map_err(|error| explain(&config.patterns.join("`, `"), &error))?;
        Ok(Self { action: config.action, set, expressions, replacement: config.replacement })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let text = row.text();
        if let RegexAction::Replace = self.action {
            let mut edited: Option<String> = None;
            let mut matches = 0;
            for expression in &self.expressions {
                let current = edited.as_deref().unwrap_or(text);
                let found = expression.find_iter(current).count();
                if found > 0 {
                    matches += found;
                    edited = Some(expression.replace_all(current, self.replacement.as_str()).into_owned());
                }
            }
            scores.set("matches", matches as f32);
            return edited.filter(|edited| edited != text).map_or(Verdict::Keep, Verdict::Edit);
        }
        let matches = self.set.matches(text).iter().count();
        scores.set("matches", matches as f32);
        match (&self.action, matches) {
            (RegexAction::Keep, 0) => Verdict::Drop("no_match"),
            (RegexAction::Drop, 1..) => Verdict::Drop("match"),
            _ => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use luthier_filter::{Verdict, judge};

    use super::Regex;

    fn verdict(config: &str, text: &str) -> Verdict {
        judge::<Regex>(config, text, &[]).verdict
    }

    #[test]
    fn keeps_drops_and_replaces() {
        let keep = r#"{"patterns": ["\\bcat\\b", "^d"], "action": "keep"}"#;
        assert_eq!(verdict(keep, "a cat"), Verdict::Keep);
        assert_eq!(verdict(keep, "concatenate"), Verdict::Drop("no_match"));
        let drop = r#"{"patterns": ["(?i)copyright \\d{4}"], "action": "drop"}"#;
        assert_eq!(verdict(drop, "Copyright 1999"), Verdict::Drop("match"));
        assert_eq!(verdict(drop, "copyright"), Verdict::Keep);
        let replace = r#"{"patterns": ["(\\w+)@(\\w+)", "x+"], "action": "replace", "replacement": "$2 at"}"#;
        assert_eq!(verdict(replace, "me@here"), Verdict::Edit("here at".to_owned()));
        assert_eq!(verdict(replace, "nobody"), Verdict::Keep);
    }

    #[test]
    fn a_hostile_expression_stays_linear() {
        // A backtracking engine needs 2^n steps for this.
        let text = "a".repeat(20_000) + "!";
        assert_eq!(verdict(r#"{"patterns": ["^(a|a|aa)+$"], "action": "keep"}"#, &text), Verdict::Drop("no_match"));
    }
}
