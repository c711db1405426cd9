//! A complete automaton of an expression, which reads a text from where matches may begin.

use regex_automata::dfa::dense::{Builder, Config, DFA};
use regex_automata::dfa::{Automaton, StartKind};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Input, MatchKind};
use regex_syntax::hir::{Capture, Hir, HirKind, Look, Repetition};

use super::scan::{Scan, Seen};
use crate::vector::{self, Bytes};

/// Bytes of an automaton, and as many while it is made. What needs more has states for letters of every script; the
/// crate `regex` makes those that a text needs.
const LARGEST: usize = 1 << 19;

/// Bytes that a place found must save on average for the scan to go on, and how far it may fall behind.
const LEAST_SAVED: usize = 24;
const BEHIND: usize = 32 * LEAST_SAVED;

/// What a search says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    No,
    /// A match; none begins before this place.
    From(usize),
    /// None begins before this place; beyond, only the crate `regex` can say.
    Unknown(usize),
}

pub(super) struct Runner {
    exact: Complete,
    /// Without boundaries of Unicode words, of which the other knows nothing beyond ASCII: what this does not find is
    /// not there.
    loose: Option<Complete>,
}

/// An automaton and where it starts behind each byte, and, last, behind none; `None` where it cannot say.
struct Complete {
    automaton: DFA<Vec<u32>>,
    starts: Vec<Option<StateID>>,
}

impl Runner {
    /// `None` if it would be too large.
    pub fn new(hir: &Hir, scanned: bool) -> Option<Self> {
        let exact = Complete::new(hir, scanned)?;
        let loose = hir.properties().look_set().contains_word_unicode();
        Some(Self { exact, loose: if loose { Complete::new(&loosened(hir), scanned) } else { None } })
    }

    /// Reads from the places that `scan` finds, and only until nothing has begun.
    pub fn run(&self, scan: &Scan, text: &[u8], from: usize) -> Found {
        self.each(from, |complete, from| complete.run(scan, text, from))
    }

    /// Reads all.
    pub fn read(&self, text: &[u8], from: usize) -> Found {
        self.each(from, |complete, from| complete.read(text, from))
    }

    fn each(&self, from: usize, search: impl Fn(&Complete, usize) -> Found) -> Found {
        match (search(&self.exact, from), &self.loose) {
            (Found::Unknown(at), Some(loose)) => match search(loose, at) {
                Found::From(at) => Found::Unknown(at),
                found => found,
            },
            (found, _) => found,
        }
    }
}

impl Complete {
    fn new(hir: &Hir, scanned: bool) -> Option<Self> {
        let nfa = thompson::Config::new().which_captures(WhichCaptures::None).nfa_size_limit(Some(LARGEST));
        let nfa = thompson::Compiler::new().configure(nfa).build_from_hir(hir).ok()?;
        let config = Config::new()
            .start_kind(StartKind::Unanchored)
            .match_kind(MatchKind::LeftmostFirst)
            .unicode_word_boundary(true)
            .specialize_start_states(scanned)
            .dfa_size_limit(Some(LARGEST))
            .determinize_size_limit(Some(LARGEST));
        let automaton = Builder::new().configure(config).build_from_nfa(&nfa).ok()?;
        let start = |behind| automaton.start_state(&start::Config::new().look_behind(behind)).ok();
        let starts = (0..=u8::MAX).map(Some).chain([None]).map(start).collect();
        Some(Self { automaton, starts })
    }

    fn run(&self, scan: &Scan, text: &[u8], from: usize) -> Found {
        let automaton = &self.automaton;
        let (mut at, mut credit, mut seen) = (from, BEHIND, Seen::default());
        while let Some(candidate) = scan.find(text, at, &mut seen) {
            let place = candidate.first;
            credit = (credit + (place - at)).min(BEHIND);
            match credit.checked_sub(LEAST_SAVED) {
                Some(left) => credit = left,
                None => return self.read(text, place),
            }
            let behind = place.checked_sub(1).and_then(|behind| text.get(behind));
            let Some(mut state) = self.starts[behind.map_or(256, |byte| usize::from(*byte))] else {
                return Found::Unknown(place);
            };
            at = place;
            loop {
                let Some(byte) = text.get(at) else {
                    let found = automaton.is_match_state(automaton.next_eoi_state(state));
                    return if found { Found::From(place) } else { Found::No };
                };
                state = automaton.next_state(state, *byte);
                at += 1;
                if !automaton.is_special_state(state) {
                    continue;
                }
                if automaton.is_match_state(state) {
                    return Found::From(place);
                } else if automaton.is_start_state(state) {
                    if at > candidate.last {
                        break;
                    }
                } else if automaton.is_dead_state(state) {
                    return Found::No;
                } else if automaton.is_quit_state(state) {
                    return Found::Unknown(place);
                } else if automaton.is_accel_state(state) {
                    at = leave(automaton.accelerator(state), text, at);
                }
            }
        }
        Found::No
    }

    fn read(&self, text: &[u8], from: usize) -> Found {
        match self.automaton.try_search_fwd(&Input::new(text).range(from..).earliest(true)) {
            Ok(None) => Found::No,
            Ok(Some(_)) => Found::From(from),
            Err(_) => Found::Unknown(from),
        }
    }
}

/// Where one of `needles` is, with which alone a state is left.
fn leave(needles: &[u8], text: &[u8], at: usize) -> usize {
    let found = match *needles {
        [a] if a != 0 => vector::find(text, at, |bytes: Bytes| bytes.is(a)),
        [a, b] if a != 0 && b != 0 => vector::find(text, at, |bytes| bytes.is(a).or(bytes.is(b))),
        [a, b, c] if a != 0 && b != 0 && c != 0 => {
            vector::find(text, at, |bytes| bytes.is(a).or(bytes.is(b)).or(bytes.is(c)))
        }
        _ => return at,
    };
    found.unwrap_or(text.len())
}

/// The expression without boundaries of Unicode words: it matches wherever the other does.
fn loosened(hir: &Hir) -> Hir {
    let all = |parts: &[Hir]| parts.iter().map(loosened).collect();
    match hir.kind() {
        HirKind::Look(look) if is_word(*look) => Hir::empty(),
        HirKind::Concat(parts) => Hir::concat(all(parts)),
        HirKind::Alternation(parts) => Hir::alternation(all(parts)),
        HirKind::Capture(capture) => Hir::capture(Capture { sub: Box::new(loosened(&capture.sub)), ..capture.clone() }),
        HirKind::Repetition(repetition) => {
            Hir::repetition(Repetition { sub: Box::new(loosened(&repetition.sub)), ..repetition.clone() })
        }
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => hir.clone(),
    }
}

fn is_word(look: Look) -> bool {
    matches!(
        look,
        Look::WordUnicode
            | Look::WordUnicodeNegate
            | Look::WordStartUnicode
            | Look::WordEndUnicode
            | Look::WordStartHalfUnicode
            | Look::WordEndHalfUnicode
    )
}
