//! Samples, bins and how they were made.

use luthier_core::Digest;
use serde::{Deserialize, Serialize};

/// One tokenized training sample.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSample {
    /// The id of the dataset row.
    pub id: String,
    pub ids: Vec<u32>,
    /// True where the token is a target that is trained: position `i` is predicted from the tokens before it. As long as
    /// `ids`; the first entry is always false.
    pub mask: Vec<bool>,
}

impl TokenSample {
    /// Tokens that are trained.
    #[must_use]
    pub fn trained(&self) -> usize {
        self.mask.iter().filter(|trained| **trained).count()
    }
}

/// How a token set came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensMeta {
    pub version: u32,
    /// The most tokens of a bin, and so of a sample.
    pub max_length: usize,
    /// Ids are below this.
    pub vocab_size: usize,
    /// Digest of the vocabulary and its rules.
    pub tokenizer: Digest,
    /// Digest of the chat template's source; absent where rows were taken as plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Digest>,
    /// Tokens that end a turn or a text.
    pub eos_ids: Vec<u32>,
    /// Several samples share a bin.
    pub packed: bool,
    pub samples: usize,
    pub bins: usize,
    pub tokens: u64,
    /// Tokens whose mask is true.
    pub trained_tokens: u64,
    /// Tokens of the longest sample.
    pub longest: usize,
}

impl TokensMeta {
    /// The version this build writes.
    pub const VERSION: u32 = 1;
}

/// A token set in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenSet {
    pub samples: Vec<TokenSample>,
    /// Numbers of samples, ascending; none is empty and every sample is in exactly one bin. Without packing, one sample a bin.
    pub bins: Vec<Vec<u32>>,
    pub meta: TokensMeta,
}

impl TokenSet {
    /// Tokens of a bin.
    #[must_use]
    pub fn bin_tokens(&self, bin: usize) -> usize {
        self.bins[bin].iter().map(|sample| self.samples[*sample as usize].ids.len()).sum()
    }

    /// How full the bins are, from 0 to 1.
    #[must_use]
    pub fn fill(&self) -> f64 {
        let room = self.bins.len() * self.meta.max_length;
        if room == 0 { 0.0 } else { self.meta.tokens as f64 / room as f64 }
    }
}
