//! A dataset in pieces whose ends depend on the rows around them alone, so that a row added or changed anywhere moves no
//! end but its own. What is computed of a piece can then be kept by the content of the piece.

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use luthier_core::{Cutter, Digest, PieceBounds, StageError, StageResult, mix_bits};

use super::reader::until_error;
use super::{DatasetReader, ID_COLUMN, string_column};

/// Rows that are read at once.
const READ_ROWS: usize = 4096;
/// Of a piece, in rows and bytes of text.
const BOUNDS: PieceBounds = PieceBounds { usual: (4096, 4 << 20), least: (512, 512 << 10), most: (8192, 16 << 20) };

/// Consecutive rows of a dataset.
#[derive(Debug, Clone)]
pub struct Shard {
    /// Number of its first row in the dataset, from 0.
    pub first: u64,
    pub rows: RecordBatch,
}

impl Shard {
    /// The digest of the named text columns; one that is absent, or holds anything but text, counts as absent.
    #[must_use]
    pub fn digest(&self, columns: &[&str]) -> Digest {
        let mut bytes = Vec::new();
        for name in columns {
            let column = self.rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
            bytes.extend_from_slice(column.map_or(Digest::of(b""), digest_of).as_bytes());
        }
        Digest::of(&bytes)
    }
}

fn digest_of(column: &StringArray) -> Digest {
    let offsets = column.value_offsets();
    let mut bytes = Vec::with_capacity(4 * offsets.len());
    for row in 0..column.len() {
        // The length of a null is one that no value has.
        let length = if column.is_null(row) { u32::MAX } else { column.value_length(row) as u32 };
        bytes.extend_from_slice(&length.to_le_bytes());
    }
    let data = &column.value_data()[offsets[0] as usize..offsets[column.len()] as usize];
    bytes.extend_from_slice(Digest::of(data).as_bytes());
    Digest::of(&bytes)
}

impl DatasetReader {
    /// All rows in order, in pieces of at most 8,192 rows and little more than 16 MiB of text. Stops after the first error.
    pub fn shards(&self) -> impl Iterator<Item = StageResult<Shard>> + use<> {
        let mut shards = Shards {
            batches: Box::new(self.batches(READ_ROWS)),
            cutter: Cutter::new(BOUNDS),
            rest: None,
            pending: Vec::new(),
            first: 0,
        };
        until_error(move || shards.advance())
    }
}

/// A number drawn by the content of an id: FNV-1a, mixed so that all bits depend on all bytes.
fn draw(id: &[u8]) -> u64 {
    let hash = id
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix_bits(hash)
}

struct Shards {
    batches: Box<dyn Iterator<Item = StageResult<RecordBatch>>>,
    cutter: Cutter,
    /// A batch and its first row that is in no piece yet.
    rest: Option<(RecordBatch, usize)>,
    pending: Vec<RecordBatch>,
    first: u64,
}

impl Shards {
    fn advance(&mut self) -> StageResult<Option<Shard>> {
        loop {
            if let Some((batch, start)) = self.rest.take() {
                match self.cut(&batch, start)? {
                    Some(end) => {
                        self.pending.push(batch.slice(start, end - start));
                        if end < batch.num_rows() {
                            self.rest = Some((batch, end));
                        }
                        return self.join().map(Some);
                    }
                    None => self.pending.push(batch.slice(start, batch.num_rows() - start)),
                }
            }
            match self.batches.next().transpose()? {
                Some(batch) if batch.num_rows() > 0 => self.rest = Some((batch, 0)),
                Some(_) => {}
                None if self.pending.is_empty() => return Ok(None),
                None => return self.join().map(Some),
            }
        }
    }

    /// Behind which row of the batch the piece ends, if it does.
    fn cut(&mut self, batch: &RecordBatch, start: usize) -> StageResult<Option<usize>> {
        let ids = string_column(batch, ID_COLUMN)?;
        let texts: Vec<&StringArray> = batch
            .columns()
            .iter()
            .filter(|column| column.data_type() == &DataType::Utf8)
            .map(|column| column.as_string::<i32>())
            .collect();
        Ok((start..batch.num_rows())
            .find(|row| {
                let bytes = texts.iter().map(|text| text.value_length(*row) as u64).sum();
                self.cutter.ends_with(bytes, || Some(draw(ids.value(*row).as_bytes())))
            })
            .map(|row| row + 1))
    }

    fn join(&mut self) -> StageResult<Shard> {
        let schema = self.pending[0].schema();
        let rows = match self.pending.as_slice() {
            [one] => one.clone(),
            several => concat_batches(&schema, several)
                .map_err(|error| StageError::new("dataset::read", "rows do not fit together").caused_by(error))?,
        };
        self.pending.clear();
        let first = self.first;
        self.first += rows.num_rows() as u64;
        Ok(Shard { first, rows })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use arrow::array::ArrayRef;
    use camino::Utf8Path;

    use super::*;
    use crate::dataset::{DatasetShape, DatasetWriter};

    /// The ids of each piece of a dataset of these texts.
    fn pieces(rows: &[(String, String)]) -> Vec<Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(directory.path()).unwrap().join("data");
        let schema = Arc::new(DatasetShape::Text.schema([]));
        let mut writer = DatasetWriter::create(&path, Arc::clone(&schema), DatasetShape::Text).unwrap();
        for rows in rows.chunks(1000) {
            let ids: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.0.as_str())).collect::<StringArray>());
            let texts: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.1.as_str())).collect::<StringArray>());
            writer.write(&RecordBatch::try_new(Arc::clone(&schema), vec![ids, texts]).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let (mut pieces, mut next) = (Vec::new(), 0);
        for shard in DatasetReader::open(&path).unwrap().shards() {
            let shard = shard.unwrap();
            assert_eq!(shard.first, next);
            next += shard.rows.num_rows() as u64;
            let ids = string_column(&shard.rows, "id").unwrap();
            pieces.push(ids.iter().flatten().map(str::to_owned).collect::<Vec<_>>());
        }
        let all: Vec<&str> = pieces.iter().flatten().map(String::as_str).collect();
        assert!(all.iter().eq(&rows.iter().map(|row| row.0.as_str()).collect::<Vec<_>>()), "every row once, in order");
        pieces
    }

    fn row(number: usize, length: usize) -> (String, String) {
        (Digest::of(&number.to_le_bytes()).hex()[..32].to_owned(), "x".repeat(length))
    }

    #[test]
    fn a_changed_row_changes_one_piece_whatever_the_length_of_rows() {
        for (rows, length) in [(60_000, 10), (4_000, 20_000)] {
            let mut rows: Vec<_> = (0..rows).map(|number| row(number, length)).collect();
            let before: BTreeSet<Vec<String>> = pieces(&rows).into_iter().collect();
            assert!((8..60).contains(&before.len()), "{} pieces", before.len());
            rows[10] = row(1_000_000, length);
            rows.insert(20, row(2_000_000, length));
            let after: BTreeSet<Vec<String>> = pieces(&rows).into_iter().collect();
            assert!(after.difference(&before).count() <= 2, "{}", after.difference(&before).count());
        }
    }

    #[test]
    fn pieces_are_bounded_also_where_ids_say_nothing() {
        let same: Vec<_> = (0..20_000).map(|_| ("same".to_owned(), "x".to_owned())).collect();
        assert!(pieces(&same).iter().all(|piece| piece.len() as u64 <= BOUNDS.most.0));
        let long: Vec<_> = (0..5).map(|_| ("same".to_owned(), "x".repeat(10 << 20))).collect();
        assert_eq!(pieces(&long).iter().map(Vec::len).max(), Some(1));
        assert_eq!(pieces(&[]), Vec::<Vec<String>>::new());
    }
}
