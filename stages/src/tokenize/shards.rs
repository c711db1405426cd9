//! What became of a shard of rows, kept between runs by the rows and by everything that decides their tokens.

use luthier_core::{ShardCache, ShardKey, StageContext, StageOutcome, StageResult};
use luthier_formats::chat_template::ChatTemplate;
use luthier_formats::dataset::Shard;
use luthier_formats::tokens::TokenSample;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::encode::{EncodedRow, Encoder, Notes};

/// Longest entry that is taken back, against an absurd length in its head.
const MOST_BYTES: u64 = 1 << 31;
const ZSTD_LEVEL: i32 = 1;

/// The shards that one configuration can use.
pub struct KnownShards {
    cache: ShardCache,
    key: ShardKey,
    columns: Vec<&'static str>,
}

/// What stands before the tokens of an entry.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    notes: Notes,
    ids: Vec<String>,
    lengths: Vec<u32>,
}

impl KnownShards {
    /// `special` are the special tokens that templates are rendered with.
    pub fn new(cache: ShardCache, encoder: &Encoder<'_>, special: &Value, recipe: u32) -> Self {
        let mut config = serde_json::to_value(encoder.config).unwrap_or_default();
        if let Value::Object(config) = &mut config {
            // Bins are filled after all rows are encoded, and the template counts by what it says, not by where it is.
            config.remove("packing");
            config.remove("template");
        }
        let template = encoder.template.map(ChatTemplate::digest);
        let ends: Vec<u8> = encoder.ends.iter().flat_map(|id| id.to_le_bytes()).collect();
        let key = ShardKey::new("tokenize", recipe)
            .with_config("config", &config)
            .with_config("special", special)
            .with("tokenizer", encoder.tokenizer.digest().as_bytes())
            .with("template", template.as_ref().map_or(&[], |digest| digest.as_bytes()))
            .with("shape", encoder.shape.as_str().as_bytes())
            .with("eos", format!("{:?}", encoder.eos).as_bytes())
            .with("ends", &ends);
        let columns = ["id", "tools"].into_iter().chain(encoder.shape.columns().iter().copied()).collect();
        Self { cache, key, columns }
    }

    /// # Errors
    /// Those of `encode`.
    pub fn get_or_encode(
        &self,
        shard: &Shard,
        encode: impl FnOnce() -> StageResult<EncodedRow>,
    ) -> StageResult<EncodedRow> {
        let key = self.key.clone().with("rows", shard.digest(&self.columns).as_bytes()).finish();
        let known = self.cache.get(&key).and_then(|bytes| unpack(&bytes));
        self.cache.count(known.is_some());
        if let Some(known) = known {
            return Ok(known);
        }
        let encoded = encode()?;
        if let Some(bytes) = pack(&encoded) {
            self.cache.put(&key, &bytes);
        }
        Ok(encoded)
    }

    pub fn finish(&self, context: &StageContext<'_>, outcome: &mut StageOutcome) {
        self.cache.finish(context, outcome);
    }
}

fn pack(encoded: &EncodedRow) -> Option<Vec<u8>> {
    let samples = &encoded.samples;
    let head = Head {
        notes: encoded.notes,
        ids: samples.iter().map(|sample| sample.id.clone()).collect(),
        lengths: samples.iter().map(|sample| sample.ids.len() as u32).collect(),
    };
    let head = serde_json::to_vec(&head).ok()?;
    let mut bytes = (head.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&head);
    for sample in samples {
        bytes.extend(sample.ids.iter().flat_map(|id| id.to_le_bytes()));
        bytes.extend(sample.mask.iter().map(|trained| u8::from(*trained)));
    }
    let mut packed = (bytes.len() as u64).to_le_bytes().to_vec();
    packed.extend(zstd::bulk::compress(&bytes, ZSTD_LEVEL).ok()?);
    Some(packed)
}

fn unpack(packed: &[u8]) -> Option<EncodedRow> {
    let (length, packed) = packed.split_first_chunk::<8>()?;
    let length = Some(u64::from_le_bytes(*length)).filter(|length| *length <= MOST_BYTES)?;
    let bytes = zstd::bulk::decompress(packed, usize::try_from(length).ok()?).ok()?;
    let (head, bytes) = bytes.split_first_chunk::<4>()?;
    let (head, mut bytes) = bytes.split_at_checked(u32::from_le_bytes(*head) as usize)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    let mut samples = Vec::with_capacity(head.ids.len());
    for (id, length) in head.ids.into_iter().zip(head.lengths) {
        let (ids, rest) = bytes.split_at_checked((length as usize).checked_mul(4)?)?;
        let (mask, rest) = rest.split_at_checked(length as usize)?;
        let ids = ids.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
        samples.push(TokenSample { id, ids, mask: mask.iter().map(|trained| *trained == 1).collect() });
        bytes = rest;
    }
    bytes.is_empty().then_some(EncodedRow { samples, notes: head.notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_and_what_is_not_does_not() {
        let sample = |id: &str, length: u32| TokenSample {
            id: id.to_owned(),
            ids: (0..length).map(|at| at * 70_000).collect(),
            mask: (0..length).map(|at| at % 3 == 1).collect(),
        };
        let notes = Notes { truncated: 3, ..Notes::default() };
        let encoded = EncodedRow { samples: vec![sample("a", 5), sample("é", 0), sample("", 1)], notes };
        let packed = pack(&encoded).unwrap();
        let back = unpack(&packed).unwrap();
        assert_eq!((back.samples, back.notes), (encoded.samples, encoded.notes));
        assert!((0..packed.len()).all(|end| unpack(&packed[..end]).is_none()));
    }
}
