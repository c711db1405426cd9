//! What became of the records of a file, kept between runs.
//!
//! Two kinds of entries: a group of records by the records, with what each became; and a file by its digest, with the keys
//! of its groups, so that a file that did not change is not even read. Both depend on how records are read and shaped.

use luthier_core::{Digest, ShardCache, ShardKey, StageContext, StageOutcome};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::{Format, IngestConfig};
use super::group;
use super::record::Record;
use super::shape::{Sample, Shaper};

/// Longest group that is taken back, against an absurd length in its head.
const MOST_BYTES: u64 = 1 << 31;
const ZSTD_LEVEL: i32 = 1;

/// What a record became.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Sample(Sample),
    Ignored,
    Broken {
        /// Lines behind the first record of the group.
        offset: u64,
        reason: String,
        excerpt: String,
    },
}

/// One group in the list of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listed {
    pub key: Digest,
    /// Of its first record.
    pub line: u64,
}

/// The groups that one configuration can use.
pub struct KnownGroups {
    cache: ShardCache,
    key: ShardKey,
}

impl KnownGroups {
    pub fn new(cache: ShardCache, config: &IngestConfig, shaper: &Shaper, recipe: u32) -> Self {
        let how = json!({
            "pattern": config.pattern,
            "delimiter": config.delimiter,
            "ignore": config.ignore,
            "sample_by": config.sample_by,
            "map": config.map,
            "rule": shaper.rule_name(),
            "keep": config.keep,
        });
        Self { cache, key: ShardKey::new("ingest", recipe).with_config("how", &how) }
    }

    pub fn group_key(&self, format: Format, group: &[Record]) -> Digest {
        let key = self.key.clone().with("format", format!("{format:?}").as_bytes());
        key.with("records", group::digest(group).as_bytes()).finish()
    }

    fn file_key(&self, format: Format, file: &Digest) -> Digest {
        self.key.clone().with("format", format!("{format:?}").as_bytes()).with("file", file.as_bytes()).finish()
    }

    /// The groups of a file that was read to its end before.
    pub fn list(&self, format: Format, file: &Digest) -> Option<Vec<Listed>> {
        serde_json::from_slice(&self.cache.get(&self.file_key(format, file))?).ok()
    }

    pub fn file_list(&self, format: Format, file: &Digest, groups: &[Listed]) {
        if let Ok(bytes) = serde_json::to_vec(groups) {
            self.cache.put(&self.file_key(format, file), &bytes);
        }
    }

    pub fn get(&self, key: &Digest) -> Option<Vec<Item>> {
        unpack(&self.cache.get(key)?)
    }

    pub fn put(&self, key: &Digest, items: &[Item]) {
        if let Some(bytes) = pack(items) {
            self.cache.put(key, &bytes);
        }
    }

    pub fn count(&self, reused: bool) {
        self.cache.count(reused);
    }

    pub fn finish(&self, context: &StageContext<'_>, outcome: &mut StageOutcome) {
        self.cache.finish(context, outcome);
    }
}

fn pack(items: &[Item]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    for item in items {
        match item {
            Item::Ignored => bytes.push(0),
            Item::Sample(sample) => {
                bytes.extend_from_slice(&[1, u8::try_from(sample.texts.len()).ok()?]);
                bytes.extend_from_slice(&u16::try_from(sample.kept.len()).ok()?.to_le_bytes());
                text(&mut bytes, &sample.id);
                sample.texts.iter().for_each(|value| text(&mut bytes, value));
                for value in &sample.kept {
                    bytes.push(u8::from(value.is_some()));
                    text(&mut bytes, value.as_deref().unwrap_or_default());
                }
            }
            Item::Broken { offset, reason, excerpt } => {
                bytes.push(2);
                bytes.extend_from_slice(&offset.to_le_bytes());
                text(&mut bytes, reason);
                text(&mut bytes, excerpt);
            }
        }
    }
    let mut packed = (bytes.len() as u64).to_le_bytes().to_vec();
    packed.extend(zstd::bulk::compress(&bytes, ZSTD_LEVEL).ok()?);
    Some(packed)
}

fn unpack(packed: &[u8]) -> Option<Vec<Item>> {
    let (length, packed) = packed.split_first_chunk::<8>()?;
    let length = Some(u64::from_le_bytes(*length)).filter(|length| *length <= MOST_BYTES)?;
    let bytes = zstd::bulk::decompress(packed, usize::try_from(length).ok()?).ok()?;
    let mut cursor = Cursor(&bytes);
    let mut items = Vec::new();
    while let Some(tag) = cursor.take::<1>() {
        items.push(match tag {
            [0] => Item::Ignored,
            [1] => {
                let ([texts], kept) = (cursor.take::<1>()?, u16::from_le_bytes(cursor.take()?));
                Item::Sample(Sample {
                    id: cursor.text()?,
                    texts: (0..texts).map(|_| cursor.text()).collect::<Option<_>>()?,
                    kept: (0..kept)
                        .map(|_| {
                            let [there] = cursor.take::<1>()?;
                            let value = cursor.text()?;
                            Some((there == 1).then_some(value))
                        })
                        .collect::<Option<_>>()?,
                })
            }
            [2] => Item::Broken {
                offset: u64::from_le_bytes(cursor.take()?),
                reason: cursor.text()?,
                excerpt: cursor.text()?,
            },
            _ => return None,
        });
    }
    Some(items)
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn text(&mut self) -> Option<String> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_survive_the_cache() {
        let sample = |id: &str, kept: Vec<Option<String>>| {
            Item::Sample(Sample { id: id.to_owned(), texts: vec!["nul \0".to_owned(), String::new()], kept })
        };
        let items = vec![
            Item::Ignored,
            sample("a", vec![None, Some(String::new()), Some("é".to_owned())]),
            Item::Broken { offset: 7, reason: "is not JSON".to_owned(), excerpt: "{".to_owned() },
            sample("", vec![]),
        ];
        assert_eq!(unpack(&pack(&items).unwrap()), Some(items));
        assert_eq!(unpack(&pack(&[]).unwrap()), Some(vec![]));
        for bytes in [&b""[..], b"12345678", &[255; 40]] {
            assert_eq!(unpack(bytes), None);
        }
    }
}
