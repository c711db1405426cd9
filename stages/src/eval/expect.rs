//! Conditions on scores: `tuned.phoneme_error_rate: "< 0.5 * base"`.
//!
//! ```text
//! key        base.METRIC | tuned.METRIC | change.METRIC
//! condition  OP term, joined by `and`
//! OP         <  <=  >  >=  ==
//! term       NUMBER | [NUMBER *] base [(+|-) NUMBER]
//! ```

use std::collections::BTreeMap;

use luthier_core::ConfigIssue;
use serde::{Deserialize, Serialize};

const SYNTAX: &str = "write a comparison such as `>= 0.3`, `< 0.5 * base` or `<= base + 0.01`";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
}

/// `factor · base + constant`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Term {
    factor: f64,
    constant: f64,
}

/// A parsed condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    name: String,
    text: String,
    parts: Vec<(Operator, Term)>,
}

/// What became of an expectation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub name: String,
    pub condition: String,
    pub found: f64,
    /// The condition with `base` filled in.
    pub wanted: String,
    pub holds: bool,
}

impl Expectation {
    /// # Errors
    /// The name or the condition does not parse.
    pub fn parse(name: &str, condition: &str) -> Result<Self, ConfigIssue> {
        let path = format!("expect.{name}");
        match name.split_once('.') {
            Some(("base" | "tuned" | "change", metric)) if !metric.is_empty() => {}
            _ => {
                let message = format!(
                    "`{name}` does not name a score, expected `tuned.METRIC`, `base.METRIC` or `change.METRIC`"
                );
                return Err(ConfigIssue { on_key: true, ..ConfigIssue::new(path, message) }
                    .help("for example `tuned.exact_match: \">= 0.3\"`"));
            }
        }
        let mut parts = Vec::new();
        for part in condition.split(" and ") {
            let Some(parsed) = parse_part(part.trim()) else {
                let message = format!("`{condition}` is not a condition");
                return Err(ConfigIssue::new(path, message).help(SYNTAX));
            };
            parts.push(parsed);
        }
        Ok(Self { name: name.to_owned(), text: condition.to_owned(), parts })
    }

    /// Compares with scores by full name. `None` if there is no such score, or none of the base that the condition
    /// needs.
    pub fn judge(&self, scores: &BTreeMap<String, f64>) -> Option<Verdict> {
        let found = *scores.get(&self.name)?;
        let metric = self.name.split_once('.').map_or("", |(_, metric)| metric);
        let base = scores.get(&format!("base.{metric}")).copied();
        let mut holds = true;
        let mut wanted = Vec::new();
        for (operator, term) in &self.parts {
            let bound = if term.factor == 0.0 { term.constant } else { term.factor.mul_add(base?, term.constant) };
            holds &= operator.holds(found, bound);
            wanted.push(format!("{} {}", operator.symbol(), short(bound)));
        }
        Some(Verdict {
            name: self.name.clone(),
            condition: self.text.clone(),
            found,
            wanted: wanted.join(" and "),
            holds,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Operator {
    fn symbol(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "==",
        }
    }

    fn holds(self, found: f64, bound: f64) -> bool {
        match self {
            Self::Less => found < bound,
            Self::LessOrEqual => found <= bound,
            Self::Greater => found > bound,
            Self::GreaterOrEqual => found >= bound,
            Self::Equal => found == bound,
        }
    }
}

fn parse_part(text: &str) -> Option<(Operator, Term)> {
    use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
    let known = [("<=", LessOrEqual), (">=", GreaterOrEqual), ("==", Equal), ("<", Less), (">", Greater)];
    let (rest, operator) =
        known.into_iter().find_map(|(symbol, operator)| Some((text.strip_prefix(symbol)?.trim(), operator)))?;
    Some((operator, parse_term(rest)?))
}

fn parse_term(text: &str) -> Option<Term> {
    let Some(at) = text.find("base") else { return Some(Term { factor: 0.0, constant: number(text)? }) };
    let (before, after) = (text[..at].trim(), text[at + "base".len()..].trim());
    let factor = match before {
        "" => 1.0,
        _ => number(before.strip_suffix('*')?.trim())?,
    };
    let constant = match after.chars().next() {
        None => 0.0,
        Some('+') => number(after[1..].trim())?,
        Some('-') => -number(after[1..].trim())?,
        Some(_) => return None,
    };
    Some(Term { factor, constant })
}

fn number(text: &str) -> Option<f64> {
    let (text, scale) = match text.strip_suffix('%') {
        Some(text) => (text.trim(), 0.01),
        None => (text, 1.0),
    };
    text.parse::<f64>().ok().filter(|value| value.is_finite()).map(|value| value * scale)
}

/// At most four decimals.
pub fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}
