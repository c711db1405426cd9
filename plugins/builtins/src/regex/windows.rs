//! What to look for in a text to find where a match may begin: a few bytes of each beginning, chosen to be rare.

use super::beginnings::{ByteSet, LONGEST, Sequence};
use crate::vector::WIDTH;

/// Bytes of a window.
pub(super) const WIDEST: usize = 4;

/// Kinds of windows that are looked for at once: bits of a byte.
const BUCKETS: usize = 8;

/// How often an ASCII byte is met, of 65,536: counted in 9 MB of documentation, programs and word problems in English.
const COMMON: [u16; 128] = [
    5, 1, 1, 1, 1, 1, 1, 1, 1, 72, 1672, 1, 1, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 9617, 9, 164,
    188, 52, 9, 18, 108, 297, 285, 196, 91, 459, 1149, 1006, 482, 466, 423, 454, 220, 189, 177, 164, 139, 152, 160,
    408, 66, 117, 325, 230, 22, 61, 399, 113, 287, 214, 386, 174, 142, 115, 374, 39, 45, 235, 177, 274, 284, 236, 16,
    279, 383, 464, 151, 60, 84, 46, 64, 21, 104, 83, 102, 39, 290, 296, 2917, 690, 1556, 1497, 4821, 878, 879, 1350,
    2832, 103, 270, 1781, 1242, 2651, 2942, 1256, 62, 2569, 2675, 3561, 1271, 378, 403, 253, 613, 72, 32, 45, 32, 28,
    1,
];

/// The same of each other byte. Rare in those texts, but a fifth of all in others.
const COMMON_BEYOND: u16 = 100;

fn common(byte: u8) -> f64 {
    f64::from(COMMON.get(usize::from(byte)).copied().unwrap_or(COMMON_BEYOND)) / 65_536.0
}

/// How often bytes are met together that are met alone this often. Bytes of texts attract each other.
fn together(shares: impl Iterator<Item = f64>) -> f64 {
    shares.reduce(|all, share| all * (2.0 * share).min(1.0)).unwrap_or(1.0)
}

/// What share of the bytes of texts belong to a set.
fn share(set: ByteSet) -> f64 {
    set.iter().map(common).sum::<f64>().min(1.0)
}

/// The bytes whose lower and higher four bits are each among some: what a lookup by halves can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halves {
    low: u16,
    high: u16,
}

impl Halves {
    fn of(set: ByteSet) -> Self {
        set.iter().fold(Self { low: 0, high: 0 }, |halves, byte| {
            halves.union(Self { low: 1 << (byte & 15), high: 1 << (byte >> 4) })
        })
    }

    fn union(self, other: Self) -> Self {
        Self { low: self.low | other.low, high: self.high | other.high }
    }

    fn share(self, common: &[f64; 256]) -> f64 {
        let bits = |bits: u16| (0..16usize).filter(move |bit| bits >> bit & 1 == 1);
        bits(self.high).map(|high| bits(self.low).map(|low| common[high << 4 | low]).sum::<f64>()).sum::<f64>().min(1.0)
    }
}

/// One kind of windows, by places; those beyond a beginning's end hold anything.
type Bucket = [Halves; WIDEST];

/// For the lower and the higher half of a byte, the buckets that it may be of.
pub(super) type Tables = [[u8; WIDTH]; 2];

/// Windows to look for by halves.
pub(super) struct Windows {
    buckets: Vec<Bucket>,
    /// Places of the windows, those first that tell most.
    order: Vec<usize>,
    /// How far behind the start of its match a window is, at least and at most.
    pub offsets: [usize; 2],
    /// How many of the places in a text are expected to look like one, by the first place, by the first two, ….
    pub rates: Vec<f64>,
}

impl Windows {
    /// The rarest windows of `width` bytes, which no sequence is shorter than.
    pub fn choose(sequences: &[Sequence], width: usize) -> Self {
        let table: [f64; 256] = std::array::from_fn(|byte| common(byte as u8));
        let rate = |bucket: &Bucket| together(bucket.iter().take(width).map(|halves| halves.share(&table)));
        let mut buckets: Vec<(Bucket, f64)> = Vec::new();
        let mut offsets = [usize::MAX, 0];
        for sequence in sequences {
            let last = sequence.sets.len().saturating_sub(width);
            let windows = (0..=last).map(|offset| {
                let place = |place: usize| sequence.sets.get(offset + place).copied().unwrap_or(ByteSet::ALL);
                let bucket = std::array::from_fn(|at| Halves::of(if at < width { place(at) } else { ByteSet::ALL }));
                (offset, bucket, rate(&bucket))
            });
            // All that is between the start and a window is read once more for each that is found.
            let cost = |window: &(usize, Bucket, f64)| window.2 * (1.0 + 0.1 * window.0 as f64);
            let Some((offset, bucket, share)) = windows.min_by(|a, b| cost(a).total_cmp(&cost(b))) else { continue };
            offsets = [offsets[0].min(offset), offsets[1].max(offset)];
            if !buckets.iter().any(|(known, _)| *known == bucket) {
                buckets.push((bucket, share));
            }
        }
        merge(&mut buckets, rate);
        let buckets: Vec<Bucket> = buckets.into_iter().map(|(bucket, _)| bucket).collect();
        let mut order: Vec<usize> = Vec::new();
        let mut rates = Vec::new();
        while order.len() < width {
            let rate = |next: usize| -> f64 {
                let places =
                    |bucket: &Bucket| together(order.iter().chain([&next]).map(|at| bucket[*at].share(&table)));
                buckets.iter().map(places).sum()
            };
            let further = (0..width).filter(|place| !order.contains(place)).map(|place| (place, rate(place)));
            let Some((place, rate)) = further.min_by(|a, b| a.1.total_cmp(&b.1)) else { break };
            order.push(place);
            rates.push(rate);
        }
        Self { buckets, order, offsets, rates }
    }

    /// What to look up at which place.
    pub fn tables(&self) -> Vec<(usize, Tables)> {
        let table = |half: &dyn Fn(&Bucket) -> u16| -> [u8; WIDTH] {
            std::array::from_fn(|entry| {
                let bits = self.buckets.iter().enumerate().filter(|(_, bucket)| half(bucket) >> entry & 1 == 1);
                bits.fold(0, |bits, (at, _)| bits | 1 << at)
            })
        };
        let tables = |place: usize| [table(&|bucket| bucket[place].low), table(&|bucket| bucket[place].high)];
        self.order.iter().map(|place| (*place, tables(*place))).collect()
    }
}

/// Unites the two that lose least by it until there are few enough.
fn merge(buckets: &mut Vec<(Bucket, f64)>, rate: impl Fn(&Bucket) -> f64) {
    let union = |a: &Bucket, b: &Bucket| -> Bucket { std::array::from_fn(|place| a[place].union(b[place])) };
    let loss = |a: &(Bucket, f64), b: &(Bucket, f64)| rate(&union(&a.0, &b.0)) - a.1 - b.1;
    let count = buckets.len();
    let mut losses = vec![f64::INFINITY; count * count];
    for a in 0..count {
        for b in 0..a {
            losses[a * count + b] = loss(&buckets[a], &buckets[b]);
        }
    }
    let mut live: Vec<usize> = (0..count).collect();
    while live.len() > BUCKETS {
        let pairs = live.iter().flat_map(|a| live.iter().take_while(move |b| *b < a).map(move |b| (*a, *b)));
        let least = pairs.min_by(|x, y| losses[x.0 * count + x.1].total_cmp(&losses[y.0 * count + y.1]));
        let Some((gone, kept)) = least else { break };
        let united = union(&buckets[gone].0, &buckets[kept].0);
        buckets[kept] = (united, rate(&united));
        live.retain(|bucket| *bucket != gone);
        for other in live.iter().copied().filter(|other| *other != kept) {
            losses[kept.max(other) * count + kept.min(other)] = loss(&buckets[kept], &buckets[other]);
        }
    }
    *buckets = live.into_iter().map(|bucket| buckets[bucket]).collect();
}

/// A set that needs no lookup: a byte, with some bits set before, is in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Simple {
    pub mask: u8,
    pub first: u8,
    pub last: u8,
}

impl Simple {
    fn of(set: ByteSet) -> Option<Self> {
        let first = set.iter().next()?;
        let last = set.iter().last()?;
        let bits = first ^ last;
        // All bytes tell nothing, and no range of a vector holds them.
        if set == ByteSet::range(first, last) && set != ByteSet::ALL {
            return Some(Self { mask: 0, first, last });
        }
        // The two cases of a letter.
        let pair = ByteSet::range(first, first).union(ByteSet::range(last, last));
        (set == pair && bits.count_ones() == 1).then_some(Self { mask: bits, first: last, last })
    }
}

/// Places of the only beginning.
pub(super) struct Places {
    /// Offsets from the start of the match and what is there, the rarest first.
    pub places: Vec<(usize, Simple)>,
    /// As those of [`Windows`].
    pub rates: Vec<f64>,
}

impl Places {
    /// The `count` rarest.
    pub fn choose(sequence: &Sequence, count: usize) -> Option<Self> {
        let mut found: Vec<(usize, Simple, f64)> = (sequence.sets.iter().enumerate().take(LONGEST))
            .filter_map(|(at, set)| Some((at, Simple::of(*set)?, share(*set))))
            .collect();
        found.sort_by(|a, b| a.2.total_cmp(&b.2).then(a.0.cmp(&b.0)));
        if found.len() < count {
            return None;
        }
        let rates = (1..=count).map(|count| together(found[..count].iter().map(|(_, _, share)| *share))).collect();
        Some(Self { places: found[..count].iter().map(|(at, simple, _)| (*at, *simple)).collect(), rates })
    }
}
