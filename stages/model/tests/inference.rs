//! Scoring and generation: consistent with each other, and independent of what else is in the batch.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod common;

use common::{Family, TinyModel, VOCABULARY, lora, spec, sub, tokens};
use luthier_core::Digest;
use luthier_formats::tokens::TokenSet;
use luthier_kernels::random::Stream;
use luthier_kernels::sampling::{Sampling, draw};
use luthier_model::adapter::{AdapterStamp, Targets, write_adapter};
use luthier_model::train::Trainer;
use luthier_model::{BaseFormat, LanguageModel, LanguageModelOptions, Sampler, Stop};

fn load(model: &TinyModel, adapter: Option<&str>, base: BaseFormat) -> LanguageModel {
    let adapter = adapter.map(|name| sub(model, name));
    let options =
        LanguageModelOptions { model: model.path(), adapter: adapter.as_deref(), base, max_tokens: 64, threads: 2 };
    LanguageModel::load(options).unwrap()
}

/// Writes an adapter with random factors.
fn adapt(model: &TinyModel, name: &str) {
    let loaded = load(model, None, BaseFormat::Stored);
    let data = tokens(2, 1, 1);
    let mut trainer = Trainer::new(loaded.decoder(), &data, None, spec(lora(Targets::AllLinear), 1, 1, 1)).unwrap();
    let mut state = trainer.checkpoint();
    Stream::new(5, "adapter").fill_normal(0, 0.0, 0.2, &mut state.params);
    trainer.restore(&state).unwrap();
    let stamp = AdapterStamp { base: Digest::of(b"x"), quantizer: "none".to_owned() };
    let slots = trainer.adapters().slots();
    write_adapter(&sub(model, name), &trainer.spec().lora, slots, &trainer.values(), None, &stamp).unwrap();
}

fn sequences(data: &TokenSet) -> Vec<Vec<u32>> {
    data.samples.iter().map(|sample| sample.ids.clone()).collect()
}

#[test]
fn log_probs_are_those_of_the_logits() {
    for family in [Family::LlamaTied, Family::LlamaUntied, Family::Qwen2, Family::Qwen3] {
        let model = TinyModel::new(family);
        adapt(&model, "adapter");
        let mut loaded = load(&model, Some("adapter"), BaseFormat::Nf4);
        let sequences = sequences(&tokens(4, 1, 2));
        let scored = loaded.token_log_probs(&sequences).unwrap();
        for (sequence, scored) in sequences.iter().zip(&scored) {
            let logits = loaded.logits(sequence).unwrap();
            assert_eq!(scored.len(), sequence.len() - 1);
            for (index, found) in scored.iter().enumerate() {
                let row = &logits[index * VOCABULARY..(index + 1) * VOCABULARY];
                let total: f64 = row.iter().map(|value| f64::from(*value).exp()).sum();
                let expected = f64::from(row[sequence[index + 1] as usize]) - total.ln();
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{family:?}: {found} expected {expected}");
            }
        }
    }
}

#[test]
fn an_adapter_changes_what_comes_out() {
    let model = TinyModel::new(Family::LlamaTied);
    adapt(&model, "adapter");
    let prompt = [3, 9, 27];
    let base = load(&model, None, BaseFormat::Stored).logits(&prompt).unwrap();
    let tuned = load(&model, Some("adapter"), BaseFormat::Stored).logits(&prompt).unwrap();
    let quantised = load(&model, None, BaseFormat::Nf4).logits(&prompt).unwrap();
    assert_ne!(base, tuned);
    assert_ne!(base, quantised);
}

#[test]
fn a_sequence_scores_the_same_alone_and_in_company() {
    let model = TinyModel::new(Family::LlamaTied);
    let mut loaded = load(&model, None, BaseFormat::Nf4);
    let mut sequences = sequences(&tokens(9, 1, 3));
    for sequence in &mut sequences {
        sequence.splice(0..0, [3; 8]);
    }
    let together = loaded.token_log_probs(&sequences).unwrap();
    for (sequence, expected) in sequences.iter().zip(&together) {
        let alone = loaded.token_log_probs(std::slice::from_ref(sequence)).unwrap();
        assert_eq!(&alone[0], expected);
    }
}

/// The definition: run the whole text again for each token.
fn slow_greedy(loaded: &mut LanguageModel, prompt: &[u32], limit: usize, stop: &[u32]) -> (Vec<u32>, Stop) {
    let mut text = prompt.to_vec();
    while text.len() - prompt.len() < limit && text.len() <= loaded.max_tokens() {
        let logits = loaded.logits(&text).unwrap();
        let row = &logits[logits.len() - VOCABULARY..];
        let best = (0..VOCABULARY).fold(0, |best, index| if row[index] > row[best] { index } else { best }) as u32;
        if stop.contains(&best) {
            return (text.split_off(prompt.len()), Stop::Token(best));
        }
        text.push(best);
    }
    (text.split_off(prompt.len()), Stop::Length)
}

#[test]
fn cached_generation_equals_running_the_whole_text_again() {
    for family in [Family::LlamaTied, Family::Qwen2, Family::Qwen3] {
        let model = TinyModel::new(family);
        adapt(&model, "adapter");
        let mut loaded = load(&model, Some("adapter"), BaseFormat::Nf4);
        let mut prompts = sequences(&tokens(40, 1, 4));
        // Some begin alike, as those under one system prompt do.
        for prompt in &mut prompts[20..] {
            prompt.splice(0..0, [7, 7, 19, 4, 23, 4]);
        }
        let stop = [2, 11, 17, 40];
        let together = loaded.generate_greedy(&prompts, 12, &stop).unwrap();
        for (prompt, generated) in prompts.iter().zip(&together) {
            let (tokens, why) = slow_greedy(&mut loaded, prompt, 12, &stop);
            assert_eq!((&generated.tokens, generated.stop), (&tokens, why), "{family:?}");
            let alone = loaded.generate_greedy(std::slice::from_ref(prompt), 12, &stop).unwrap();
            assert_eq!(&alone[0], generated);
        }
        let shared = loaded.generate_greedy(&prompts[20..], 12, &stop).unwrap();
        assert_eq!(shared, together[20..]);
        assert!(together.iter().any(|generated| generated.stop == Stop::Length));
        assert!(together.iter().any(|generated| matches!(generated.stop, Stop::Token(_))));
    }
}

#[test]
fn drawn_tokens_are_those_of_the_whole_text_s_logits() {
    let model = TinyModel::new(Family::LlamaTied);
    let mut loaded = load(&model, None, BaseFormat::Stored);
    let prompts = sequences(&tokens(12, 1, 4));
    for sampling in [
        Sampling { temperature: 0.9, top_k: 0, top_p: 1.0 },
        Sampling { temperature: 1.3, top_k: 9, top_p: 0.8 },
        Sampling { temperature: 1.0, top_k: 1, top_p: 1.0 },
    ] {
        let sampler = Sampler { sampling, seed: 5 };
        let drawn = loaded.generate(&prompts, 6, &[], Some(sampler)).unwrap();
        for (index, (prompt, generated)) in prompts.iter().zip(&drawn).enumerate() {
            let mut text = prompt.clone();
            for at in 0..6 {
                let logits = loaded.logits(&text).unwrap();
                let last = &logits[(text.len() - 1) * loaded.config().vocab_size..];
                // The first two words of a Philox block named after the prompt, at the token's position.
                let [high, low, ..] = Stream::new(5, &format!("prompt {index}")).block(at);
                text.push(draw(last, sampling, u64::from(high) << 32 | u64::from(low)));
            }
            assert_eq!(generated.tokens, text[prompt.len()..], "{sampling:?}");
        }
        let again = loaded.generate(&prompts[..5], 6, &[], Some(sampler)).unwrap();
        assert_eq!(again, drawn[..5], "other prompts change nothing");
        let greedy = loaded.generate_greedy(&prompts, 6, &[]).unwrap();
        assert_eq!(drawn == greedy, sampling.top_k == 1);
    }
}

#[test]
fn generation_ends_at_the_last_position_and_takes_odd_prompts() {
    let model = TinyModel::new(Family::LlamaTied);
    let mut loaded = load(&model, None, BaseFormat::Stored);
    let long: Vec<u32> = (0..62).collect();
    let generated = loaded.generate_greedy(&[long, Vec::new(), vec![1]], 10, &[]).unwrap();
    assert_eq!((generated[0].tokens.len(), generated[0].stop), (3, Stop::Length));
    assert!(generated[1].tokens.is_empty());
    assert_eq!(generated[2].tokens.len(), 10);
    let error = loaded.generate_greedy(&[vec![1; 65]], 1, &[]).unwrap_err();
    assert_eq!(error.code, "model::sequence_too_long");
    let error = loaded.logits(&[67]).unwrap_err();
    assert_eq!(error.code, "model::token_out_of_vocabulary");
}
