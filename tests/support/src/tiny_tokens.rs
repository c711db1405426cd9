//! A few short sequences to train a tiny model on.

use luthier_core::Digest;
use luthier_formats::tokens::{TokenSample, TokenSet, TokensMeta};

/// Sequences that count up, which a model can learn.
#[must_use]
pub fn token_set(samples: usize, vocabulary: usize) -> TokenSet {
    let samples: Vec<TokenSample> = (0..samples)
        .map(|sample| {
            let length = 6 + sample % 5;
            let ids: Vec<u32> = (0..length).map(|index| ((7 * sample + 3 * index) % vocabulary) as u32).collect();
            let mask = (0..length).map(|index| index > 2).collect();
            TokenSample { id: format!("row-{sample}"), ids, mask }
        })
        .collect();
    let meta = TokensMeta {
        version: TokensMeta::VERSION,
        max_length: 64,
        vocab_size: vocabulary,
        tokenizer: Digest::of(b"tiny"),
        template: None,
        eos_ids: vec![2],
        packed: false,
        samples: samples.len(),
        bins: samples.len(),
        tokens: samples.iter().map(|sample| sample.ids.len() as u64).sum(),
        trained_tokens: samples.iter().map(|sample| sample.trained() as u64).sum(),
        longest: samples.iter().map(|sample| sample.ids.len()).max().unwrap_or(0),
    };
    TokenSet { bins: (0..samples.len() as u32).map(|index| vec![index]).collect(), samples, meta }
}
