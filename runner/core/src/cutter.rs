//! Where pieces of a stage's work end: by what the items say, so that one added or changed anywhere moves no end but its own.

/// How large pieces are, in items and in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceBounds {
    /// A piece has about this many items, or bytes, whichever comes first …
    pub usual: (u64, u64),
    /// … at least one of these …
    pub least: (u64, u64),
    /// … and at most both of these, the item that exceeds the bytes included.
    pub most: (u64, u64),
}

/// Takes items one after the other and says behind which a piece ends.
#[derive(Debug, Clone)]
pub struct Cutter {
    bounds: PieceBounds,
    items: u64,
    bytes: u64,
}

impl Cutter {
    #[must_use]
    pub fn new(bounds: PieceBounds) -> Self {
        Self { bounds, items: 0, bytes: 0 }
    }

    /// Takes an item of so many bytes into the piece; true if the piece ends with it. `draw` makes a number of the item's
    /// content, all values equally likely, and is asked only where the piece may end; `None` says nothing.
    pub fn ends_with(&mut self, bytes: u64, draw: impl FnOnce() -> Option<u64>) -> bool {
        let PieceBounds { usual, least, most } = self.bounds;
        self.items += 1;
        self.bytes += bytes;
        let full = self.items >= most.0 || self.bytes >= most.1;
        let enough = self.items >= least.0 || self.bytes >= least.1;
        // The more bytes an item has, the likelier it ends a piece, so that pieces of long items are as large as of short ones.
        let chance = (u64::MAX / usual.0).max((u64::MAX / usual.1).saturating_mul(bytes));
        let ends = full || enough && draw().is_some_and(|drawn| drawn <= chance);
        if ends {
            (self.items, self.bytes) = (0, 0);
        }
        ends
    }
}

/// Spreads a hash so that all its bits depend on all of them (the finaliser of MurmurHash3 without its last step).
#[must_use]
pub fn mix_bits(hash: u64) -> u64 {
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: PieceBounds = PieceBounds { usual: (8, 800), least: (4, 400), most: (16, 1600) };

    fn lengths(bytes: u64, drawn: Option<u64>) -> Vec<usize> {
        let mut cutter = Cutter::new(BOUNDS);
        let ends: Vec<usize> = (1..=40).filter(|_| cutter.ends_with(bytes, || drawn)).collect();
        ends.iter().scan(0, |before, end| Some(end - std::mem::replace(before, *end))).collect()
    }

    #[test]
    fn pieces_keep_to_their_bounds() {
        assert_eq!(lengths(1, None), [16, 16], "the most items");
        assert_eq!(lengths(1, Some(0)), [4; 10], "the least items");
        assert_eq!(lengths(200, None), [8; 5], "the most bytes");
        assert_eq!(lengths(200, Some(0)), [2; 20], "the least bytes");
        assert_eq!(lengths(5000, None), [1; 40], "an item above all bounds");
    }

    #[test]
    fn what_cannot_end_a_piece_is_not_looked_at() {
        let mut cutter = Cutter::new(BOUNDS);
        for _ in 1..BOUNDS.least.0 {
            assert!(!cutter.ends_with(1, || unreachable!("too few to end")));
        }
    }
}
