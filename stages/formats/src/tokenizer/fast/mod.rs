//! Byte-level BPE at the speed of the memory: what GPT-2, SmolLM, Llama 3 and Qwen tokenizers do, without an expression
//! engine.
//!
//! Used where a `tokenizer.json` asks for exactly these parts: no normalizer or NFC, one of the known pre-tokenizers, plain
//! BPE merges over bytes, added tokens without options. Everything else, and texts that NFC would change, goes through the
//! `tokenizers` library, which is also what the tests hold this to, id by id and offset by offset.

mod added;
mod cache;
mod class;
mod merge;
mod split;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::Encoded;
use super::pre;
use added::{AddedTokens, Piece};
use cache::WordCache;
use merge::Merges;
use split::Rules;

/// The cache of words belongs to the tokenizer with this number.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A tokenizer of the kind described above.
pub struct FastBpe {
    number: u64,
    added: AddedTokens,
    rules: Rules,
    merges: Merges,
    /// Texts must be in NFC.
    nfc: bool,
}

impl FastBpe {
    /// `None` if any part of the `tokenizer.json` tree is something else.
    pub fn build(tree: &Value) -> Option<Self> {
        let nfc = match &tree["normalizer"] {
            Value::Null => false,
            normalizer if normalizer["type"] == "NFC" => true,
            _ => return None,
        };
        let rules = match pre::name_of(tree)? {
            "gpt-2" => Rules::Gpt2,
            "smollm" => Rules::DigitsThenGpt2,
            "llama-bpe" => Rules::Llama3,
            "qwen2" => Rules::Qwen2,
            _ => return None,
        };
        Some(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            added: AddedTokens::build(&tree["added_tokens"])?,
            rules,
            merges: Merges::build(&tree["model"])?,
            nfc,
        })
    }

    /// Ids without what a post-processor adds; `None` where only the library can say.
    pub fn encode(&self, text: &str) -> Option<Vec<u32>> {
        // A token of these vocabularies has about four bytes.
        let mut ids = Vec::with_capacity(text.len() / 4 + 4);
        self.run(text, &mut ids)?;
        Some(ids)
    }

    /// As [`Self::encode`], with the byte range of each token, widened to whole characters.
    pub fn encode_with_offsets(&self, text: &str) -> Option<Encoded> {
        let ids = self.encode(text)?;
        let mut offsets = Vec::with_capacity(ids.len());
        let mut start = 0;
        for id in &ids {
            let end = start + self.length(*id)?;
            offsets.push(whole_characters(text, start..end));
            start = end;
        }
        (start == text.len()).then_some(Encoded { ids, offsets })
    }

    fn length(&self, id: u32) -> Option<usize> {
        self.added.length(id).or_else(|| self.merges.length(id))
    }

    fn run(&self, text: &str, ids: &mut Vec<u32>) -> Option<()> {
        if self.nfc && !text.is_ascii() && !is_nfc(text) {
            return None;
        }
        WordCache::with(self.number, |cache| {
            self.added.pieces(text, |piece| match piece {
                Piece::Token(id) => {
                    ids.push(id);
                    Some(())
                }
                Piece::Text(text) => split::words(self.rules, text, &mut |word| self.word(word, cache, ids)),
            })
        })
    }

    fn word(&self, word: &[u8], cache: &mut WordCache, ids: &mut Vec<u32>) -> Option<()> {
        if cache.find(word, ids) {
            return Some(());
        }
        let start = ids.len();
        self.merges.word(word, ids)?;
        cache.keep(word, &ids[start..]);
        Some(())
    }
}

fn is_nfc(text: &str) -> bool {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => true,
        IsNormalized::No => false,
        IsNormalized::Maybe => text.chars().eq(text.nfc()),
    }
}

/// The characters that a range of bytes touches.
fn whole_characters(text: &str, range: Range<usize>) -> Range<usize> {
    let (mut start, mut end) = (range.start, range.end);
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

#[cfg(test)]
mod tests;
