//! Packing: best fit, longest first. Deterministic, and within 11/9 of the fewest bins (Johnson 1973).

use std::collections::BTreeSet;

/// Bins of at most `most` tokens, each an ascending list of sample numbers, in the order of their first samples.
pub fn pack(lengths: &[usize], most: usize) -> Vec<Vec<u32>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|sample| (std::cmp::Reverse(lengths[*sample]), *sample));
    let mut bins: Vec<Vec<u32>> = Vec::new();
    // Room and number of every bin with room.
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for sample in order {
        let length = lengths[sample];
        let found = open.range((length, 0)..).next().copied();
        let (room, bin) = match found {
            Some((room, bin)) => {
                open.remove(&(room, bin));
                (room, bin)
            }
            None => {
                bins.push(Vec::new());
                (most.max(length), bins.len() - 1)
            }
        };
        bins[bin].push(sample as u32);
        if room > length {
            open.insert((room - length, bin));
        }
    }
    for bin in &mut bins {
        bin.sort_unstable();
    }
    bins.sort_by_key(|bin| bin.first().copied());
    bins
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::pack;

    proptest! {
        #[test]
        fn every_sample_is_in_one_bin_that_holds_it(lengths in prop::collection::vec(1usize..300, 0..400)) {
            let bins = pack(&lengths, 300);
            let mut seen: Vec<u32> = bins.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
            let full = |bin: &Vec<u32>| bin.iter().map(|sample| lengths[*sample as usize]).sum::<usize>();
            prop_assert!(bins.iter().all(|bin| !bin.is_empty() && bin.is_sorted() && full(bin) <= 300));
            // No two bins could be one.
            let mut sizes: Vec<usize> = bins.iter().map(full).collect();
            sizes.sort_unstable();
            prop_assert!(sizes.len() < 2 || sizes[0] + sizes[1] > 300);
        }
    }

    #[test]
    fn fills_bins_tightly() {
        assert_eq!(pack(&[6, 4, 5, 5, 3, 7], 10), [vec![0, 1], vec![2, 3], vec![4, 5]]);
    }
}
