//! Tokenizers of Hugging Face directories (`tokenizer.json`) and GGUF files, with the ids of the originals.
//!
//! A GGUF vocabulary is turned into the tree of a `tokenizer.json`, so both run on one engine, and a model that came as GGUF
//! can be written out with a tokenizer that other programs read. Byte offsets always cover every byte of the text.
//!
//! The common kinds run on [`fast`], the others on the `tokenizers` library; ids and offsets are the same.

mod fast;
mod gguf;
mod load;
pub(crate) mod pre;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use luthier_core::{Digest, StageError, StageResult};

use fast::FastBpe;

/// A tokenizer with what a model says about its special tokens.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// For the kinds that it knows.
    fast: Option<Arc<FastBpe>>,
    /// The tree as JSON; what `tokenizer.json` of a model directory should hold.
    json: String,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Vec<u32>,
    special: BTreeSet<u32>,
    digest: Digest,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

/// Ids with the byte range of the text that each came from; ranges of tokens that share a character overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    pub offsets: Vec<Range<usize>>,
}

impl Tokenizer {
    /// Ids of a text. Special tokens written out in it are recognised, as by every chat template; `add_special` adds what the
    /// tokenizer puts around a text (BOS).
    ///
    /// # Errors
    /// The pre-tokenizer gives up on a pathological text.
    pub fn encode(&self, text: &str, add_special: bool) -> StageResult<Vec<u32>> {
        if !add_special && let Some(ids) = self.fast.as_ref().and_then(|fast| fast.encode(text)) {
            return Ok(ids);
        }
        self.inner.encode_fast(text, add_special).map(|encoding| encoding.get_ids().to_vec()).map_err(encode_error)
    }

    /// As [`Self::encode`], with byte offsets.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_offsets(&self, text: &str, add_special: bool) -> StageResult<Encoded> {
        if !add_special && let Some(encoded) = self.fast.as_ref().and_then(|fast| fast.encode_with_offsets(text)) {
            return Ok(encoded);
        }
        let encoding = self.inner.encode(text, add_special).map_err(encode_error)?;
        let offsets = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok(Encoded { ids: encoding.get_ids().to_vec(), offsets })
    }

    /// The text of ids; bytes that are no UTF-8 become U+FFFD, ids out of the vocabulary nothing.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.inner.decode(ids, skip_special).unwrap_or_default()
    }

    /// One more than the largest id.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Every token that ends a turn or a text, ascending: `eos` and, where the model names them, `eot` and `eom`.
    #[must_use]
    pub fn eos_ids(&self) -> Vec<u32> {
        self.eos.clone()
    }

    /// Whether a token stands for no text: BOS, EOS, role marks.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    #[must_use]
    pub fn special_ids(&self) -> &BTreeSet<u32> {
        &self.special
    }

    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token as the vocabulary spells it.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Equal digests give equal ids for every text.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The content of a `tokenizer.json` that behaves the same.
    #[must_use]
    pub fn to_json(&self) -> &str {
        &self.json
    }
}

fn encode_error(error: tokenizers::Error) -> StageError {
    StageError::input("tokenizer::encode", "the tokenizer gives up on the text")
        .hint("filter out texts with very long runs of one character")
        .caused_by(error)
}

#[cfg(test)]
mod tests;
