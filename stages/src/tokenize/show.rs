//! What a person looks at before training: samples with the trained tokens marked, and how long samples are.

use luthier_core::Section;
use luthier_formats::tokenizer::Tokenizer;
use luthier_formats::tokens::{TokenSample, TokenSet};

/// Samples shown, and the most tokens of each.
const SHOWN: usize = 4;
const SHOWN_TOKENS: usize = 600;

/// A few samples; trained stretches stand between ⟦ and ⟧.
pub fn samples(set: &TokenSet, tokenizer: &Tokenizer) -> Section {
    let count = set.samples.len();
    let shown = SHOWN.min(count);
    let rows = (0..shown).map(|at| {
        // Spread over the set, so that sources joined one after the other all show.
        let sample = &set.samples[at * count / shown];
        let tokens = format!("{} tokens, {} trained", sample.ids.len(), sample.trained());
        vec![sample.id.clone(), tokens, marked(sample, tokenizer)]
    });
    Section::Samples {
        title: "Samples, trained text between ⟦ and ⟧".to_owned(),
        columns: ["row", "size", "text"].map(str::to_owned).to_vec(),
        rows: rows.collect(),
    }
}

/// The text of a sample with ⟦ ⟧ around trained stretches.
pub fn marked(sample: &TokenSample, tokenizer: &Tokenizer) -> String {
    let most = sample.ids.len().min(SHOWN_TOKENS);
    let mut text = String::new();
    let mut start = 0;
    while start < most {
        let trained = sample.mask[start];
        let length = sample.mask[start..most].iter().take_while(|mask| **mask == trained).count();
        let run = tokenizer.decode(&sample.ids[start..start + length], false);
        if trained {
            text.push('⟦');
            text.push_str(&run);
            text.push('⟧');
        } else {
            text.push_str(&run);
        }
        start += length;
    }
    if most < sample.ids.len() {
        text.push_str(&format!("… and {} tokens more", sample.ids.len() - most));
    }
    text
}

/// Lengths by percentile.
pub fn lengths(lengths: &[usize]) -> Section {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable();
    let percentile =
        |percent: usize| sorted.get((sorted.len().saturating_sub(1)) * percent / 100).copied().unwrap_or(0);
    let rows = [50, 90, 95, 99, 100].map(|percent| {
        let name = if percent == 100 { "longest".to_owned() } else { format!("{percent} % have at most") };
        vec![name, percentile(percent).to_string()]
    });
    Section::Table {
        title: "Tokens per sample".to_owned(),
        columns: ["samples", "tokens"].map(str::to_owned).to_vec(),
        rows: rows.to_vec(),
    }
}
