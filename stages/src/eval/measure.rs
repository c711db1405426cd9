//! Runs the model over items and documents.

use indexmap::IndexSet;
use luthier_core::{StageContext, StageError, StageResult};
use luthier_model::{divergence, scalar};

use super::config::{GenerationConfig, MultipleChoiceConfig};
use super::data::{Document, Item};
use super::metrics::Part;
use super::subject::{Encoder, Scored, Subject, Variant};

/// Prompts answered, or sequences scored, between two looks at the cancel token.
const CHUNK: usize = 32;

/// An answer to one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub text: String,
    /// Ended by itself rather than by the limit.
    pub ended: bool,
}

/// Log-likelihood of one text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    pub nats: f64,
    pub tokens: usize,
    pub bytes: usize,
}

/// Counts what has been done across all measurements of the stage.
pub struct Progress<'c, 'e> {
    pub context: &'c StageContext<'e>,
    done: u64,
    total: u64,
}

impl<'c, 'e> Progress<'c, 'e> {
    pub fn new(context: &'c StageContext<'e>, total: usize) -> Self {
        Self { context, done: 0, total: total as u64 }
    }

    fn step(&mut self, count: usize, note: &str) -> StageResult<()> {
        self.done += count as u64;
        self.context.progress(self.done, self.total, "items", note);
        self.context.check_cancelled()
    }
}

/// Answers every prompt; equal prompts once.
pub fn generate(
    subject: &mut Subject,
    variant: Variant,
    encoder: &Encoder,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    progress: &mut Progress<'_, '_>,
) -> StageResult<Vec<Answer>> {
    let stop = encoder.tokenizer.eos_ids();
    let model = subject.variant(variant);
    let different: IndexSet<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let mut answers = Vec::with_capacity(different.len());
    for start in (0..different.len()).step_by(CHUNK) {
        let chunk: Vec<&[u32]> = different.iter().copied().skip(start).take(CHUNK).collect();
        for generated in model.generate_greedy(&chunk, config.max_new_tokens as usize, &stop)? {
            let text = encoder.tokenizer.decode(&generated.tokens, true);
            let cut = config.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
            let ended = cut.is_some() || matches!(generated.stop, luthier_model::Stop::Token(_));
            answers.push(Answer { text: text[..cut.unwrap_or(text.len())].to_owned(), ended });
        }
        progress.step(chunk.len(), &format!("{} answers", variant.name()))?;
    }
    progress.step(prompts.len() - different.len(), &format!("{} answers", variant.name()))?;
    let place = |prompt: &Vec<u32>| different.get_index_of(prompt.as_slice()).unwrap_or_default();
    Ok(prompts.iter().map(|prompt| answers[place(prompt)].clone()).collect())
}

/// Scores the references of the items, in windows of `window` tokens where they stand alone.
pub fn references(
    subject: &mut Subject,
    variant: Variant,
    encoder: &Encoder,
    items: &[Item],
    window: usize,
    progress: &mut Progress<'_, '_>,
) -> StageResult<Vec<Likelihood>> {
    let model = subject.variant(variant);
    let mut all = Vec::with_capacity(items.len());
    for chunk in items.chunks(CHUNK) {
        let mut windows = Vec::new();
        let mut owners = Vec::new();
        for (index, item) in chunk.iter().enumerate() {
            let scored = match item.prompt {
                super::data::Prompt::Nothing => cut(&encoder.rolling(&item.reference)?, window),
                super::data::Prompt::Messages(_) => vec![encoder.reference(item)?],
            };
            owners.extend(std::iter::repeat_n(index, scored.len()));
            windows.extend(scored);
        }
        let tokens: Vec<&[u32]> = windows.iter().map(|window| window.tokens.as_slice()).collect();
        let masks: Vec<Vec<bool>> = windows.iter().map(Scored::mask).collect();
        let mut likelihoods: Vec<Likelihood> =
            chunk.iter().map(|item| Likelihood { nats: 0.0, tokens: 0, bytes: item.reference.len() }).collect();
        for (owner, scores) in owners.into_iter().zip(model.masked_log_probs(&tokens, &masks)?) {
            let likelihood = &mut likelihoods[owner];
            likelihood.tokens += scores.len();
            likelihood.nats += scores.iter().map(|score| f64::from(*score)).sum::<f64>();
        }
        all.extend(likelihoods);
        progress.step(chunk.len(), &format!("{} likelihoods", variant.name()))?;
    }
    Ok(all)
}

/// Windows of at most `window` scored tokens; each begins with the token before it.
pub fn cut(scored: &Scored, window: usize) -> Vec<Scored> {
    let mut windows = Vec::new();
    let mut start = scored.first;
    while start < scored.tokens.len() {
        let end = scored.tokens.len().min(start + window.max(1));
        windows.push(Scored { tokens: scored.tokens[start - 1..end].to_vec(), first: 1 });
        start = end;
    }
    windows
}

/// Log-likelihoods of the choices of each item.
pub fn choices(
    subject: &mut Subject,
    variant: Variant,
    encoder: &Encoder,
    items: &[Item],
    config: &MultipleChoiceConfig,
    progress: &mut Progress<'_, '_>,
) -> StageResult<Vec<Vec<f64>>> {
    let model = subject.variant(variant);
    let mut all = Vec::with_capacity(items.len());
    for chunk in items.chunks(CHUNK) {
        let mut scored = Vec::new();
        for item in chunk {
            for choice in item.choices.iter().flat_map(|choices| &choices.texts) {
                scored.push(encoder.choice(item, choice, &config.delimiter)?);
            }
        }
        let tokens: Vec<&[u32]> = scored.iter().map(|scored| scored.tokens.as_slice()).collect();
        let masks: Vec<Vec<bool>> = scored.iter().map(Scored::mask).collect();
        let mut scores = model.masked_log_probs(&tokens, &masks)?.into_iter();
        for item in chunk {
            let count = item.choices.as_ref().map_or(0, |choices| choices.texts.len());
            all.push(
                scores.by_ref().take(count).map(|scores| scores.iter().map(|score| f64::from(*score)).sum()).collect(),
            );
        }
        progress.step(chunk.len(), &format!("{} choices", variant.name()))?;
    }
    Ok(all)
}

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    pub base: Likelihood,
    pub tuned: Likelihood,
    /// Σ over positions of the divergence of tuned from base, in nats.
    pub kl: f64,
}

/// Base and tuned on general text, with the divergence of their predictions at every position.
pub fn drift(
    subject: &mut Subject,
    encoder: &Encoder,
    documents: &[Document],
    window: usize,
    progress: &mut Progress<'_, '_>,
) -> StageResult<Vec<Drift>> {
    let vocabulary = subject.vocabulary();
    let mut all = Vec::with_capacity(documents.len());
    for document in documents {
        let none = Likelihood { nats: 0.0, tokens: 0, bytes: document.text.len() };
        let mut sum = Drift { base: none, tuned: none, kl: 0.0 };
        for piece in cut(&encoder.rolling(&document.text)?, window) {
            let targets = &piece.tokens[1..];
            let context = &piece.tokens[..piece.tokens.len() - 1];
            let base = subject.variant(Variant::Base).logits(context)?;
            let tuned = subject.variant(Variant::Tuned).logits(context)?;
            let rows = base.chunks_exact(vocabulary).zip(tuned.chunks_exact(vocabulary));
            for ((base, tuned), target) in rows.zip(targets) {
                let found = divergence::between(base, tuned);
                let at = |row: &[f32], total: f64| {
                    row.get(*target as usize).map(|logit| f64::from(*logit) - total).ok_or_else(|| {
                        StageError::input(
                            "eval::vocabulary",
                            format!("document `{}`: token {target} is outside the model's vocabulary", document.id),
                        )
                        .hint("the tokenizer does not belong to the model; fetch both from one place")
                    })
                };
                sum.base.nats += at(base, found.log_totals[0])?;
                sum.tuned.nats += at(tuned, found.log_totals[1])?;
                sum.kl += found.kl;
            }
            sum.base.tokens += targets.len();
            sum.tuned.tokens += targets.len();
            progress.context.check_cancelled()?;
        }
        all.push(sum);
        progress.step(1, "general text")?;
    }
    Ok(all)
}

/// One model on general text.
pub fn general(
    subject: &mut Subject,
    encoder: &Encoder,
    documents: &[Document],
    window: usize,
    progress: &mut Progress<'_, '_>,
) -> StageResult<Vec<Likelihood>> {
    let model = subject.variant(Variant::Base);
    let mut all = Vec::with_capacity(documents.len());
    for document in documents {
        let pieces = cut(&encoder.rolling(&document.text)?, window);
        let tokens: Vec<&[u32]> = pieces.iter().map(|piece| piece.tokens.as_slice()).collect();
        let scores = model.token_log_probs(&tokens)?;
        all.push(Likelihood {
            nats: scores.iter().flatten().map(|score| f64::from(*score)).sum(),
            tokens: scores.iter().map(Vec::len).sum(),
            bytes: document.text.len(),
        });
        progress.step(1, "general text")?;
    }
    Ok(all)
}

/// Negative log-likelihoods over tokens, for perplexity.
pub fn per_token(likelihoods: &[Likelihood]) -> Vec<Part> {
    likelihoods.iter().map(|item| Part { value: -item.nats, weight: item.tokens as f64 }).collect()
}

/// Negative log-likelihoods in bits over bytes.
pub fn per_byte(likelihoods: &[Likelihood]) -> Vec<Part> {
    let bit = scalar::ln(2.0);
    likelihoods.iter().map(|item| Part { value: -item.nats / bit, weight: item.bytes as f64 }).collect()
}
