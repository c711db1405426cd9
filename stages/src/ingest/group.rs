//! Groups of records: what is handed to the threads at once, and what is kept between runs as a shard.
//!
//! A group ends where its own records say so, so that a line added or changed in a file moves no end but its own.

use arrow::array::{ArrayData, RecordBatch};
use luthier_core::{Cutter, Digest, PieceBounds, StageResult, mix_bits};

use super::record::{Raw, Record};
use super::source::FileSource;

/// Of a group, in records and bytes.
const BOUNDS: PieceBounds = PieceBounds { usual: (2048, 4 << 20), least: (256, 512 << 10), most: (4096, 8 << 20) };

/// The next records of a file; none at its end.
///
/// # Errors
/// As [`FileSource::next_record`].
pub fn read_group(source: &mut FileSource) -> StageResult<Vec<Record>> {
    let (mut group, mut cutter) = (Vec::new(), Cutter::new(BOUNDS));
    while let Some(record) = source.next_record()? {
        let ends = cutter.ends_with(record.raw.weight() as u64, || draw(&record.raw));
        // Rows of Parquet come in batches anyway.
        let last_of_batch = matches!(&record.raw, Raw::Row(batch, row) if row + 1 == batch.num_rows());
        group.push(record);
        if ends || last_of_batch {
            break;
        }
    }
    Ok(group)
}

/// A number drawn by the content of a record; none for rows, which end groups with their batch.
fn draw(raw: &Raw) -> Option<u64> {
    let bytes = match raw {
        Raw::Text(bytes) | Raw::Json(bytes) | Raw::JsonMember(_, bytes) | Raw::Broken(_, bytes) => bytes.as_slice(),
        Raw::Fields(_, record) => record.as_slice(),
        Raw::TooLong(_) => &[],
        Raw::Row(..) => return None,
    };
    let mut hash = bytes.len() as u64;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut add = |word: u64| hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    words.iter().for_each(|word| add(u64::from_le_bytes(*word)));
    rest.iter().for_each(|byte| add(u64::from(*byte)));
    Some(mix_bits(hash))
}

/// The digest of all that can be read from the records of a group.
pub fn digest(group: &[Record]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut columns_seen = false;
    for (at, record) in group.iter().enumerate() {
        // Lines are reported relative to the first.
        hasher.update(&(record.line - group[0].line).to_le_bytes());
        match &record.raw {
            Raw::Text(text) => part(&mut hasher, 0, text),
            Raw::Json(text) => part(&mut hasher, 1, text),
            Raw::JsonMember(key, value) => {
                part(&mut hasher, 2, key);
                part(&mut hasher, 2, value);
            }
            Raw::Fields(columns, fields) => {
                if !columns_seen {
                    columns.iter().for_each(|column| part(&mut hasher, 3, column.as_bytes()));
                    columns_seen = true;
                }
                fields.iter().for_each(|field| part(&mut hasher, 4, field));
            }
            Raw::Row(batch, row) => {
                if at == 0 || *row == 0 {
                    hash_batch(&mut hasher, batch);
                }
                part(&mut hasher, 5, &(*row as u64).to_le_bytes());
            }
            Raw::TooLong(length) => part(&mut hasher, 6, &length.to_le_bytes()),
            Raw::Broken(what, text) => {
                part(&mut hasher, 7, what.as_bytes());
                part(&mut hasher, 7, text);
            }
        }
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

fn part(hasher: &mut blake3::Hasher, tag: u8, bytes: &[u8]) {
    hasher.update(&[tag]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

fn hash_batch(hasher: &mut blake3::Hasher, batch: &RecordBatch) {
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        part(hasher, 8, field.name().as_bytes());
        hash_array(hasher, &column.to_data());
    }
}

/// Everything an array consists of. Equal rows may differ here, by what lies between them; different rows may not be equal.
fn hash_array(hasher: &mut blake3::Hasher, array: &ArrayData) {
    part(hasher, 9, array.data_type().to_string().as_bytes());
    for number in [array.len(), array.offset(), array.buffers().len(), array.child_data().len()] {
        hasher.update(&(number as u64).to_le_bytes());
    }
    if let Some(nulls) = array.nulls() {
        part(hasher, 10, &(nulls.offset() as u64).to_le_bytes());
        part(hasher, 10, nulls.validity());
    }
    array.buffers().iter().for_each(|buffer| part(hasher, 11, buffer.as_slice()));
    array.child_data().iter().for_each(|child| hash_array(hasher, child));
}
