//! Clusters of rows that share a bucket key: of each cluster the first row stays.
//!
//! The keys of each bucket go to a file of their own; resolving reads one file at a time, so memory is 20 bytes a row
//! whatever the length of the texts and the number of buckets. The result does not depend on the order of joins: the root
//! of a cluster is its lowest row.

use std::io::{BufReader, BufWriter, Read, Write};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{StageError, StageResult};

/// Collects the keys of rows in row order.
pub(in crate::filter) struct KeyFiles {
    files: Vec<(Utf8PathBuf, BufWriter<fs_err::File>)>,
    rows: u32,
}

impl KeyFiles {
    pub fn create(directory: &Utf8Path, buckets: usize) -> StageResult<Self> {
        fs_err::create_dir_all(directory)?;
        let open = |bucket: usize| -> StageResult<_> {
            let path = directory.join(format!("bucket-{bucket:04}"));
            let file = fs_err::File::create(&path)?;
            Ok((path, BufWriter::with_capacity(64 << 10, file)))
        };
        Ok(Self { files: (0..buckets).map(open).collect::<StageResult<_>>()?, rows: 0 })
    }

    /// Adds the next row; `None` if it is like no other.
    pub fn add(&mut self, keys: Option<&[u64]>) -> StageResult<()> {
        if let Some(keys) = keys {
            for ((_, file), key) in self.files.iter_mut().zip(keys) {
                file.write_all(&key.to_le_bytes())?;
                file.write_all(&self.rows.to_le_bytes())?;
            }
        }
        self.rows = self.rows.checked_add(1).ok_or_else(|| {
            StageError::input("filter::too_many_rows", "MinHash compares at most 4,294,967,295 rows at once")
                .hint("filter parts of the dataset, or put an exact `dedup` before")
        })?;
        Ok(())
    }

    /// Whether each row is a copy of an earlier one of its cluster; removes the files.
    pub fn resolve(self, mut cancelled: impl FnMut() -> StageResult<()>) -> StageResult<Vec<bool>> {
        let mut forest = Forest((0..self.rows).collect());
        for (path, file) in self.files {
            cancelled()?;
            file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            let mut pairs = read(&path)?;
            pairs.sort_unstable();
            for neighbours in pairs.windows(2) {
                if neighbours[0].0 == neighbours[1].0 {
                    forest.join(neighbours[0].1, neighbours[1].1);
                }
            }
            fs_err::remove_file(&path)?;
        }
        Ok((0..self.rows).map(|row| forest.root(row) != row).collect())
    }
}

fn read(path: &Utf8Path) -> StageResult<Vec<(u64, u32)>> {
    let entries = fs_err::metadata(path)?.len() / 12;
    let mut pairs = Vec::with_capacity(usize::try_from(entries).unwrap_or_default());
    let mut reader = BufReader::with_capacity(1 << 20, fs_err::File::open(path)?);
    let mut entry = [0u8; 12];
    for _ in 0..entries {
        reader.read_exact(&mut entry)?;
        let (mut key, mut row) = ([0u8; 8], [0u8; 4]);
        key.copy_from_slice(&entry[..8]);
        row.copy_from_slice(&entry[8..]);
        pairs.push((u64::from_le_bytes(key), u32::from_le_bytes(row)));
    }
    Ok(pairs)
}

/// Disjoint sets whose root is the lowest member.
struct Forest(Vec<u32>);

impl Forest {
    fn root(&mut self, row: u32) -> u32 {
        let mut root = row;
        while self.0[root as usize] != root {
            let parent = self.0[root as usize];
            // Halving: every other node on the way is hung higher.
            self.0[root as usize] = self.0[parent as usize];
            root = self.0[root as usize];
        }
        root
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::KeyFiles;

    #[test]
    fn clusters_close_over_chains_and_keep_the_lowest_row() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        let mut files = KeyFiles::create(root, 2).unwrap();
        // 0 and 1 meet only through 3; 2 has no words; 4 is alone; 5 meets 4's first bucket in its second: not a meeting.
        for keys in [Some([1, 10]), Some([2, 20]), None, Some([1, 20]), Some([7, 70]), Some([8, 7])] {
            files.add(keys.as_ref().map(<[u64; 2]>::as_slice)).unwrap();
        }
        assert_eq!(files.resolve(|| Ok(())).unwrap(), [false, true, false, true, false, false]);
        assert!(luthier_core::fs::walk_files(root).unwrap().is_empty());
    }
}
