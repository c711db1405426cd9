//! How the matches of an expression may begin: sets of bytes, place by place.
//!
//! Every match begins with one of the sequences of [`beginnings`]; not all that begins so is a match. Assertions are
//! taken to hold, and what would multiply the sequences beyond measure cuts them short.

use regex_syntax::hir::{Class, ClassUnicode, Hir, HirKind, Repetition};
use regex_syntax::utf8::Utf8Sequences;

/// Bytes of a beginning that are looked at.
pub(super) const LONGEST: usize = 16;

/// Sequences of an expression.
const MOST: usize = 64;

/// Repetitions beyond the least number that are told apart.
const SPREAD: u32 = 3;

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    pub const ALL: Self = Self([u64::MAX; 4]);

    pub fn range(first: u8, last: u8) -> Self {
        let mut set = Self::default();
        for byte in first..=last {
            set.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
        set
    }

    pub fn union(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    pub fn has(self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |byte| self.has(*byte))
    }
}

/// What the bytes from some place on belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub sets: Vec<ByteSet>,
    /// The expression may be at its end after these, rather than go on in ways that are not told.
    whole: bool,
}

impl Sequence {
    const EMPTY: Self = Self { sets: Vec::new(), whole: true };

    fn then(&self, next: &Self) -> Self {
        let mut sets: Vec<ByteSet> = self.sets.iter().chain(&next.sets).copied().collect();
        let whole = next.whole && sets.len() < LONGEST;
        sets.truncate(LONGEST);
        Self { sets, whole }
    }
}

/// The sequences, at least one; an empty one where nothing is known.
pub(super) fn beginnings(hir: &Hir) -> Vec<Sequence> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![Sequence::EMPTY],
        HirKind::Literal(literal) => {
            let sets = literal.0.iter().take(LONGEST).map(|byte| ByteSet::range(*byte, *byte)).collect();
            vec![Sequence { sets, whole: literal.0.len() < LONGEST }]
        }
        HirKind::Class(Class::Bytes(class)) => {
            let set = class
                .iter()
                .fold(ByteSet::default(), |set, range| set.union(ByteSet::range(range.start(), range.end())));
            vec![Sequence { sets: vec![set], whole: true }]
        }
        HirKind::Class(Class::Unicode(class)) => characters(class),
        HirKind::Repetition(repetition) => repeated(repetition),
        HirKind::Capture(capture) => beginnings(&capture.sub),
        HirKind::Concat(parts) => in_order(parts),
        HirKind::Alternation(parts) => either(parts.iter().map(beginnings)),
    }
}

/// The sequences of parts that follow each other.
pub(super) fn in_order(parts: &[Hir]) -> Vec<Sequence> {
    let mut found = vec![Sequence::EMPTY];
    for part in parts {
        if !found.iter().any(|sequence| sequence.whole) {
            break;
        }
        found = extended(&found, &beginnings(part));
    }
    found
}

/// All of them; if that is too many, nothing is known.
fn either(parts: impl Iterator<Item = Vec<Sequence>>) -> Vec<Sequence> {
    let mut found: Vec<Sequence> = Vec::new();
    for part in parts {
        for sequence in part {
            if !found.contains(&sequence) {
                found.push(sequence);
            }
        }
        if found.len() > MOST {
            return vec![Sequence { sets: Vec::new(), whole: false }];
        }
    }
    found
}

/// Each of `found` that may go on, followed by each of `next`.
fn extended(found: &[Sequence], next: &[Sequence]) -> Vec<Sequence> {
    let open = found.iter().filter(|sequence| sequence.whole).count();
    if found.len() - open + open * next.len() > MOST {
        return found.iter().map(|sequence| Sequence { whole: false, ..sequence.clone() }).collect();
    }
    let mut all: Vec<Sequence> = Vec::new();
    for sequence in found {
        if sequence.whole {
            all.extend(next.iter().map(|next| sequence.then(next)));
        } else {
            all.push(sequence.clone());
        }
    }
    all
}

fn repeated(repetition: &Repetition) -> Vec<Sequence> {
    let once = beginnings(&repetition.sub);
    let mut found = vec![Sequence::EMPTY];
    for _ in 0..repetition.min.min(LONGEST as u32) {
        found = extended(&found, &once);
    }
    if repetition.min as usize >= LONGEST {
        return found;
    }
    let further = repetition.max.map_or(u32::MAX, |max| max - repetition.min);
    let told = if further <= SPREAD { further } else { 1 };
    let mut ways = vec![found];
    for turn in 1..=told {
        let mut more = extended(&ways[ways.len() - 1], &once);
        if turn == told && further > told {
            more.iter_mut().for_each(|sequence| sequence.whole = false);
        }
        ways.push(more);
    }
    either(ways.into_iter())
}

/// A sequence per length in UTF-8. Where a class has ASCII, other characters are cut after their own bytes: texts
/// mostly have the former, and they would multiply.
fn characters(class: &ClassUnicode) -> Vec<Sequence> {
    let mut by_length = [const { Vec::<ByteSet>::new() }; 4];
    for range in class.iter() {
        for bytes in Utf8Sequences::new(range.start(), range.end()) {
            let sets = &mut by_length[bytes.len() - 1];
            sets.resize(bytes.len(), ByteSet::default());
            for (set, range) in sets.iter_mut().zip(bytes.as_slice()) {
                *set = set.union(ByteSet::range(range.start, range.end));
            }
        }
    }
    let ascii = !by_length[0].is_empty();
    let sequences = by_length.into_iter().filter(|sets| !sets.is_empty());
    let found: Vec<Sequence> = sequences.map(|sets| Sequence { whole: !ascii || sets.len() == 1, sets }).collect();
    // A class of nothing never matches: any beginning is one of its.
    if found.is_empty() { vec![Sequence { sets: vec![ByteSet::default()], whole: false }] } else { found }
}
