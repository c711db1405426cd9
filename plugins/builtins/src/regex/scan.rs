//! Finds where a match may begin, sixteen bytes at a time.

use super::beginnings::{LONGEST, Sequence};
use super::windows::{Places, Simple, Tables, WIDEST, Windows};
use crate::vector::nibbles::can_pick;
use crate::vector::{Bytes, WIDTH};

/// Bytes per turn of the loop: WebAssembly asks for the time in every turn.
const TURN: usize = 4 * WIDTH;

/// A turn's bytes and those that its last places look ahead to.
const CHUNK: usize = TURN + LONGEST;

/// Texts shorter than this are copied to where there are zeros behind them.
const SHORT: usize = WIDTH + LONGEST;

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
    /// The same, where the first two places say yes too often to ask for them before the others.
    HalvesAtOnce(Vec<(usize, Tables)>),
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

/// The sixteen bytes at some offset behind sixteen places. Types rather than closures, which are not always inlined.
trait Load: Copy {
    fn load(self, offset: usize) -> Bytes;
}

#[derive(Clone, Copy)]
struct In<'a, const N: usize> {
    chunk: &'a [u8; N],
    at: usize,
}

impl<const N: usize> Load for In<'_, N> {
    #[inline(always)]
    fn load(self, offset: usize) -> Bytes {
        let mut block = [0; WIDTH];
        // Offsets are below `LONGEST`, which the compiler then need not check.
        let at = self.at + (offset & (LONGEST - 1));
        block.copy_from_slice(&self.chunk[at..at + WIDTH]);
        Bytes::new(&block)
    }
}

#[derive(Clone, Copy)]
struct End<'a> {
    text: &'a [u8],
    start: usize,
}

impl Load for End<'_> {
    #[inline(always)]
    fn load(self, offset: usize) -> Bytes {
        let at = self.start + offset;
        // Never past the end: nothing is looked at farther than `ahead`.
        let block = self.text.get(at..at + WIDTH).and_then(|block| block.try_into().ok());
        Bytes::new(block.unwrap_or(&[0; WIDTH]))
    }
}

/// The questions of one scan: the first `F` of all places, the others only in turns where those say yes. Written out
/// for the same reason.
#[derive(Clone, Copy)]
struct Look<A, const N: usize, const F: usize> {
    asks: [(usize, A); N],
}

impl<A: Ask, const N: usize, const F: usize> Look<A, N, F> {
    #[inline(always)]
    fn ask(&self, nth: usize, load: impl Load) -> Bytes {
        let (offset, ask) = self.asks[nth];
        ask.ask(load.load(offset))
    }

    /// Not 0 where a place may look like a match.
    #[inline(always)]
    fn first(&self, load: impl Load) -> Bytes {
        self.asked(self.ask(0, load), 1, F, load)
    }

    /// The places of sixteen that do, of those that may.
    #[inline(always)]
    fn all(&self, found: Bytes, load: impl Load) -> u64 {
        u64::from(!self.asked(found, F, N, load).is(0).bits() & 0xffff)
    }

    /// What is left of `found` by the questions from one to another.
    #[inline(always)]
    fn asked(&self, mut found: Bytes, from: usize, to: usize, load: impl Load) -> Bytes {
        if from <= 1 && to > 1 {
            found = found.and(self.ask(1, load));
        }
        if from <= 2 && to > 2 {
            found = found.and(self.ask(2, load));
        }
        if from <= 3 && to > 3 {
            found = found.and(self.ask(3, load));
        }
        found
    }

    /// The places of a turn.
    #[inline(always)]
    fn turn(&self, chunk: &[u8; CHUNK]) -> u64 {
        let load = |at: usize| In { chunk, at };
        let [a, b] = [self.first(load(0)), self.first(load(WIDTH))];
        let [c, d] = [self.first(load(2 * WIDTH)), self.first(load(3 * WIDTH))];
        if !a.or(b).or(c.or(d)).any() {
            return 0;
        }
        let [a, b] = [self.all(a, load(0)), self.all(b, load(WIDTH))];
        let [c, d] = [self.all(c, load(2 * WIDTH)), self.all(d, load(3 * WIDTH))];
        a | b << WIDTH | c << (2 * WIDTH) | d << (3 * WIDTH)
    }

    /// Whether no place of two turns may look like a match.
    #[inline(always)]
    fn is_quiet(&self, chunk: &[u8; TURN + CHUNK]) -> bool {
        let load = |at: usize| In { chunk, at };
        let [a, b] = [self.first(load(0)), self.first(load(WIDTH))];
        let [c, d] = [self.first(load(2 * WIDTH)), self.first(load(3 * WIDTH))];
        let [e, f] = [self.first(load(4 * WIDTH)), self.first(load(5 * WIDTH))];
        let [g, h] = [self.first(load(6 * WIDTH)), self.first(load(7 * WIDTH))];
        !a.or(b).or(c.or(d)).or(e.or(f).or(g.or(h))).any()
    }

    /// The first places at or after `at` that look like a match, all of which have as many bytes behind them as
    /// `ahead`, which is as far as is looked. The text is not shorter than [`SHORT`].
    #[inline(always)]
    fn find(&self, text: &[u8], mut at: usize, ahead: usize) -> Option<Seen> {
        let end = text.len().saturating_sub(ahead);
        if end < WIDTH {
            return None;
        }
        loop {
            while let Some(Ok(chunk)) = text.get(at..at + TURN + CHUNK).map(<&[u8; TURN + CHUNK]>::try_from) {
                if !self.is_quiet(chunk) {
                    break;
                }
                at += 2 * TURN;
            }
            let Some(Ok(chunk)) = text.get(at..at + CHUNK).map(<&[u8; CHUNK]>::try_from) else { break };
            let bits = self.turn(chunk);
            if bits != 0 {
                return Some(Seen { start: at, bits });
            }
            at += TURN;
        }
        while at < end {
            // The last sixteen are looked at together, even if some of them have been before.
            let start = at.min(end - WIDTH);
            let load = End { text, start };
            let found = self.all(self.first(load), load);
            let bits = found & u64::MAX << (at - start);
            if bits != 0 {
                return Some(Seen { start, bits });
            }
            at = start + WIDTH;
        }
        None
    }
}

/// Looks for as many places as there are, of which two are asked for first.
macro_rules! find {
    ($find:ident, $asks:expr, $text:expr, $at:expr, $ahead:expr) => {
        match $asks.as_slice() {
            [] => None,
            [a] => $find::<1, 1>($text, $at, $ahead, &[*a]),
            [a, b] => $find::<2, 2>($text, $at, $ahead, &[*a, *b]),
            [a, b, c] => $find::<3, 2>($text, $at, $ahead, &[*a, *b, *c]),
            [a, b, c, d, ..] => $find::<4, 2>($text, $at, $ahead, &[*a, *b, *c, *d]),
        }
    };
}

type Asked<'a, T, const N: usize> = &'a [(usize, T); N];

#[inline(never)]
fn exact<const N: usize, const F: usize>(
    text: &[u8],
    at: usize,
    ahead: usize,
    asks: Asked<'_, Simple, N>,
) -> Option<Seen> {
    Look::<_, N, F> { asks: asks.map(|(offset, simple)| (offset, Exact(simple.last))) }.find(text, at, ahead)
}

#[inline(never)]
fn folded<const N: usize, const F: usize>(
    text: &[u8],
    at: usize,
    ahead: usize,
    asks: Asked<'_, Simple, N>,
) -> Option<Seen> {
    Look::<_, N, F> { asks: asks.map(|(offset, simple)| (offset, Folded(simple))) }.find(text, at, ahead)
}

#[inline(never)]
fn ranges<const N: usize, const F: usize>(
    text: &[u8],
    at: usize,
    ahead: usize,
    asks: Asked<'_, Simple, N>,
) -> Option<Seen> {
    Look::<_, N, F> { asks: asks.map(|(offset, simple)| (offset, InRange(simple))) }.find(text, at, ahead)
}

/// Compiled with the lookups that `Scan::of` has asked for.
#[inline(never)]
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "ssse3"))]
fn halves<const N: usize, const F: usize>(
    text: &[u8],
    at: usize,
    ahead: usize,
    asks: Asked<'_, Tables, N>,
) -> Option<Seen> {
    // Not by `map`, whose closure would have no vector registers to return these in.
    let mut all = [(0, Halves([Bytes::new(&[0; WIDTH]); 2])); N];
    for (to, (offset, [low, high])) in all.iter_mut().zip(asks) {
        *to = (*offset, Halves([Bytes::new(low), Bytes::new(high)]));
    }
    Look::<_, N, F> { asks: all }.find(text, at, ahead)
}

/// Nanoseconds per byte: of the first two questions, of the others for each turn in which those found something, and of
/// what looks like a match.
fn cost(each: f64, rates: &[f64], first: usize) -> f64 {
    let first = first.min(rates.len());
    let further = rates.len() - first;
    // Two turns are asked for at once, and then each again.
    let quiet = (1.0 - rates[first - 1].min(1.0)).powi(2 * TURN as i32);
    let asked = first as f64 + (1.0 - quiet) * (first + further) as f64;
    PER_BYTE + each * asked + rates[rates.len() - 1] * PER_CANDIDATE
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
                found.push(Self { kind, offsets: [0, 0], ahead, cost: cost(each, &rates, 2) });
            }
            let shortest = sequences.iter().map(|sequence| sequence.sets.len()).min().unwrap_or_default();
            if can_pick() && width <= shortest {
                let windows = Windows::choose(sequences, width);
                let offsets = windows.offsets;
                let [apart, at_once] = [2, width].map(|first| cost(PER_LOOKUP, &windows.rates, first));
                let tables = windows.tables();
                let kind = if at_once < apart { Kind::HalvesAtOnce(tables) } else { Kind::Halves(tables) };
                found.push(Self { kind, offsets, ahead: width - 1, cost: apart.min(at_once) });
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
        if text.len() < SHORT { self.look_short(text, at) } else { self.look_long(text, at) }
    }

    #[cold]
    #[inline(never)]
    fn look_short(&self, text: &[u8], at: usize) -> Option<Seen> {
        let end = text.len().saturating_sub(self.ahead);
        if at >= end {
            return None;
        }
        let mut padded = [0; SHORT + CHUNK];
        padded[..text.len()].copy_from_slice(text);
        let mut seen = self.look_long(&padded, at)?;
        // Zeros may look like a match.
        let inside = end.saturating_sub(seen.start);
        seen.bits &= !u64::MAX.checked_shl(inside as u32).unwrap_or(0);
        (seen.bits != 0).then_some(seen)
    }

    fn look_long(&self, text: &[u8], at: usize) -> Option<Seen> {
        match &self.kind {
            Kind::Exact(asks) => find!(exact, asks, text, at, self.ahead),
            Kind::Folded(asks) => find!(folded, asks, text, at, self.ahead),
            Kind::Ranges(asks) => find!(ranges, asks, text, at, self.ahead),
            // SAFETY: `Scan::of` has asked whether there are lookups before it made such a kind.
            #[cfg_attr(not(target_arch = "x86_64"), expect(unused_unsafe, reason = "only x86-64's needs a feature"))]
            Kind::Halves(asks) => unsafe { find!(halves, asks, text, at, self.ahead) },
            // SAFETY: as above.
            #[cfg_attr(not(target_arch = "x86_64"), expect(unused_unsafe, reason = "only x86-64's needs a feature"))]
            Kind::HalvesAtOnce(asks) => unsafe {
                match asks.as_slice() {
                    [a, b, c] => halves::<3, 3>(text, at, self.ahead, &[*a, *b, *c]),
                    [a, b, c, d] => halves::<4, 4>(text, at, self.ahead, &[*a, *b, *c, *d]),
                    _ => find!(halves, asks, text, at, self.ahead),
                }
            },
        }
    }
}
