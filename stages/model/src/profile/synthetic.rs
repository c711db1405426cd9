//! Tokens to time a step with: their values do not matter to its cost.

use luthier_core::Digest;
use luthier_formats::tokens::{TokenSample, TokenSet, TokensMeta};
use luthier_kernels::random::Stream;

/// `samples` sequences of `length` random tokens; the first `prompt` of each have no loss, and never the first token.
#[must_use]
pub fn synthetic_tokens(vocabulary: usize, samples: usize, length: usize, prompt: usize, seed: u64) -> TokenSet {
    let stream = Stream::new(seed, "profile.tokens");
    let samples: Vec<TokenSample> = (0..samples)
        .map(|sample| {
            let first = (sample * length) as u64;
            let ids = (0..length as u64).map(|index| stream.below(first + index, vocabulary.max(1) as u64) as u32);
            TokenSample {
                id: format!("random-{sample}"),
                ids: ids.collect(),
                mask: (0..length).map(|index| index >= prompt.max(1)).collect(),
            }
        })
        .collect();
    let meta = TokensMeta {
        version: TokensMeta::VERSION,
        max_length: length,
        vocab_size: vocabulary,
        tokenizer: Digest::of(b"random tokens"),
        template: None,
        eos_ids: Vec::new(),
        packed: false,
        samples: samples.len(),
        bins: samples.len(),
        tokens: samples.iter().map(|sample| sample.ids.len() as u64).sum(),
        trained_tokens: samples.iter().map(|sample| sample.trained() as u64).sum(),
        longest: length,
    };
    let bins = (0..samples.len() as u32).map(|sample| vec![sample]).collect();
    TokenSet { samples, bins, meta }
}
