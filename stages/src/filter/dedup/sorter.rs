//! Sorting more records than fit into memory: sorted runs on disk, merged as they are read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::StageResult;

/// Runs that are merged at once; more are first merged into one.
const FAN_IN: usize = 64;
/// Of the buffer of one run.
const RUN_BUFFER: usize = 32 << 10;

/// Something of a fixed size that is sorted.
pub(in crate::filter) trait Record: Copy + Ord {
    const BYTES: usize;

    fn put(self, out: &mut [u8]);

    fn get(bytes: &[u8]) -> Self;
}

/// A pair of numbers: a key and a row, or two rows.
impl Record for (u64, u64) {
    const BYTES: usize = 16;

    fn put(self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.0.to_le_bytes());
        out[8..].copy_from_slice(&self.1.to_le_bytes());
    }

    fn get(bytes: &[u8]) -> Self {
        (word(&bytes[..8]), word(&bytes[8..]))
    }
}

/// A digest and a row.
impl Record for (u128, u64) {
    const BYTES: usize = 24;

    fn put(self, out: &mut [u8]) {
        out[..16].copy_from_slice(&self.0.to_le_bytes());
        out[16..].copy_from_slice(&self.1.to_le_bytes());
    }

    fn get(bytes: &[u8]) -> Self {
        (u128::from(word(&bytes[..8])) | u128::from(word(&bytes[8..16])) << 64, word(&bytes[16..]))
    }
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// Sorters of one space that may hold records at the same time.
const AT_ONCE: usize = 4;

/// Where runs go, and how many bytes of records may wait in memory, in all sorters together.
#[derive(Debug, Clone)]
pub(in crate::filter) struct SortSpace {
    pub directory: Utf8PathBuf,
    pub memory: usize,
}

/// Takes records in any order.
pub(in crate::filter) struct Sorter<R> {
    space: SortSpace,
    name: String,
    most: usize,
    waiting: Vec<R>,
    runs: Vec<Utf8PathBuf>,
    written: usize,
}

impl<R: Record> Sorter<R> {
    /// `name` is of its own in the directory of `space`.
    pub fn new(space: &SortSpace, name: &str) -> StageResult<Self> {
        fs_err::create_dir_all(&space.directory)?;
        let most = (space.memory / AT_ONCE / size_of::<R>()).max(1_024);
        Ok(Self {
            space: space.clone(),
            name: name.to_owned(),
            most,
            waiting: Vec::new(),
            runs: Vec::new(),
            written: 0,
        })
    }

    pub fn push(&mut self, record: R) -> StageResult<()> {
        if self.waiting.len() == self.most {
            self.spill()?;
        }
        if self.waiting.capacity() == self.waiting.len() {
            // Doubling would overshoot what is allowed.
            let more = self.waiting.len().max(1_024).min(self.most - self.waiting.len());
            self.waiting.reserve_exact(more);
        }
        self.waiting.push(record);
        Ok(())
    }

    fn next_path(&mut self) -> Utf8PathBuf {
        self.written += 1;
        self.space.directory.join(format!("{}-{:06}", self.name, self.written))
    }

    fn spill(&mut self) -> StageResult<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.waiting.sort_unstable();
        let path = self.next_path();
        write_run(&path, self.waiting.iter().map(|record| Ok(*record)))?;
        self.waiting.clear();
        self.runs.push(path);
        if self.runs.len() == FAN_IN {
            let path = self.next_path();
            write_run(&path, Merge::<R>::open(&self.runs)?)?;
            for run in self.runs.drain(..) {
                fs_err::remove_file(run)?;
            }
            self.runs.push(path);
        }
        Ok(())
    }

    /// All records, sorted; can be read more than once.
    pub fn finish(mut self) -> StageResult<Arc<Sorted<R>>> {
        if self.runs.is_empty() {
            self.waiting.sort_unstable();
            return Ok(Arc::new(Sorted { records: self.waiting, runs: Vec::new() }));
        }
        self.spill()?;
        Ok(Arc::new(Sorted { records: Vec::new(), runs: self.runs }))
    }
}

fn write_run<R: Record>(path: &Utf8Path, records: impl Iterator<Item = StageResult<R>>) -> StageResult<()> {
    let mut file = BufWriter::with_capacity(RUN_BUFFER, fs_err::File::create(path)?);
    let mut bytes = vec![0; R::BYTES];
    for record in records {
        record?.put(&mut bytes);
        file.write_all(&bytes)?;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    Ok(())
}

/// Sorted records, in memory or in runs that are removed with this.
pub(in crate::filter) struct Sorted<R> {
    records: Vec<R>,
    runs: Vec<Utf8PathBuf>,
}

impl<R: Record> Sorted<R> {
    /// From the start, each different record once.
    pub fn distinct(self: &Arc<Self>) -> StageResult<Distinct<R>> {
        Ok(Distinct { source: Arc::clone(self), at: 0, merge: Merge::open(&self.runs)?, last: None })
    }
}

/// Reads sorted records, each different one once.
pub(in crate::filter) struct Distinct<R> {
    source: Arc<Sorted<R>>,
    at: usize,
    merge: Merge<R>,
    last: Option<R>,
}

impl<R: Record> Iterator for Distinct<R> {
    type Item = StageResult<R>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let next = match self.source.records.get(self.at) {
                Some(record) => {
                    self.at += 1;
                    *record
                }
                None => match self.merge.next()? {
                    Ok(record) => record,
                    Err(error) => return Some(Err(error)),
                },
            };
            if self.last.replace(next) != Some(next) {
                return Some(Ok(next));
            }
        }
    }
}

impl<R> Drop for Sorted<R> {
    fn drop(&mut self) {
        for run in &self.runs {
            // The directory is emptied after the stage anyway.
            let _ = fs_err::remove_file(run);
        }
    }
}

/// Reads sorted runs as one.
struct Merge<R> {
    runs: Vec<BufReader<fs_err::File>>,
    next: BinaryHeap<Reverse<(R, usize)>>,
    bytes: Vec<u8>,
}

impl<R: Record> Merge<R> {
    fn open(paths: &[Utf8PathBuf]) -> StageResult<Self> {
        let open = |path: &Utf8PathBuf| Ok(BufReader::with_capacity(RUN_BUFFER, fs_err::File::open(path)?));
        let runs = paths.iter().map(open).collect::<StageResult<Vec<_>>>()?;
        let mut merge = Self { runs, next: BinaryHeap::new(), bytes: vec![0; R::BYTES] };
        for run in 0..merge.runs.len() {
            merge.refill(run)?;
        }
        Ok(merge)
    }

    fn refill(&mut self, run: usize) -> StageResult<()> {
        match self.runs[run].read_exact(&mut self.bytes) {
            Ok(()) => self.next.push(Reverse((R::get(&self.bytes), run))),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

impl<R: Record> Iterator for Merge<R> {
    type Item = StageResult<R>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((record, run)) = self.next.pop()?;
        Some(self.refill(run).map(|()| record))
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::*;

    fn space(directory: &Utf8Path, memory: usize) -> SortSpace {
        SortSpace { directory: directory.to_owned(), memory }
    }

    #[test]
    fn sorts_in_memory_and_on_disk_alike() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        let mut state = 3u64;
        let records: Vec<(u64, u64)> = (0..200_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 50, state >> 60)
            })
            .collect();
        let mut wanted = records.clone();
        wanted.sort_unstable();
        wanted.dedup();
        // The first makes 196 runs, which are merged in stages; the last stays in memory.
        for memory in [0, 1 << 20, 64 << 20] {
            let mut sorter = Sorter::new(&space(root, memory), "test").unwrap();
            records.iter().try_for_each(|record| sorter.push(*record)).unwrap();
            let sorted = sorter.finish().unwrap();
            assert_eq!(sorted.runs.is_empty(), memory > 1 << 20);
            for _ in 0..2 {
                assert!(sorted.distinct().unwrap().map(Result::unwrap).eq(wanted.iter().copied()));
            }
            drop(sorted);
            assert!(luthier_core::fs::walk_files(root).unwrap().is_empty());
        }
    }

    #[test]
    fn records_survive_the_disk() {
        let mut bytes = [0; 24];
        let record = (0x0123_4567_89ab_cdef_0011_2233_4455_6677u128, 0x8899_aabb_ccdd_eeff);
        record.put(&mut bytes);
        assert_eq!(<(u128, u64)>::get(&bytes), record);
    }
}
