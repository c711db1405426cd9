//! What a plugin found out about the rows of a shard, row by row, as it is kept between runs.
//!
//! A row is known by its number in the shard and by the text that the plugin saw of it, which edits of earlier steps change;
//! where none did, the digest of the shard, under which the ledger is filed, says what the text is.
//! Only rows that reached the step are in it; when an earlier step comes to let more rows through, those are judged and
//! added. Rows that a plugin failed on are never in it.

use std::collections::BTreeMap;

use luthier_core::Digest;
use luthier_plugins::{TextBatch, Verdicts};

use super::column::Judged;

/// Longest ledger that is taken back from the cache, against an absurd length in its head.
const MOST_BYTES: u64 = 1 << 30;
const ZSTD_LEVEL: i32 = 1;

/// Identifies what a plugin saw of a row.
pub(super) type Seen = [u8; 16];

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub seen: Seen,
    /// As of [`Verdicts`].
    pub drop: u8,
    /// The same under the configuration that the row was judged under: what the scores and the edit are of.
    pub judged: u8,
    pub scores: Vec<f32>,
    pub edit: Option<String>,
}

/// Rows of a shard by their number, and the configuration that their verdicts were given under.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ledger {
    pub config: Digest,
    pub rows: BTreeMap<u32, Entry>,
}

/// What the plugin sees of row `row`.
pub(super) fn seen(texts: &TextBatch<'_>, row: usize) -> Seen {
    let mut hasher = blake3::Hasher::new();
    for column in std::iter::once(&texts.texts).chain(&texts.reads) {
        let text = column.get(row);
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

/// What is seen of any row whose columns, all of them text, are as they came in.
pub(super) fn seen_as_it_came(judged: &Judged, reads: &[String]) -> Seen {
    let mut hasher = blake3::Hasher::new_derive_key("luthier 2026-11 row as it came v1");
    let kind: &[u8] = match judged {
        Judged::Column(_) => b"column",
        Judged::Joined(_) => b"joined",
        Judged::Messages => b"messages",
        Judged::Turns => b"turns",
    };
    hasher.update(kind);
    for names in [&judged.columns()[..], reads] {
        hasher.update(&(names.len() as u64).to_le_bytes());
        for name in names {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        }
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

impl Ledger {
    pub fn new(config: Digest) -> Self {
        Self { config, rows: BTreeMap::new() }
    }

    /// Takes in the verdicts about `rows`, of which the plugin saw `seen`.
    pub fn add(&mut self, verdicts: &Verdicts, rows: &[u32], seen: &[Seen]) {
        let count = rows.len();
        let mut faults = verdicts.faults.iter().map(|(row, _)| *row).peekable();
        let mut edits = verdicts.edits.iter().peekable();
        for (at, (row, seen)) in rows.iter().zip(seen).enumerate() {
            let edit = edits.next_if(|(edited, _)| *edited == at).map(|(_, text)| text.clone());
            if faults.next_if_eq(&at).is_some() {
                continue;
            }
            let scores = verdicts.scores.chunks_exact(count).map(|column| column[at]).collect();
            self.rows
                .insert(*row, Entry { seen: *seen, drop: verdicts.drop[at], judged: verdicts.drop[at], scores, edit });
        }
    }

    /// Compressed, for the cache.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = self.config.as_bytes().to_vec();
        for (row, entry) in &self.rows {
            bytes.extend_from_slice(&row.to_le_bytes());
            bytes.extend_from_slice(&entry.seen);
            bytes.extend_from_slice(&[entry.drop, entry.judged]);
            entry.scores.iter().for_each(|score| bytes.extend_from_slice(&score.to_le_bytes()));
            // The length of no edit is one that no text has.
            let edit = entry.edit.as_deref();
            bytes.extend_from_slice(&edit.map_or(u32::MAX, |text| text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(edit.unwrap_or_default().as_bytes());
        }
        let mut packed = (bytes.len() as u64).to_le_bytes().to_vec();
        packed.extend(zstd::bulk::compress(&bytes, ZSTD_LEVEL).ok()?);
        Some(packed)
    }

    /// `None` if the bytes are no ledger with `scores` scores a row and at most `reasons` reasons.
    pub fn decode(packed: &[u8], scores: usize, reasons: usize) -> Option<Self> {
        let (length, packed) = packed.split_first_chunk::<8>()?;
        let length = Some(u64::from_le_bytes(*length)).filter(|length| *length <= MOST_BYTES)?;
        let bytes = zstd::bulk::decompress(packed, usize::try_from(length).ok()?).ok()?;
        let (config, mut bytes) = bytes.split_first_chunk::<32>()?;
        let mut ledger = Self::new(Digest::from_bytes(*config));
        while let Some((row, rest)) = bytes.split_first_chunk::<4>() {
            let (seen, rest) = rest.split_first_chunk::<16>()?;
            let ([drop, judged], rest) = rest.split_first_chunk::<2>()?;
            let (values, rest) = rest.split_at_checked(4 * scores)?;
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let (edit, rest) = match u32::from_le_bytes(*length) {
                u32::MAX => (None, rest),
                length => {
                    let (text, rest) = rest.split_at_checked(length as usize)?;
                    (Some(std::str::from_utf8(text).ok()?.to_owned()), rest)
                }
            };
            let entry = Entry {
                seen: *seen,
                drop: Some(*drop).filter(|drop| usize::from(*drop) <= reasons)?,
                judged: Some(*judged).filter(|judged| usize::from(*judged) <= reasons)?,
                scores: values.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect(),
                edit,
            };
            ledger.rows.insert(u32::from_le_bytes(*row), entry);
            bytes = rest;
        }
        bytes.is_empty().then_some(ledger)
    }
}

#[cfg(test)]
mod tests {
    use luthier_plugins::TextColumn;

    use super::*;

    #[test]
    fn verdicts_survive_the_cache_and_faults_stay_out() {
        let verdicts = Verdicts {
            drop: vec![0, 2, 0, 1],
            scores: vec![0.5, -1.0, 0.0, 3.0, 10.0, 20.0, 0.0, 40.0],
            edits: vec![(0, String::new()), (3, "né\0w".to_owned())],
            faults: vec![(2, "trap".to_owned())],
        };
        let mut ledger = Ledger::new(Digest::of(b"config"));
        ledger.add(&verdicts, &[3, 5, 6, 9], &[[1; 16], [2; 16], [3; 16], [4; 16]]);
        assert_eq!(ledger.rows.keys().copied().collect::<Vec<_>>(), [3, 5, 9]);
        assert_eq!(ledger.rows[&5].scores, [-1.0, 20.0]);
        assert_eq!((ledger.rows[&3].edit.as_deref(), ledger.rows[&5].edit.as_deref()), (Some(""), None));
        let packed = ledger.encode().unwrap();
        assert_eq!(Ledger::decode(&packed, 2, 2).as_ref(), Some(&ledger));
        assert_eq!(Ledger::decode(&packed, 2, 1), None, "a reason that is none");
        assert_eq!(Ledger::decode(&packed, 3, 2), None, "another number of scores");
        for end in 0..packed.len() {
            assert_eq!(Ledger::decode(&packed[..end], 2, 2), None);
        }
    }

    #[test]
    fn texts_and_columns_are_told_apart() {
        let batch = |texts: &[&str], reads: &[&str]| TextBatch {
            texts: TextColumn::from_texts(texts.iter().copied()).unwrap(),
            reads: reads.iter().map(|text| TextColumn::from_texts([*text]).unwrap()).collect(),
        };
        let all = [batch(&["ab"], &["c"]), batch(&["a"], &["bc"]), batch(&["abc"], &[]), batch(&["ab"], &["c", ""])];
        let seen: std::collections::BTreeSet<Seen> = all.iter().map(|batch| seen(batch, 0)).collect();
        assert_eq!(seen.len(), 4);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let column = |name: &str| Judged::Column(name.to_owned());
        let all = [
            seen_as_it_came(&column("a"), &names(&["b"])),
            seen_as_it_came(&column("ab"), &[]),
            seen_as_it_came(&Judged::Joined(names(&["a", "b"])), &[]),
            seen_as_it_came(&Judged::Joined(names(&["a"])), &names(&["b"])),
            seen_as_it_came(&Judged::Messages, &[]),
            seen_as_it_came(&column("messages"), &[]),
        ];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    }
}
