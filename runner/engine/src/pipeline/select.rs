//! Names that mean one stage, a group, or some members of a matrix.

use std::collections::BTreeSet;
use std::fmt;

use luthier_core::{StageId, nearest, quoted};

use super::planned::Pipeline;
use crate::spec::{Node, Span, parse_value};

/// No stage fits a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownStage {
    pub pattern: String,
    /// The name it was probably meant to be.
    pub nearest: Option<String>,
    /// Names in the file, in its order.
    pub known: Vec<String>,
}

impl UnknownStage {
    /// A sentence that helps.
    #[must_use]
    pub fn hint(&self) -> String {
        match &self.nearest {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("stages are {}", short_list(&self.known)),
        }
    }
}

impl fmt::Display for UnknownStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the pipeline has no stage `{}`", self.pattern)
    }
}

impl std::error::Error for UnknownStage {}

/// A parsed name: `base`, `base@rank=8,lr=0.001`, with `*` and `?` anywhere.
pub(super) struct Pattern<'t> {
    pub base: &'t str,
    selector: Option<&'t str>,
}

impl<'t> Pattern<'t> {
    pub fn new(text: &'t str) -> Self {
        match text.split_once('@') {
            Some((base, selector)) => Self { base, selector: Some(selector) },
            None => Self { base: text, selector: None },
        }
    }

    /// The base may fit several groups.
    pub fn is_glob(&self) -> bool {
        self.base.contains(['*', '?'])
    }

    pub fn fits_group(&self, group: &str) -> bool {
        if self.is_glob() { glob(self.base, group) } else { self.base == group }
    }

    /// Whether a member with these values (as its id writes them) is selected.
    pub fn fits_values<'v>(&self, values: impl Iterator<Item = (&'v str, &'v str)> + Clone) -> bool {
        let Some(selector) = self.selector else { return true };
        if values.clone().next().is_none() {
            return false;
        }
        selector == "*"
            || selector.split(',').all(|part| {
                let (key, wanted) = part.split_once('=').unwrap_or((part, ""));
                values.clone().any(|(name, value)| name == key && same_value(wanted, value))
            })
    }
}

/// `1e-3` and `0.001` name the same value.
fn same_value(wanted: &str, value: &str) -> bool {
    wanted == value || glob(wanted, value) || canonical(wanted).is_some_and(|wanted| wanted == value)
}

fn canonical(text: &str) -> Option<String> {
    Node::new(parse_value(text).ok()?, Span::default()).scalar_text()
}

/// `*` for any characters, `?` for one. Linear in the text for each `*`.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after, from)) => {
                    retry = Some((after, from + 1));
                    p = after;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The first dozen names, and how many more there are.
pub(super) fn short_list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = quoted(names.iter().take(SHOWN).map(String::as_str));
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(super) fn select(pipeline: &Pipeline, text: &str) -> Result<BTreeSet<StageId>, UnknownStage> {
    let pattern = Pattern::new(text);
    let found: BTreeSet<StageId> = pipeline
        .stages
        .iter()
        .filter(|stage| pattern.fits_group(stage.group.as_str()))
        .filter(|stage| pattern.fits_values(id_values(stage.id.as_str())))
        .map(|stage| stage.id.clone())
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut known: Vec<String> = Vec::new();
    for stage in &pipeline.stages {
        if known.last().map(String::as_str) != Some(stage.group.as_str()) && !known.contains(&stage.group.to_string()) {
            known.push(stage.group.to_string());
        }
    }
    let members = pipeline.stages.iter().map(|stage| stage.id.as_str());
    let near = nearest(text, known.iter().map(String::as_str).chain(members)).map(str::to_owned);
    Err(UnknownStage { pattern: text.to_owned(), nearest: near, known })
}

/// `rank` and `8` of `adapter@rank=8`.
pub(super) fn id_values(id: &str) -> impl Iterator<Item = (&str, &str)> + Clone {
    let selector = id.split_once('@').map(|(_, selector)| selector).unwrap_or_default();
    selector.split(',').filter_map(|part| part.split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_like_a_shell() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn values_match_by_value() {
        let fits = |pattern, id| Pattern::new(pattern).fits_values(id_values(id));
        assert!(fits("a@lr=1e-3", "a@rank=8,lr=0.001"));
        assert!(fits("a@lr=0.001,rank=8", "a@rank=8,lr=0.001"));
        assert!(fits("a@*", "a@rank=8"));
        assert!(fits("a@rank=*", "a@rank=8"));
        assert!(!fits("a@*", "a"));
        assert!(!fits("a@rank=1", "a@rank=16"));
        assert!(!fits("a@", "a@rank=16"));
        assert!(fits("a", "a@rank=16"));
    }
}
