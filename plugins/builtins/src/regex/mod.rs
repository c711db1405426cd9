//! Regular expressions: keep, drop or rewrite texts. The engine takes time linear in the text, whatever the expression.

mod beginnings;
mod runner;
mod scan;
mod search;
#[cfg(test)]
mod tests;
mod windows;

use luthier_filter::{About, Config, Filter, Row, ScoreKind, Scores, Verdict};
use regex::{RegexSet, RegexSetBuilder};
use search::Search;

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
    /// In the order of the configuration.
    searches: Vec<Search>,
    /// Those of them that are searched for one after the other.
    single: Vec<usize>,
    /// The others, in one pass.
    set: Option<RegexSet>,
    replacement: String,
}

/// Bytes of a compiled expression.
const LARGEST: usize = 8 << 20;

/// Nanoseconds per byte that searches for single expressions may take together: about what a pass for any number takes.
const MOST_SINGLE: f64 = 2.0;

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
        let mut searches = Vec::new();
        for pattern in &config.patterns {
            let compiled = regex::RegexBuilder::new(pattern).size_limit(LARGEST).build();
            searches.push(Search::new(compiled.map_err(|error| explain(pattern, &error))?));
        }
        let mut single: Vec<usize> = (0..searches.len()).collect();
        single.sort_by(|a, b| searches[*a].cost().total_cmp(&searches[*b].cost()));
        let mut spent = 0.0;
        let cheap = single.iter().take_while(|search| {
            spent += searches[**search].cost();
            spent <= MOST_SINGLE
        });
        // One that is left over takes no longer alone.
        let cheap = cheap.count();
        let together = if cheap + 1 < single.len() { single.split_off(cheap) } else { Vec::new() };
        let mut set = None;
        if !together.is_empty() {
            let patterns: Vec<&String> = together.iter().map(|search| &config.patterns[*search]).collect();
            let all = RegexSetBuilder::new(patterns).size_limit(LARGEST * 2).build();
            set = Some(all.map_err(|error| explain(&config.patterns.join("`, `"), &error))?);
        }
        Ok(Self { action: config.action, searches, single, set, replacement: config.replacement })
    }

    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict {
        let text = row.text();
        if let RegexAction::Replace = self.action {
            let mut edited: Option<String> = None;
            let mut matches = 0;
            for search in &self.searches {
                let current = edited.as_deref().unwrap_or(text);
                if let Some((found, replaced)) = search.replace(current, &self.replacement) {
                    matches += found;
                    edited = Some(replaced);
                }
            }
            scores.set("matches", matches as f32);
            return edited.filter(|edited| edited != text).map_or(Verdict::Keep, Verdict::Edit);
        }
        let mut matches = self.single.iter().filter(|search| self.searches[**search].is_match(text)).count();
        if let Some(set) = &self.set {
            matches += set.matches(text).iter().count();
        }
        scores.set_from(0, &[matches as f64]);
        match (&self.action, matches) {
            (RegexAction::Keep, 0) => Verdict::Drop("no_match"),
            (RegexAction::Drop, 1..) => Verdict::Drop("match"),
            _ => Verdict::Keep,
        }
    }
}
