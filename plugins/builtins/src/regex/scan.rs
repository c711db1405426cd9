//! Finds where a match may begin, sixteen bytes at a time.

use super::beginnings::{LONGEST, Sequence};
use super::windows::{Places, Simple, Tables, WIDEST, Windows};
use crate::vector::nibbles::can_pick;
use crate::vector::{Bytes, WIDTH, from};

/// Bytes per turn of the loop: WebAssembly asks for the time in every turn.
const TURN: usize = 4 * WIDTH;

/// A turn's bytes and those that its last places look ahead to.
const CHUNK: usize = TURN + LONGEST;

/// Nanoseconds per byte, and per place that looks like a match but is none, of a scan and of an automaton: what scans
/// are chosen by. Measured in WebAssembly, where they matter more.
const PER_BYTE: f64 = 0.04;
const PER_PLACE: f64 = 0.025;
const PER_RANGE: f64 = 0.04;
const PER_LOOKUP: f64 = 0.07;
const PER_CANDIDATE: f64 = 25.0;
const AUTOMATON: f64 = 1.2;

/// Looks for one thing.
pub(super) struct Scan {
    kind: Kind,
    /// How far behind the start of its match the place found is, at least and at most.
    offsets: [usize; 2],
    /// How far behind a place found the text goes on at least.
    ahead: usize,
    /// Nanoseconds per byte of a text, as expected.
    cost: f64,
}

/// A place that looks like a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// No match begins before.
    pub first: usize,
    /// Behind this, a match that begins looks like that in another place.
    pub last: usize,
}

/// Some of the places that look like a match: those of a turn, from the first turn on that has any.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    start: usize,
    bits: u64,
}

enum Kind {
    /// At each of some places this byte.
    Exact(Vec<(usize, Simple)>),
    /// The same with some bits set before.
    Folded(Vec<(usize, Simple)>),
    /// At each of some places one of a range.
    Ranges(Vec<(usize, Simple)>),
    /// By tables for the lower and the higher half of each byte: a bit per kind of window.
    Halves(Vec<(usize, Tables)>),
}

/// What is asked at a place behind the one that may look like a match.
trait Ask: Copy {
    fn ask(self, bytes: Bytes) -> Bytes;
}

#[derive(Clone, Copy)]
struct Exact(u8);

impl Ask for Exact {
    #[inline(always)]
    fn ask(self, bytes: Bytes) -> Bytes {
        bytes.is(self.0)
    }
}

#[derive(Clone, Copy)]
struct Folded(Simple);

impl Ask for Folded {
    #[inline(always)]
    fn ask(self, bytes: Bytes) -> Bytes {
        bytes.with(self.0.mask).is(self.0.last)
    }
}

#[derive(Clone, Copy)]
struct InRange(Simple);

impl Ask for InRange {
    #[inline(always)]
    fn ask(self, bytes: Bytes) -> Bytes {
        bytes.with(self.0.mask).within(self.0.first, self.0.last)
    }
}

#[derive(Clone, Copy)]
struct Halves([Bytes; 2]);

impl Ask for Halves {
    #[inline(always)]
    fn ask(self, bytes: Bytes) -> Bytes {
        let [low, high] = bytes.halves();
        let [lows, highs] = self.0;
        // SAFETY: `Scan::of` has asked before it made such a kind.
        unsafe { lows.pick(low).and(highs.pick(high)) }
    }
}

/// The questions of one scan: the first two of all sixteen places, the others only where those say yes. Written out,
/// since closures of iterators are not always inlined.
#[derive(Clone, Copy)]
struct Look<A, const N: usize> {
    asks: [(usize, A); N],
}

impl<A: Ask, const N: usize> Look<A, N> {
    #[inline(always)]
    fn ask(&self, nth: usize, load: &impl Fn(usize) -> Bytes) -> Bytes {
        let (offset, ask) = self.asks[nth];
        ask.ask(load(offset))
    }

    /// Not 0 where a place may look like a match.
    #[inline(always)]
    fn first(&self, load: impl Fn(usize) -> Bytes) -> Bytes {
        let found = self.ask(0, &load);
        if N > 1 { found.and(self.ask(1, &load)) } else { found }
    }

    /// The places of sixteen that do, of those that may.
    #[inline(always)]
    fn all(&self, mut found: Bytes, load: impl Fn(usize) -> Bytes) -> u64 {
        if N > 2 {
            found = found.and(self.ask(2, &load));
        }
        if N > 3 {
            found = found.and(self.ask(3, &load));
        }
        u64::from(!found.is(0).bits() & 0xffff)
    }

    /// The places of a turn.
    #[inline(always)]
    fn turn(&self, chunk: &[u8; CHUNK]) -> u64 {
        let load = |at: usize| {
            move |offset: usize| {
                let mut block = [0; WIDTH];
                // Offsets are below `LONGEST`, which the compiler then need not check.
                let at = at + (offset & (LONGEST - 1));
                block.copy_from_slice(&chunk[at..at + WIDTH]);
                Bytes::new(&block)
            }
        };
        let [a, b] = [self.first(load(0)), self.first(load(WIDTH))];
        let [c, d] = [self.first(load(2 * WIDTH)), self.first(load(3 * WIDTH))];
        if !a.or(b).or(c.or(d)).any() {
            return 0;
        }
        let [a, b] = [self.all(a, load(0)), self.all(b, load(WIDTH))];
        let [c, d] = [self.all(c, load(2 * WIDTH)), self.all(d, load(3 * WIDTH))];
        a | b << WIDTH | c << (2 * WIDTH) | d << (3 * WIDTH)
    }

    /// The first places at or after `at` that look like a match, with as many bytes behind each as `ahead`. What
    /// follows the text is taken for zeros.
    #[inline(always)]
    fn find(&self, text: &[u8], mut at: usize, ahead: usize) -> Option<Seen> {
        let end = text.len().saturating_sub(ahead);
        if end < WIDTH {
            return self.find_short(text, at, end);
        }
        while let Some(Ok(chunk)) = text.get(at..at + CHUNK).map(<&[u8; CHUNK]>::try_from) {
            let bits = self.turn(chunk);
            if bits != 0 {
                return Some(Seen { start: at, bits });
            }
            at += TURN;
        }
        while at < end {
            // The last sixteen are looked at together, even if some of them have been before.
            let start = at.min(end - WIDTH);
            let load = |offset: usize| from(text, start + offset);
            let found = self.all(self.first(load), load);
            let bits = found & u64::MAX << (at - start);
            if bits != 0 {
                return Some(Seen { start, bits });
            }
            at = start + WIDTH;
        }
        None
    }

    /// As [`Self::find`] where there are fewer than sixteen places.
    #[inline(always)]
    fn find_short(&self, text: &[u8], at: usize, end: usize) -> Option<Seen> {
        let mut chunk = [0; CHUNK];
        for (to, from) in chunk.iter_mut().zip(text) {
            *to = *from;
        }
        let bits = self.turn(&chunk) & !(u64::MAX << end) & u64::MAX.checked_shl(at as u32).unwrap_or(0);
        (bits != 0).then_some(Seen { start: 0, bits })
    }
}

/// Looks for as many places as there are.
macro_rules! find {
    ($find:ident, $asks:expr, $text:expr, $at:expr, $ahead:expr) => {
        match $asks.as_slice() {
            [] => None,
            [a] => $find($text, $at, $ahead, &[*a]),
            [a, b] => $find($text, $at, $ahead, &[*a, *b]),
            [a, b, c] => $find($text, $at, $ahead, &[*a, *b, *c]),
            [a, b, c, d, ..] => $find($text, $at, $ahead, &[*a, *b, *c, *d]),
        }
    };
}

#[inline(never)]
fn exact<const N: usize>(text: &[u8], at: usize, ahead: usize, asks: &[(usize, Simple); N]) -> Option<Seen> {
    Look { asks: asks.map(|(offset, simple)| (offset, Exact(simple.last))) }.find(text, at, ahead)
}

#[inline(never)]
fn folded<const N: usize>(text: &[u8], at: usize, ahead: usize, asks: &[(usize, Simple); N]) -> Option<Seen> {
    Look { asks: asks.map(|(offset, simple)| (offset, Folded(simple))) }.find(text, at, ahead)
}

#[inline(never)]
fn ranges<const N: usize>(text: &[u8], at: usize, ahead: usize, asks: &[(usize, Simple); N]) -> Option<Seen> {
    Look { asks: asks.map(|(offset, simple)| (offset, InRange(simple))) }.find(text, at, ahead)
}

/// Compiled with the lookups that `Scan::of` has asked for.
#[inline(never)]
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "ssse3"))]
fn halves<const N: usize>(text: &[u8], at: usize, ahead: usize, asks: &[(usize, Tables); N]) -> Option<Seen> {
    // Not by `map`, whose closure would have no vector registers to return these in.
    let mut all = [(0, Halves([Bytes::new(&[0; WIDTH]); 2])); N];
    for (to, (offset, [low, high])) in all.iter_mut().zip(asks) {
        *to = (*offset, Halves([Bytes::new(low), Bytes::new(high)]));
    }
    Look { asks: all }.find(text, at, ahead)
}

/// Nanoseconds per byte: of the first two questions, of the others for each turn in which those found something, and of
/// what looks like a match.
fn cost(each: f64, rates: &[f64]) -> f64 {
    let first = rates[rates.len().min(2) - 1];
    let further = rates.len().saturating_sub(2) as f64;
    let turns = 1.0 - (1.0 - first.min(1.0)).powi(TURN as i32);
    PER_BYTE + each * (rates.len().min(2) as f64 + turns * (further + 1.0)) + rates[rates.len() - 1] * PER_CANDIDATE
}

impl Scan {
    /// The cheapest scan for these beginnings.
    pub fn of(sequences: &[Sequence]) -> Option<Self> {
        let mut found: Vec<Self> = Vec::new();
        for width in 1..=WIDEST {
            if let [sequence] = sequences
                && let Some(Places { places, rates }) = Places::choose(sequence, width)
            {
                let ahead = places.iter().map(|(offset, _)| *offset).max().unwrap_or_default();
                let folded = places.iter().any(|(_, simple)| simple.mask != 0);
                let ranges = places.iter().any(|(_, simple)| simple.first != simple.last);
                let (kind, each) = match (ranges, folded) {
                    (true, _) => (Kind::Ranges(places), PER_RANGE),
                    (false, true) => (Kind::Folded(places), 1.3 * PER_PLACE),
                    (false, false) => (Kind::Exact(places), PER_PLACE),
                };
                found.push(Self { kind, offsets: [0, 0], ahead, cost: cost(each, &rates) });
            }
            if can_pick() {
                let windows = Windows::choose(sequences, width);
                let (ahead, offsets, cost) = (windows.ahead, windows.offsets, cost(PER_LOOKUP, &windows.rates));
                found.push(Self { kind: Kind::Halves(windows.tables()), offsets, ahead, cost });
            }
        }
        found.into_iter().min_by(|a, b| a.cost.total_cmp(&b.cost)).filter(|scan| scan.cost < AUTOMATON / 2.0)
    }

    /// Nanoseconds per byte of a text, as expected.
    pub fn cost(&self) -> f64 {
        self.cost
    }

    /// Where the first match at or after `from` may begin; `None` if there is none. `seen` is what the search before
    /// found in this text.
    #[inline]
    pub fn find(&self, text: &[u8], from: usize, seen: &mut Seen) -> Option<Candidate> {
        let [least, most] = self.offsets;
        let mut at = from + least;
        if seen.bits != 0 {
            let past = at.saturating_sub(seen.start);
            seen.bits &= u64::MAX.checked_shl(past as u32).unwrap_or(0);
            // The last places of a turn are none where it is one of the end.
            at = at.max(seen.start + if text.len() - seen.start < CHUNK { WIDTH } else { TURN });
        }
        if seen.bits == 0 {
            *seen = self.look(text, at)?;
        }
        let found = seen.start + seen.bits.trailing_zeros() as usize;
        Some(Candidate { first: from.max(found.saturating_sub(most)), last: found - least })
    }

    fn look(&self, text: &[u8], at: usize) -> Option<Seen> {
        match &self.kind {
            Kind::Exact(asks) => find!(exact, asks, text, at, self.ahead),
            Kind::Folded(asks) => find!(folded, asks, text, at, self.ahead),
            Kind::Ranges(asks) => find!(ranges, asks, text, at, self.ahead),
            // SAFETY: `Scan::of` has asked whether there are lookups before it made such a kind.
            #[cfg_attr(not(target_arch = "x86_64"), expect(unused_unsafe, reason = "only x86-64's needs a feature"))]
            Kind::Halves(asks) => unsafe { find!(halves, asks, text, at, self.ahead) },
        }
    }
}
