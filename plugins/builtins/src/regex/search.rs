//! One expression: whether a text has a match, and where matches are.
//!
//! Most texts have none, and most of a text can be told to have none by a few of its bytes:
//!
//! ```text
//! required bytes anywhere? ──no──▶ no match
//!        │ yes
//!        ▼
//! scan: where may a match begin? ──nowhere──▶ no match
//!        │ there                ▲
//!        ▼                      │ nothing has begun
//! automaton, byte by byte ──────┘
//!        │ match, or it cannot say
//!        ▼
//! the crate `regex`, from there on
//! ```
//!
//! Where nothing tells early, the automaton reads the whole text, and where that would be too large, the crate `regex`
//! does. The automaton starts over wherever nothing has begun, so that the time is linear in the text; where the scan
//! finds too many places, the automaton reads on without it.

use std::ops::Range;

use regex::{Captures, Regex};
use regex_syntax::hir::{Hir, HirKind, Look};

use super::beginnings::{Sequence, beginnings, in_order};
use super::runner::{Found, Runner};
use super::scan::{Scan, Seen};

/// Parts of an expression that are tried as what a text must contain, and ways in which one may begin.
const MOST_PARTS: usize = 32;
const MOST_WAYS: usize = 8;

/// Nanoseconds per byte of an automaton that reads a whole text.
const READING: f64 = 1.5;

/// Nanoseconds per byte that no scan can do much better than.
const CHEAP: f64 = 0.07;

pub(super) struct Search {
    regex: Regex,
    /// What every match contains somewhere.
    required: Option<Scan>,
    start: Option<Scan>,
    automaton: Option<Runner>,
}

impl Search {
    pub fn new(regex: Regex) -> Self {
        let Ok(hir) = regex_syntax::parse(regex.as_str()) else {
            return Self { regex, required: None, start: None, automaton: None };
        };
        // What can only match at the start or at the end of a text needs no search: the crate looks there.
        let properties = hir.properties();
        let anchored =
            properties.look_set_prefix().contains(Look::Start) || properties.look_set_suffix().contains(Look::End);
        if anchored || properties.minimum_len() == Some(0) {
            return Self { regex, required: None, start: None, automaton: None };
        }
        let start = Scan::of(&beginnings(&hir));
        // Two scans must be worth it.
        let most = start.as_ref().map_or(f64::INFINITY, |start| start.cost() / 2.0);
        let mut parts = Vec::new();
        if most > CHEAP {
            required(&hir, &mut parts);
        }
        let scans = parts.iter().filter_map(|part| Scan::of(part));
        let required = scans.min_by(|a, b| a.cost().total_cmp(&b.cost())).filter(|scan| scan.cost() < most);
        // Where something is required that is rare, the crate `regex` finds it, and from there what is around it.
        let wanted = start.is_some() || required.is_none();
        let automaton = if wanted { Runner::new(&hir, start.is_some()) } else { None };
        Self { regex, required, start, automaton }
    }

    /// Nanoseconds per byte of a text, as expected.
    pub fn cost(&self) -> f64 {
        let of = |scan: &Option<Scan>| scan.as_ref().map(Scan::cost);
        // What is required is rare, so that the rest of the search is too.
        of(&self.required).or(of(&self.start)).unwrap_or(READING)
    }

    /// Whether any scan spares the crate `regex` work.
    #[cfg(test)]
    pub fn scans(&self) -> bool {
        self.start.is_some() || self.required.is_some()
    }

    #[inline]
    pub fn is_match(&self, text: &str) -> bool {
        match self.find(text, 0) {
            Found::No => false,
            Found::From(_) => true,
            Found::Unknown(at) => self.regex.is_match_at(text, boundary(text, at)),
        }
    }

    /// How many matches there are, and the text with `replacement` in their places; `None` if there are none.
    pub fn replace(&self, text: &str, replacement: &str) -> Option<(usize, String)> {
        let first = self.skip(text, 0)?;
        let mut edit = Edit { text, replacement, replaced: String::new(), copied: 0, count: 0 };
        let grouped = replacement.contains('$');
        if self.start.is_none() && self.required.is_none() {
            if grouped {
                self.regex.captures_iter(text).for_each(|groups| edit.expand(&groups));
            } else {
                self.regex.find_iter(text).for_each(|found| edit.put(found.range()));
            }
            return edit.done();
        }
        // Nothing that is scanned for matches the empty text, so that the next match is behind this one.
        let mut at = Some(first);
        while let Some(from) = at {
            if grouped {
                let Some(groups) = self.regex.captures_at(text, from) else { break };
                edit.expand(&groups);
            } else {
                let Some(found) = self.regex.find_at(text, from) else { break };
                edit.put(found.range());
            }
            at = self.skip(text, edit.copied);
        }
        edit.done()
    }

    /// A place before which no match begins, at or after `from`; `None` if there is no match from there on.
    fn skip(&self, text: &str, from: usize) -> Option<usize> {
        match self.find(text, from) {
            Found::No => None,
            Found::From(at) | Found::Unknown(at) => Some(boundary(text, at)),
        }
    }

    #[inline]
    fn find(&self, text: &str, from: usize) -> Found {
        let bytes = text.as_bytes();
        if let Some(required) = &self.required
            && required.find(bytes, from, &mut Seen::default()).is_none()
        {
            return Found::No;
        }
        match (&self.start, &self.automaton) {
            (Some(start), Some(automaton)) => automaton.run(start, bytes, from),
            (Some(start), None) => {
                start.find(bytes, from, &mut Seen::default()).map_or(Found::No, |found| Found::Unknown(found.first))
            }
            (None, Some(automaton)) => automaton.read(bytes, from),
            (None, None) => Found::Unknown(from),
        }
    }
}

/// A text of which matches are being replaced.
struct Edit<'a> {
    text: &'a str,
    replacement: &'a str,
    replaced: String,
    /// Up to where the text is done with.
    copied: usize,
    count: usize,
}

impl Edit<'_> {
    fn before(&mut self, found: &Range<usize>) {
        self.replaced.push_str(&self.text[self.copied..found.start]);
        self.copied = found.end;
        self.count += 1;
    }

    fn put(&mut self, found: Range<usize>) {
        self.before(&found);
        self.replaced.push_str(self.replacement);
    }

    fn expand(&mut self, groups: &Captures<'_>) {
        self.before(&groups.get_match().range());
        groups.expand(self.replacement, &mut self.replaced);
    }

    fn done(mut self) -> Option<(usize, String)> {
        self.replaced.push_str(&self.text[self.copied..]);
        (self.count > 0).then_some((self.count, self.replaced))
    }
}

/// The character boundary at or before `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Beginnings of what a match must contain.
fn required(hir: &Hir, parts: &mut Vec<Vec<Sequence>>) {
    let mut push = |ways: Vec<Sequence>| {
        if ways.len() <= MOST_WAYS && parts.len() < MOST_PARTS {
            parts.push(ways);
        }
    };
    match hir.kind() {
        HirKind::Concat(all) => {
            for at in 0..all.len() {
                if at > 0 {
                    push(in_order(&all[at..]));
                }
            }
            all.iter().for_each(|part| required(part, parts));
        }
        HirKind::Capture(capture) => required(&capture.sub, parts),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub, parts),
        HirKind::Repetition(_) | HirKind::Look(_) | HirKind::Empty => {}
        _ => push(beginnings(hir)),
    }
}
