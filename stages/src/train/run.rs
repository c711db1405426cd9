//! One training, from inputs to adapter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Digest, StageContext, StageError, StageEvent, StageOutcome, StageResult};
use luthier_formats::decontaminated::Decontaminated;
use luthier_formats::model_files::ModelFiles;
use luthier_formats::tokenizer::Tokenizer;
use luthier_formats::tokens::TokenSet;
use luthier_model::adapter::{AdapterStamp, write_adapter};
use luthier_model::device::{Component, Device};
use luthier_model::memory::{MemoryPlan, RunShape, WeightTypes};
use luthier_model::profile::resident_peak;
use luthier_model::train::{Checkpoint, StepReport, TrainSpec, Trainer, Watchdog};
use luthier_model::{Decoder, LoadOptions, write_shards};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::bytes_text;
use super::config::TrainConfig;
use super::memory_table::memory_section;
use super::progress::{Meter, curves};
use crate::device::{self, Opened};

/// What validation has seen so far; kept in checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Validation {
    losses: Vec<(u64, f64)>,
    best: Option<(u64, f64)>,
    /// Validations since the best.
    stale: u64,
}

impl Validation {
    /// Without the one after a last step that is not due by `every`: what a longer run would have seen by then.
    fn regular(&self, every: u64) -> Self {
        let mut regular = Self::default();
        for (step, loss) in self.losses.iter().filter(|(step, _)| every > 0 && step % every == 0) {
            regular.losses.push((*step, *loss));
            regular.note(*step, *loss);
        }
        regular
    }

    /// Whether it is the best so far.
    fn note(&mut self, step: u64, loss: f64) -> bool {
        let better = self.best.is_none_or(|(_, best)| loss < best);
        if better {
            (self.best, self.stale) = (Some((step, loss)), 0);
        } else {
            self.stale += 1;
        }
        better
    }
}

pub(super) fn train(context: &mut StageContext<'_>, config: &TrainConfig) -> StageResult<StageOutcome> {
    let Opened { device, free, .. } = device::open(&config.device, config.compute(), context.threads())?;
    let driver = DriverMemory::new(free, &device);
    let (model, data) = (context.input("model")?.clone(), context.input("data")?.clone());
    let tokens = TokenSet::open(&data.path)?;
    let validation_input = context.optional_input("validation").cloned();
    let validation = validation_input.as_ref().map(|input| TokenSet::open(&input.path)).transpose()?;
    if config.validate_every > 0 && validation.is_none() {
        return Err(StageError::input(
            "train::no_validation",
            "`validate_every` is set, but input `validation` is not connected",
        )
        .hint("add `validation: STAGE` under `in:`, or remove `validate_every`"));
    }
    let mut spec = config.spec();
    if config.optimizer.is_paged() {
        spec.pages = Some(context.temporary());
    }
    if spec.offload && device.transfers().is_none() {
        spec.offload = false;
        context
            .log(format!("block inputs stay where they are: the device `{}` computes in host memory", device.name()));
    }
    let files = ModelFiles::open(&model.path)?;
    check_tokenizer(context, &model.path, &tokens, validation.as_ref())?;
    let longest = tokens.meta.longest.max(validation.as_ref().map_or(0, |set| set.meta.longest));
    context.progress(0, 0, "steps", "loading the base model");
    let options = LoadOptions { base: config.method.base(), positions: longest };
    let shape = RunShape::of_data(&tokens, &spec);
    let shape = validation.as_ref().map_or(shape, |set| shape.validated(set.meta.longest));
    let plan = MemoryPlan::of_device(
        files.config(),
        WeightTypes::of_files(&files, config.method.base()),
        &spec,
        shape,
        device.activation_type(),
        device.costs(),
    )?;
    let apart = device.transfers().is_some();
    let plan = if config.stream.is_none() { plan } else { plan.streamed(files.config(), apart) };
    check_memory(&device, free, &plan)?;
    let decoder = open_decoder(context, config, &device, &files, options)?;
    drop(files);
    context.check_cancelled()?;

    let mut trainer = Trainer::new(&decoder, &tokens, validation.as_ref(), spec)?;
    let mut outcome = StageOutcome::new();
    let skipped = tokens.bins.len() - trainer.units();
    if skipped > 0 {
        outcome.warn(format!("{skipped} of {} samples have no trained token and were left out", tokens.bins.len()));
    }
    let run = identity(context, config, &device, &[])?;
    trainer.check_gradients()?;
    let mut job = Job {
        context,
        config,
        run,
        validation_set: validation.as_ref(),
        validation: Validation::default(),
        best: Vec::new(),
        meter: Meter::new(),
        watchdog: Watchdog::default(),
        saved: None,
        continuation: continuation(context, config, &device, trainer.spec())?,
    };
    let resumed = job.resume(&mut trainer)?;
    job.steps(&mut trainer)?;
    job.finish(&mut trainer)?;
    trainer.settle()?;
    let driver = driver.taken(&device);
    job.keep_final(&trainer);

    let values = if job.best.is_empty() { trainer.values() } else { std::mem::take(&mut job.best) };
    let stamp = AdapterStamp { base: model.digest, quantizer: config.method.base().quantizer_id().to_owned() };
    let base_name = config.base_model.as_deref();
    let output = job.context.output("adapter");
    write_adapter(&output, &trainer.spec().lora, trainer.adapters().slots(), &values, base_name, &stamp)?;
    Decontaminated::read(&context.input("data")?.path)?.write(&output)?;

    report(&mut outcome, &job, &trainer, &plan, &device, resumed);
    if let Some(bytes) = driver {
        outcome.measured("driver_memory", bytes as f64, "bytes");
    }
    Ok(outcome)
}

/// What a driver takes beside the engine's buffers once it has been opened: modules, graphs, and what it rounds up.
struct DriverMemory {
    free: Option<usize>,
    counted: usize,
}

impl DriverMemory {
    fn new(free: Option<usize>, device: &Arc<dyn Device>) -> Self {
        Self { free, counted: device.ledger().total() }
    }

    /// Until now, as far as nobody else takes or frees memory of the device.
    fn taken(&self, device: &Arc<dyn Device>) -> Option<usize> {
        let taken = self.free?.saturating_sub(device.free_memory()?);
        Some(taken.saturating_sub(device.ledger().total().saturating_sub(self.counted)))
    }
}

/// Refuses tokens of another vocabulary, ids of which may all be in range; a model without a tokenizer cannot tell.
fn check_tokenizer(
    context: &StageContext<'_>,
    model: &Utf8Path,
    tokens: &TokenSet,
    validation: Option<&TokenSet>,
) -> StageResult<()> {
    let Ok(tokenizer) = Tokenizer::from_model(model) else { return Ok(()) };
    for (port, meta) in [("data", &tokens.meta)].into_iter().chain(validation.map(|set| ("validation", &set.meta))) {
        if meta.tokenizer == tokenizer.digest() {
            continue;
        }
        if meta.vocab_size != tokenizer.vocab_size() {
            return Err(StageError::input(
                "train::other_tokenizer",
                format!(
                    "the tokens of input `{port}` were made with a tokenizer of {} tokens, but that of `{model}` has {}",
                    meta.vocab_size,
                    tokenizer.vocab_size()
                ),
            )
            .hint("connect the same `model` to the tokenize stage and to this one"));
        }
        context.warn(
            format!("the tokens of input `{port}` were made with another tokenizer than that of `{model}`"),
            Some(
                "connect the same `model` to the tokenize stage, unless the two differ in special tokens only"
                    .to_owned(),
            ),
        );
    }
    Ok(())
}

/// Refuses what cannot fit before the model is read.
fn check_memory(device: &Arc<dyn Device>, free: Option<usize>, plan: &MemoryPlan) -> StageResult<()> {
    let Some(free) = free.filter(|free| plan.total() > *free) else { return Ok(()) };
    let mut parts: Vec<(Component, usize)> =
        Component::ALL.into_iter().map(|component| (component, plan.bytes(component))).collect();
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, bytes)| *bytes > 0)
        .take(3)
        .map(|(component, bytes)| format!("{component} {}", bytes_text(*bytes)))
        .collect();
    Err(StageError::input(
        "train::device_memory",
        format!(
            "this training needs {} on the device `{}`, which has {} free; most of it: {}",
            bytes_text(plan.total()),
            device.name(),
            bytes_text(free),
            parts.join(", "),
        ),
    )
    .hint("lower `batch`, set `checkpointing: true` or `method: qlora`; `luthier plan --memory` shows every part"))
}

/// Everything that the bytes of a checkpoint depend on, without the keys `but` of `with`.
fn identity(
    context: &StageContext<'_>,
    config: &TrainConfig,
    device: &Arc<dyn Device>,
    but: &[&str],
) -> StageResult<Digest> {
    let mut with = serde_json::to_value(config)
        .map_err(|error| StageError::new("train::config", "the configuration cannot be written").caused_by(error))?;
    if let Some(with) = with.as_object_mut() {
        for name in but.iter().chain(&super::UNKEYED) {
            with.shift_remove(*name);
        }
    }
    let digests = |port: &str| context.inputs(port).iter().map(|input| input.digest).collect::<Vec<_>>();
    let identity = json!({
        "recipe": super::RECIPE, "with": with, "class": device.numeric_class(),
        "model": digests("model"), "data": digests("data"), "validation": digests("validation"),
    });
    Ok(Digest::of(identity.to_string().as_bytes()))
}

/// Where a finished run leaves its state for a longer one. Only where the first steps of the longer run are those of the
/// shorter: neither the schedule nor the warm-up may depend on how many there are (so a falling schedule must have its
/// `decay_steps`), early stopping must be off, and the last step must have been a whole one.
struct Continuation {
    directory: Utf8PathBuf,
    run: Digest,
}

fn continuation(
    context: &StageContext<'_>,
    config: &TrainConfig,
    device: &Arc<dyn Device>,
    spec: &TrainSpec,
) -> StageResult<Option<Continuation>> {
    if !spec.rate_is_independent_of_length() || config.early_stopping > 0 {
        return Ok(None);
    }
    let run = identity(context, config, device, &["steps", "epochs"])?;
    Ok(Some(Continuation { directory: context.cache().join("train").join(run.hex()), run }))
}

/// The base in memory, or on disk with two blocks in memory; its shards are kept for the next run on the same model.
fn open_decoder(
    context: &StageContext<'_>,
    config: &TrainConfig,
    device: &Arc<dyn Device>,
    files: &ModelFiles,
    options: LoadOptions,
) -> StageResult<Decoder> {
    if config.stream.is_none() {
        return Decoder::load(device, files, options);
    }
    let directory = context.cache().join("nf4").join(context.input("model")?.digest.hex());
    context.progress(0, 0, "steps", "quantising the base model to disk");
    write_shards(files, &directory)?;
    Decoder::stream(device, files.config(), &directory, options.positions)
}

struct Job<'j, 'c> {
    context: &'j StageContext<'c>,
    config: &'j TrainConfig,
    run: Digest,
    validation_set: Option<&'j TokenSet>,
    validation: Validation,
    /// The best adapter's values so far, where early stopping keeps them.
    best: Vec<f32>,
    meter: Meter,
    watchdog: Watchdog,
    /// Step of the last checkpoint on disk.
    saved: Option<u64>,
    continuation: Option<Continuation>,
}

impl Job<'_, '_> {
    /// Goes on from the checkpoint of an earlier attempt; the step it continues from.
    fn resume(&mut self, trainer: &mut Trainer<'_>) -> StageResult<Option<u64>> {
        let directory = self.context.checkpoint();
        let loaded = match Checkpoint::load(&directory, self.run) {
            Ok(loaded) => loaded,
            Err(error) if error.code == "train::damaged_checkpoint" => {
                self.context.warn(format!("{error}; training starts over"), None);
                None
            }
            Err(error) => return Err(error),
        };
        let found = loaded.or_else(|| {
            // An execution that must make everything itself does not go on from a shorter one either.
            let continuation = self.continuation.as_ref().filter(|_| !self.context.request().fresh)?;
            let (checkpoint, note) = Checkpoint::load(&continuation.directory, continuation.run).ok()??;
            let whole = checkpoint.step * trainer.spec().per_step() <= trainer.spec().last_position(trainer.units());
            whole.then_some((checkpoint, note))
        });
        let Some((checkpoint, note)) = found else { return Ok(None) };
        trainer.restore(&checkpoint)?;
        self.validation = serde_json::from_value(note).unwrap_or_default();
        self.best = checkpoint.extra;
        for record in &checkpoint.history {
            self.watchdog.recall(record.loss);
        }
        self.saved = Some(checkpoint.step);
        self.context.log(format!("resumed from the checkpoint of step {}", checkpoint.step));
        Ok(Some(checkpoint.step))
    }

    fn save(&mut self, trainer: &Trainer<'_>) -> StageResult<()> {
        trainer.settle()?;
        let checkpoint = Checkpoint { extra: self.best.clone(), ..trainer.checkpoint() };
        let note = serde_json::to_value(&self.validation).unwrap_or_default();
        checkpoint.save(&self.context.checkpoint(), self.run, &note)?;
        self.saved = Some(checkpoint.step);
        Ok(())
    }

    /// Leaves the last state for a run of more steps. It can be made again, so failing to is only a warning.
    fn keep_final(&self, trainer: &Trainer<'_>) {
        let Some(continuation) = &self.continuation else { return };
        let (spec, units) = (trainer.spec(), trainer.units());
        if trainer.step() * spec.per_step() != spec.last_position(units) {
            return;
        }
        let note = serde_json::to_value(self.validation.regular(self.config.validate_every)).unwrap_or_default();
        if let Err(error) = trainer.checkpoint().save(&continuation.directory, continuation.run, &note) {
            self.context.warn(format!("the final state was not kept for a longer run: {error}"), None);
        }
    }

    fn steps(&mut self, trainer: &mut Trainer<'_>) -> StageResult<()> {
        let total = trainer.total();
        let mut last_save = Instant::now();
        let mut due = false;
        self.meter = Meter::new();
        while trainer.step() < total && !self.stopped() {
            if self.context.cancel().is_cancelled() {
                self.save(trainer)?;
                return Err(StageError::interrupted()
                    .hint(format!("step {} is saved; run again to go on from there", trainer.step())));
            }
            let report = trainer.compute()?;
            if let Err(error) = self.watchdog.check(&report, self.saved) {
                return Err(self.explained(trainer, &report, error)?);
            }
            // A state is good if the step after it computes: saved before that, a broken one would replace the last good.
            if due && self.watchdog.is_calm() {
                self.save(trainer)?;
                (due, last_save) = (false, Instant::now());
            }
            trainer.apply()?;
            self.meter.step(self.context, &report, total);
            let step = trainer.step();
            let every = self.config.validate_every;
            if every > 0 && step % every == 0 && step < total {
                self.validate(trainer)?;
            }
            let by_steps = self.config.checkpoint_every > 0 && step % self.config.checkpoint_every == 0;
            let seconds = self.config.checkpoint_seconds;
            let by_time = seconds > 0 && last_save.elapsed() >= Duration::from_secs(seconds);
            due |= by_steps || by_time;
        }
        Ok(())
    }

    /// The error of a step that went wrong; where activations left the range of f16, with the place.
    fn explained(&self, trainer: &mut Trainer<'_>, report: &StepReport, error: StageError) -> StageResult<StageError> {
        if report.loss.is_finite() {
            return Ok(error);
        }
        let what = format!("step {} has loss {}", report.step, report.loss);
        Ok(trainer.overflow(&what)?.unwrap_or(error))
    }

    fn stopped(&self) -> bool {
        self.config.early_stopping > 0 && self.validation.stale >= self.config.early_stopping
    }

    fn validate(&mut self, trainer: &mut Trainer<'_>) -> StageResult<()> {
        let Some(set) = self.validation_set else { return Ok(()) };
        let loss = trainer.evaluate(set)?;
        let step = trainer.step();
        self.validation.losses.push((step, loss));
        self.context.emit(StageEvent::Point { series: "validation_loss".to_owned(), x: step as f64, y: loss });
        if self.validation.note(step, loss) && self.config.early_stopping > 0 {
            self.best = trainer.values();
        }
        Ok(())
    }

    /// The validation after the last step.
    fn finish(&mut self, trainer: &mut Trainer<'_>) -> StageResult<()> {
        let done = self.validation.losses.last().is_some_and(|(step, _)| *step == trainer.step());
        if done { Ok(()) } else { self.validate(trainer) }
    }
}

fn report(
    outcome: &mut StageOutcome,
    job: &Job<'_, '_>,
    trainer: &Trainer<'_>,
    plan: &MemoryPlan,
    device: &Arc<dyn Device>,
    resumed: Option<u64>,
) {
    let history = trainer.history();
    let tail = &history[history.len() - history.len().min(10)..];
    let trained: u64 = tail.iter().map(|record| record.trained).sum();
    let mean = tail.iter().map(|record| record.loss * record.trained as f64).sum::<f64>() / (trained as f64).max(1.0);
    outcome
        .metric("loss_first", history.first().map_or(0.0, |record| record.loss), "nats")
        .metric("loss", mean, "nats")
        .metric("steps", trainer.step() as f64, "steps")
        .metric("tokens", history.iter().map(|record| record.tokens).sum::<u64>() as f64, "tokens")
        .metric("trained_tokens", history.iter().map(|record| record.trained).sum::<u64>() as f64, "tokens")
        .metric("trainable_parameters", plan.trainable_parameters as f64, "");
    if trainer.loss_scale().is_some() {
        outcome.metric("skipped_steps", trainer.skipped() as f64, "steps");
    }
    if let Some((step, loss)) = job.validation.best {
        outcome.metric("validation_loss_best", loss, "nats").metric("validation_best_step", step as f64, "steps");
    }
    if let Some((_, loss)) = job.validation.losses.last() {
        outcome.metric("validation_loss", *loss, "nats");
    }
    outcome
        .measured("tokens_per_second", job.meter.tokens_per_second(), "tokens/s")
        .measured("tokens_per_second_best", job.meter.best(), "tokens/s")
        .measured("trained_tokens_per_second", job.meter.trained_per_second(), "tokens/s")
        .measured("training_seconds", job.meter.seconds(), "s")
        .measured("engine_memory", device.ledger().total_peak() as f64, "bytes")
        .measured("planned_memory", plan.total() as f64, "bytes");
    if plan.host.total() > 0 {
        outcome.measured("host_memory", device.ledger().host_total_peak() as f64, "bytes");
    }
    let resident = resident_peak();
    if let Some(resident) = resident {
        outcome.measured("resident_memory", resident as f64, "bytes");
    }
    if let Some(step) = resumed {
        outcome.measured("resumed_from", step as f64, "steps");
    }
    for section in curves(history, &job.validation.losses) {
        outcome.section(section);
    }
    outcome.section(memory_section(plan, device.ledger(), resident));
}
