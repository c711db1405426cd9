//! One evaluation, from inputs to `scores.json`.

use luthier_core::fs::write_atomic;
use luthier_core::{ErrorClass, StageContext, StageError, StageOutcome, StageResult};

use super::config::{EvalConfig, GenerationConfig};
use super::contamination::Contamination;
use super::data::{Document, Item, read_general, read_items};
use super::expect::{Expectation, Verdict, short};
use super::measure::{self, Answer, Progress};
use super::metrics::{Comparison, Part, choice_parts};
use super::scores::{AnswerRecord, Metric, Scale, Scores, VERSION};
use super::subject::{Encoder, Subject, Variant};
use crate::device::{self, Opened};

/// What there is to do, read and encoded before the model is loaded.
struct Work {
    encoder: Encoder,
    items: Vec<Item>,
    prompts: Vec<Vec<u32>>,
    general: Option<(String, Vec<Document>)>,
    longest: usize,
}

impl Work {
    /// A window that the model takes, its token of context included.
    fn window(&self, wanted: u32) -> usize {
        (wanted as usize).min(self.longest - 1)
    }
}

pub fn evaluate(context: &StageContext<'_>, config: &EvalConfig) -> StageResult<StageOutcome> {
    let model = context.input("model")?;
    let adapter = context.optional_input("adapter");
    let variants: &[Variant] = if adapter.is_some() { &[Variant::Base, Variant::Tuned] } else { &[Variant::Base] };
    let contamination = Contamination::check(context)?;
    let work = read(context, config)?;
    check_expectations(config, adapter.is_some())?;
    context.check_cancelled()?;
    let Opened { device, .. } = device::open(&config.device, config.compute(), context.threads())?;
    let mut subject = Subject::load(
        &model.path,
        adapter.map(|adapter| adapter.path.as_path()),
        config.precision,
        work.longest,
        &device,
    )?;

    let tasks = usize::from(config.generation.is_some())
        + usize::from(config.perplexity.is_some())
        + usize::from(config.multiple_choice.is_some());
    let documents = work.general.as_ref().map_or(0, |(_, documents)| documents.len());
    let mut progress = Progress::new(context, tasks * work.items.len() * variants.len() + documents);
    let mut scores = Scores {
        version: VERSION,
        items: work.items.len(),
        precision: subject.precision.to_owned(),
        template: work.encoder.uses_template(),
        general: work.general.as_ref().map(|(name, _)| name.clone()),
        metrics: Vec::new(),
        expectations: Vec::new(),
        answers: Vec::new(),
    };
    if let Some(generation) = &config.generation {
        let mut answers = Vec::new();
        for variant in variants {
            answers.push(measure::generate(
                &mut subject,
                *variant,
                &work.encoder,
                &work.prompts,
                generation,
                &mut progress,
            )?);
        }
        score_answers(&mut scores, generation, &work.items, &answers, config.seed)?;
    }
    if let Some(perplexity) = &config.perplexity {
        let mut likelihoods = Vec::new();
        for variant in variants {
            let window = work.window(perplexity.window);
            likelihoods.push(measure::references(
                &mut subject,
                *variant,
                &work.encoder,
                &work.items,
                window,
                &mut progress,
            )?);
        }
        let tokens: Vec<Vec<Part>> = likelihoods.iter().map(|each| measure::per_token(each)).collect();
        let bytes: Vec<Vec<Part>> = likelihoods.iter().map(|each| measure::per_byte(each)).collect();
        scores.metrics.push(Metric::new("perplexity", false, Scale::Exponential, &tokens, config.seed));
        scores.metrics.push(Metric::new("bits_per_byte", false, Scale::Plain, &bytes, config.seed));
    }
    if let Some(choice) = &config.multiple_choice {
        let mut parts: [Vec<Vec<Part>>; 3] = Default::default();
        for variant in variants {
            let found = measure::choices(&mut subject, *variant, &work.encoder, &work.items, choice, &mut progress)?;
            let mut columns: [Vec<Part>; 3] = Default::default();
            for (item, scores) in work.items.iter().zip(&found) {
                let Some(choices) = &item.choices else { continue };
                for (column, part) in columns.iter_mut().zip(choice_parts(&choices.texts, scores, choices.gold)) {
                    column.push(part);
                }
            }
            for (parts, column) in parts.iter_mut().zip(columns) {
                parts.push(column);
            }
        }
        for (name, parts) in ["acc", "acc_norm", "acc_bytes"].into_iter().zip(&parts) {
            scores.metrics.push(Metric::new(name, true, Scale::Plain, parts, config.seed));
        }
    }
    if let Some((_, documents)) = &work.general {
        let window = work.window(config.forgetting.window);
        if adapter.is_some() {
            let drift = measure::drift(&mut subject, &work.encoder, documents, window, &mut progress)?;
            let sides = [
                drift.iter().map(|drift| drift.base).collect::<Vec<_>>(),
                drift.iter().map(|drift| drift.tuned).collect::<Vec<_>>(),
            ];
            general_metrics(&mut scores, &sides, config.seed);
            let kl: Vec<Part> =
                drift.iter().map(|drift| Part { value: drift.kl, weight: drift.base.tokens as f64 }).collect();
            scores.metrics.push(Metric::of_tuned("general_kl", &kl));
        } else {
            let found = measure::general(&mut subject, &work.encoder, documents, window, &mut progress)?;
            general_metrics(&mut scores, &[found], config.seed);
        }
    }
    judge(&mut scores, config)?;
    let bytes = serde_json::to_vec_pretty(&scores)
        .map_err(|error| StageError::new("eval::write", "the scores cannot be written as JSON").caused_by(error))?;
    write_atomic(&context.output("scores"), &bytes)?;
    fail_if_expected(&scores.expectations)?;
    let samples = config.generation.as_ref().map_or(0, |generation| generation.samples as usize);
    let mut outcome = scores.outcome(samples);
    contamination.report(&mut outcome);
    Ok(outcome)
}

/// Reads and encodes everything, so that bad rows are found before the model is loaded.
fn read(context: &StageContext<'_>, config: &EvalConfig) -> StageResult<Work> {
    let model = context.input("model")?;
    let (shape, items) = if config.needs_data() {
        let data = context.input("data")?;
        let choice = config.multiple_choice.as_ref();
        let (shape, items) = read_items(&data.path, config.system.as_deref(), choice, config.limit)?;
        (Some(shape), items)
    } else {
        (None, Vec::new())
    };
    let encoder = Encoder::open(&model.path, shape, config.template)?;
    let mut longest = 2;
    let mut prompts = Vec::new();
    if let Some(generation) = &config.generation {
        for item in &items {
            if matches!(item.prompt, super::data::Prompt::Nothing) {
                return Err(StageError::input(
                    "eval::no_prompts",
                    "the rows of `data` are plain text: there is nothing to answer",
                )
                .hint("give prompt/completion or chat rows, or measure `perplexity: {}` instead of `generation`"));
            }
            let room = generation.max_new_tokens as usize;
            let prompt = encoder.prompt(item, room)?;
            longest = longest.max(prompt.len() + room);
            prompts.push(prompt);
        }
    }
    if let Some(perplexity) = &config.perplexity {
        for item in &items {
            longest = longest.max(match item.prompt {
                super::data::Prompt::Nothing => perplexity.window as usize + 1,
                super::data::Prompt::Messages(_) => encoder.reference(item)?.tokens.len(),
            });
        }
    }
    if let Some(choice) = &config.multiple_choice {
        for item in &items {
            for text in item.choices.iter().flat_map(|choices| &choices.texts) {
                longest = longest.max(encoder.choice(item, text, &choice.delimiter)?.tokens.len());
            }
        }
    }
    let general = if config.forgetting.enabled {
        Some(read_general(context.optional_input("general"), &config.forgetting)?)
    } else {
        None
    };
    if general.is_some() {
        longest = longest.max(config.forgetting.window as usize + 1);
    }
    let longest = longest.min(encoder.positions());
    Ok(Work { encoder, items, prompts, general, longest })
}

fn score_answers(
    scores: &mut Scores,
    config: &GenerationConfig,
    items: &[Item],
    answers: &[Vec<Answer>],
    seed: u64,
) -> StageResult<()> {
    let comparison = Comparison::new(config).map_err(|error| {
        StageError::input("eval::pattern", "a regular expression does not compile").caused_by(error)
    })?;
    let higher = |name: &str| !name.ends_with("error_rate");
    for metric in &config.metrics {
        let parts: Vec<Vec<Part>> = answers
            .iter()
            .map(|answers| {
                answers
                    .iter()
                    .zip(items)
                    .map(|(answer, item)| {
                        let (answer, reference) = (comparison.answer(&answer.text), comparison.answer(&item.reference));
                        comparison.part(*metric, answer, reference)
                    })
                    .collect()
            })
            .collect();
        scores.metrics.push(Metric::new(metric.name(), higher(metric.name()), Scale::Plain, &parts, seed));
    }
    let ended: Vec<Vec<Part>> = answers
        .iter()
        .map(|answers| answers.iter().map(|answer| Part::of(f64::from(answer.ended))).collect())
        .collect();
    scores.metrics.push(Metric::new("ended", true, Scale::Plain, &ended, seed));
    scores.answers = items
        .iter()
        .enumerate()
        .map(|(index, item)| AnswerRecord {
            id: item.id.clone(),
            prompt: item.prompt.text(),
            reference: item.reference.clone(),
            base: answers[0][index].text.clone(),
            tuned: answers.get(1).map(|answers| answers[index].text.clone()),
        })
        .collect();
    Ok(())
}

fn general_metrics(scores: &mut Scores, sides: &[Vec<measure::Likelihood>], seed: u64) {
    let bytes: Vec<Vec<Part>> = sides.iter().map(|side| measure::per_byte(side)).collect();
    let tokens: Vec<Vec<Part>> = sides.iter().map(|side| measure::per_token(side)).collect();
    scores.metrics.push(Metric::new("general_perplexity", false, Scale::Exponential, &tokens, seed));
    scores.metrics.push(Metric::new("general_bits_per_byte", false, Scale::Plain, &bytes, seed));
}

/// Expectations that name what will never be measured fail before anything is computed.
fn check_expectations(config: &EvalConfig, adapter: bool) -> StageResult<()> {
    for name in config.expect.keys() {
        if !adapter && !name.starts_with("base.") {
            return Err(StageError::input(
                "eval::expectation",
                format!("`expect.{name}` asks for a tuned score, but no adapter is connected"),
            )
            .hint("add `adapter: STAGE` under `in:`, or expect `base.METRIC`"));
        }
    }
    Ok(())
}

fn judge(scores: &mut Scores, config: &EvalConfig) -> StageResult<()> {
    let named = scores.named();
    for (name, condition) in &config.expect {
        let expectation = Expectation::parse(name, condition)
            .map_err(|issue| StageError::input("eval::expectation", issue.message))?;
        let verdict = expectation.judge(&named).ok_or_else(|| {
            let known: Vec<&str> = named.keys().map(String::as_str).collect();
            StageError::input(
                "eval::expectation",
                format!("there is no score `{}` to expect anything of", expectation.name()),
            )
            .hint(format!("scores are [`{}`]", known.join("`, `")))
        })?;
        scores.expectations.push(verdict);
    }
    Ok(())
}

fn fail_if_expected(verdicts: &[Verdict]) -> StageResult<()> {
    let failed: Vec<&Verdict> = verdicts.iter().filter(|verdict| !verdict.holds).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = failed
        .iter()
        .map(|verdict| {
            format!(
                "`{}` is {}, expected {} (`{}`)",
                verdict.name,
                short(verdict.found),
                verdict.wanted,
                verdict.condition
            )
        })
        .collect();
    Err(StageError::new("eval::expectation_failed", list.join("; "))
        .class(ErrorClass::Expectation)
        .hint("look at the answers in the run's report, then train longer or lower the bar under `expect:`"))
}
