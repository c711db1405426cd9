//! Clusters of rows that share a bucket key: of each cluster the first row stays.
//!
//! Everything is a sort of pairs on disk, so memory is what the sorter is given, whatever the number of rows and however
//! many of them are alike. Clusters are the connected components of the graph of shared keys. They are found by hanging
//! every row ever closer to the lowest row it is connected with (Kiveris et al. 2014, Connected Components in MapReduce and
//! Beyond: alternating large and small stars), so neither the order of rows nor of keys nor the memory shows in the result.

use std::sync::Arc;

use luthier_core::StageResult;

use super::sorter::{SortSpace, Sorted, Sorter};

/// Collects the keys of rows in row order.
pub(in crate::filter) struct KeySorter {
    space: SortSpace,
    keys: Sorter<(u64, u64)>,
    rows: u64,
}

/// Rows that are copies, ascending, each with the row that stays.
pub(in crate::filter) type Copies = Arc<Sorted<(u64, u64)>>;

impl KeySorter {
    pub fn new(space: &SortSpace) -> StageResult<Self> {
        Ok(Self { space: space.clone(), keys: Sorter::new(space, "keys")?, rows: 0 })
    }

    /// Adds the next row; `None` if it is like no other.
    pub fn add(&mut self, keys: Option<&[u64]>) -> StageResult<()> {
        for (bucket, key) in keys.unwrap_or_default().iter().enumerate() {
            // Equal keys meet only within their bucket.
            let key = key ^ (bucket as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.keys.push((key, self.rows))?;
        }
        self.rows += 1;
        Ok(())
    }

    /// The copies of all clusters.
    pub fn resolve(self, mut cancelled: impl FnMut() -> StageResult<()>) -> StageResult<Copies> {
        let keys = self.keys.finish()?;
        let mut edges = Sorter::new(&self.space, "edges-0")?;
        let mut first = (0, 0);
        for (at, pair) in keys.distinct()?.enumerate() {
            let (key, row) = pair?;
            if at > 0 && key == first.0 {
                edges.push((row, first.1))?;
            } else {
                first = (key, row);
            }
            if at % (1 << 20) == 0 {
                cancelled()?;
            }
        }
        drop(keys);
        stars(&self.space, edges.finish()?, cancelled)
    }
}

/// Turns a graph, each edge with its higher row first, into a star per component: every other row with the lowest one.
fn stars(space: &SortSpace, mut edges: Copies, mut cancelled: impl FnMut() -> StageResult<()>) -> StageResult<Copies> {
    for round in 1.. {
        cancelled()?;
        let mut both = Sorter::new(space, &format!("both-{round}"))?;
        for edge in edges.distinct()? {
            let (high, low) = edge?;
            both.push((high, low))?;
            both.push((low, high))?;
        }
        let both = both.finish()?;
        // Each row tells the higher of its neighbours of the lowest row that it knows.
        let mut large = Sorter::new(space, &format!("large-{round}"))?;
        each_neighbour(
            &both,
            |row, lowest, neighbour| {
                if neighbour > row { large.push((neighbour, lowest.min(row))) } else { Ok(()) }
            },
        )?;
        drop(both);
        let large = large.finish()?;
        // Each row hangs itself and its lower neighbours on the lowest of them.
        let mut small = Sorter::new(space, &format!("edges-{round}"))?;
        each_neighbour(&large, |row, lowest, neighbour| {
            small.push(if neighbour == lowest { (row, lowest) } else { (neighbour, lowest) })
        })?;
        drop(large);
        let small = small.finish()?;
        let same = equal(&edges, &small)?;
        edges = small;
        if same {
            break;
        }
    }
    Ok(edges)
}

/// Calls with each row, its lowest neighbour and each neighbour, ascending.
fn each_neighbour(edges: &Copies, mut call: impl FnMut(u64, u64, u64) -> StageResult<()>) -> StageResult<()> {
    let mut current = None;
    for edge in edges.distinct()? {
        let (row, neighbour) = edge?;
        let lowest = match current {
            Some((same, lowest)) if same == row => lowest,
            _ => neighbour,
        };
        current = Some((row, lowest));
        call(row, lowest, neighbour)?;
    }
    Ok(())
}

fn equal(a: &Copies, b: &Copies) -> StageResult<bool> {
    let (mut a, mut b) = (a.distinct()?, b.distinct()?);
    loop {
        match (a.next().transpose()?, b.next().transpose()?) {
            (None, None) => return Ok(true),
            (a, b) if a != b => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::*;

    fn copies(keys: &[Option<Vec<u64>>], memory: usize) -> Vec<(u64, u64)> {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        let mut sorter = KeySorter::new(&SortSpace { directory: root.to_owned(), memory }).unwrap();
        keys.iter().try_for_each(|keys| sorter.add(keys.as_deref())).unwrap();
        let copies = sorter.resolve(|| Ok(())).unwrap();
        let found = copies.distinct().unwrap().map(Result::unwrap).collect();
        drop(copies);
        assert!(luthier_core::fs::walk_files(root).unwrap().is_empty());
        found
    }

    #[test]
    fn clusters_close_over_chains_and_keep_the_lowest_row() {
        // 0 and 1 meet only through 3; 2 has no words; 4 is alone; 5 meets 4's first bucket in its second: not a meeting.
        let keys = [Some(vec![1, 10]), Some(vec![2, 20]), None, Some(vec![1, 20]), Some(vec![7, 70]), Some(vec![8, 7])];
        assert_eq!(copies(&keys, 1 << 20), [(1, 0), (3, 0)]);
        assert!(copies(&[], 1 << 20).is_empty());
    }

    /// 90 MB of keys. One in three rows is a copy of the row before.
    #[test]
    #[ignore = "run by `memory_stays_below_a_ceiling`, in a process with little memory"]
    fn many_keys() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        let mut sorter = KeySorter::new(&SortSpace { directory: root.to_owned(), memory: 8 << 20 }).unwrap();
        let rows = 400_000u64;
        for row in 0..rows {
            let same = row - u64::from(row % 3 == 2);
            let keys: [u64; 14] =
                std::array::from_fn(|bucket| (same * 14 + bucket as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
            sorter.add(Some(&keys)).unwrap();
        }
        let copies = sorter.resolve(|| Ok(())).unwrap();
        let found = copies.distinct().unwrap().map(Result::unwrap);
        assert!(found.eq((0..rows).filter(|row| row % 3 == 2).map(|row| (row, row - 1))));
    }

    #[test]
    fn memory_stays_below_a_ceiling() {
        // Private writable memory of the process, 40 MiB: less than half of the keys alone.
        let script = "ulimit -d 40960 && exec \"$0\" --ignored --exact --test-threads 1 \"$1\"";
        let name = concat!(module_path!(), "::many_keys");
        let name = name.split_once("::").unwrap().1;
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    #[test]
    fn components_equal_those_of_a_union_find_whatever_the_memory() {
        let mut state = 9u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        // From a few large components with long chains to many small ones.
        for variety in [500u64, 3_000, 20_000] {
            let keys: Vec<Option<Vec<u64>>> =
                (0..4_000).map(|row| (row % 50 != 0).then(|| vec![next(variety), next(variety)])).collect();
            let mut roots: Vec<usize> = (0..keys.len()).collect();
            let root = |roots: &Vec<usize>, mut row: usize| {
                while roots[row] != row {
                    row = roots[row];
                }
                row
            };
            for a in 0..keys.len() {
                for b in 0..a {
                    let (Some(x), Some(y)) = (&keys[a], &keys[b]) else { continue };
                    if x[0] == y[0] || x[1] == y[1] {
                        let (a, b) = (root(&roots, a), root(&roots, b));
                        roots[a.max(b)] = a.min(b);
                    }
                }
            }
            let wanted: Vec<(u64, u64)> = (0..keys.len())
                .map(|row| (row as u64, root(&roots, row) as u64))
                .filter(|(row, root)| row != root)
                .collect();
            assert!(wanted.len() > 100, "{variety}: nothing to find");
            assert_eq!(copies(&keys, 64 << 20), wanted, "{variety}");
            assert_eq!(copies(&keys, 0), wanted, "{variety}, on disk");
        }
        // One chain through all rows, in an order that joins its ends last.
        let chain: Vec<Option<Vec<u64>>> = (0..3_000u64)
            .map(|row| Some(vec![(row * 1_777) % 3_000 / 2, 10_000 + ((row * 1_777) % 3_000).div_ceil(2)]))
            .collect();
        assert_eq!(copies(&chain, 0), (1..3_000).map(|row| (row, 0)).collect::<Vec<_>>());
    }
}
