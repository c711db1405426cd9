//! The steps of a run: found, built, opened.

use std::sync::{Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use luthier_core::{ConfigIssue, Digest, ShardCache, ShardKey, Stage, StageContext, StageError, StageResult};
use luthier_formats::dataset::DatasetShape;
use luthier_formats::tokenizer::Tokenizer;
use luthier_plugins::{
    BuildOptions, Builtin, CompiledCache, FilterEngine, JudgeError, Limits, Manifest, OnTrap, Plugin, PluginComponent,
    PluginSource, TextBatch, TextColumn, Verdicts, Worker, build_plugin,
};
use serde_json::{Value, json};

use super::FilterStage;
use super::ahead::{Ahead, Neighbours, served};
use super::bounds::{self, Bounds};
use super::column::{Judged, check_column, texts_of};
use super::config::{OnTrapConfig, RunMode, StepConfig, StepKind, source_label};
use super::decontaminate::{DecontaminateStep, whole_row};
use super::dedup::{DedupConfig, DedupMethod, ExactDedup, KnownCopies, MinHasher};
use super::funnel::StepAccount;
use super::known::{KnownVerdicts, spread, subset};
use super::ledger::{Seen, seen, seen_as_it_came};
use super::rows::RowStep;
use super::tokens::{self, TokensStep};

/// Checks a built-in: its name, its configuration; puts what decides its output into the key.
pub(super) fn prepare_builtin(
    step: &StepConfig,
    name: &str,
    path: &str,
    key: &mut Value,
    issues: &mut Vec<ConfigIssue>,
) {
    match Builtin::find(name) {
        Err((message, help)) => issues.push(ConfigIssue::new(format!("{path}.plugin"), message).help(help)),
        Ok(builtin) => {
            // Native or WebAssembly: the verdicts are equal, so `run` is not part of the key.
            key["plugin"] = json!({"builtin": name, "version": builtin.manifest().version});
            if let Some((score, message, help)) =
                step.keep.as_ref().and_then(|keep| bounds::unknown_score(keep, &builtin.manifest()))
            {
                issues.push(ConfigIssue {
                    on_key: true,
                    ..ConfigIssue::new(format!("{path}.keep.{score}"), message).help(help)
                });
            }
            let config = Value::Object(step.config.clone().unwrap_or_default());
            for (at, message) in builtin.check(&config) {
                let at = if at.is_empty() { format!("{path}.config") } else { format!("{path}.config.{at}") };
                let at = if step.config.is_some() { at } else { path.to_owned() };
                issues.push(ConfigIssue::new(at, message));
            }
        }
    }
}

/// A step, ready for rows.
pub(super) enum Step {
    Plugin(Box<PluginStep>),
    Exact(ExactStep),
    MinHash(MinHashStep),
    Rows(Box<dyn RowStep>),
}

impl Step {
    /// Forgets the rows of a pass, for the next one over the same rows.
    pub fn rewind(&mut self) {
        match self {
            Self::Plugin(_) | Self::Rows(_) => {}
            Self::Exact(step) => step.dedup.rewind(),
            Self::MinHash(step) => step.copies.rewind(),
        }
    }

    pub fn plugin(&self) -> Option<&PluginStep> {
        match self {
            Self::Plugin(step) => Some(step),
            Self::Exact(_) | Self::MinHash(_) | Self::Rows(_) => None,
        }
    }

    /// Rows that a plugin was asked about, for which no earlier run had an answer.
    pub fn judged(&self) -> Option<u64> {
        match self {
            Self::Plugin(step) => Some(step.known.judged()),
            Self::Exact(_) | Self::MinHash(_) | Self::Rows(_) => None,
        }
    }

    /// Whether it must see all of `rows` rows before it can say anything of one.
    pub fn needs_pass(&self, rows: u64) -> bool {
        match self {
            Self::Plugin(_) | Self::Rows(_) => false,
            Self::Exact(step) => !ExactDedup::fits(rows, step.memory),
            Self::MinHash(_) => true,
        }
    }

    pub fn account(&self) -> StepAccount {
        match self {
            Self::Plugin(step) => {
                StepAccount::new(&step.name, step.manifest.scores.iter().map(|score| score.name.clone()))
            }
            Self::Exact(step) => StepAccount::new(&step.name, []),
            Self::MinHash(step) => StepAccount::new(&step.name, []),
            Self::Rows(step) => StepAccount::new(step.name(), step.scores().iter().map(|score| (*score).to_owned())),
        }
    }
}

/// Judges rows one by one; shared by all threads.
pub(super) struct PluginStep {
    pub name: String,
    judged: Judged,
    manifest: Manifest,
    pool: WorkerPool,
    on_trap: OnTrap,
    pub max_traps: u64,
    limits: Limits,
    /// Thresholds on scores, applied here.
    pub bounds: Bounds,
    pub known: KnownVerdicts,
    /// All that it reads.
    pub columns: Vec<String>,
    /// What is seen of a row that nothing has edited yet, where the digest of a shard covers all that is read.
    as_it_came: Option<Seen>,
    neighbours: Neighbours,
}

/// Drops repeated rows, in row order.
pub(super) struct ExactStep {
    pub name: String,
    columns: Vec<String>,
    pub memory: usize,
    pub dedup: ExactDedup,
}

/// Drops rows that are nearly equal to others. Which they are is known after a pass over all rows.
pub(super) struct MinHashStep {
    pub name: String,
    columns: Vec<String>,
    hasher: MinHasher,
    pub memory: usize,
    pub copies: KnownCopies,
}

/// Workers that no thread uses at the moment; each thread takes one for a batch.
struct WorkerPool {
    plugin: Plugin,
    config: Value,
    idle: Mutex<Vec<Worker>>,
}

/// What a plugin said about a batch.
pub(super) struct Judgement {
    pub verdicts: Verdicts,
    pub lines: Vec<String>,
    /// What the steps behind it said by the way.
    pub ahead: Option<Ahead>,
}

/// The rows of a shard that come to a step.
pub(super) struct Arrived<'a> {
    /// Of the shard.
    pub digest: &'a Digest,
    /// Their numbers in the shard.
    pub rows: &'a [u32],
    pub texts: TextBatch<'a>,
    /// Of each row.
    pub seen: Vec<Seen>,
    pub ahead: &'a [Ahead],
}

impl WorkerPool {
    fn take(&self) -> StageResult<Worker> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.plugin.open(&self.config), Ok)
    }

    fn put(&self, worker: Worker) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }
}

impl PluginStep {
    fn native(&self) -> Option<Builtin> {
        match self.pool.plugin {
            Plugin::Native(builtin) => Some(builtin),
            Plugin::Component(_) => None,
        }
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The judged texts of a batch.
    pub fn texts<'a>(&self, batch: &'a RecordBatch) -> StageResult<TextBatch<'a>> {
        let reads = self.manifest.reads.iter().map(|name| texts_of(batch, name)).collect::<StageResult<_>>()?;
        Ok(TextBatch { texts: self.judged.texts(batch)?, reads })
    }

    /// The judged column alone.
    pub fn judged_texts<'a>(&self, batch: &'a RecordBatch) -> StageResult<TextColumn<'a>> {
        self.judged.texts(batch)
    }

    /// The column that edits go into.
    pub fn edited_column(&self) -> Option<&str> {
        match &self.judged {
            Judged::Column(name) => Some(name),
            Judged::Joined(_) | Judged::Messages => None,
        }
    }

    /// What it sees of each row; `untouched` says whether row `row` is as it came in, as far as this step reads it.
    pub fn seen(&self, texts: &TextBatch<'_>, untouched: impl Fn(usize) -> bool) -> Vec<Seen> {
        let of = |row: usize| self.as_it_came.filter(|_| untouched(row)).unwrap_or_else(|| seen(texts, row));
        (0..texts.rows()).map(of).collect()
    }

    /// Judges the rows as far as `cache` does not know them. The step is number `place`, with `behind` after it;
    /// `row_of` names a row in an error.
    pub fn judge(
        &self,
        cache: &ShardCache,
        arrived: &Arrived<'_>,
        place: usize,
        behind: &[Step],
        row_of: &dyn Fn(usize) -> String,
    ) -> StageResult<Judgement> {
        let (mut lines, mut ahead) = (Vec::new(), None);
        let Arrived { digest, rows, texts, seen, .. } = arrived;
        let verdicts = self.known.get_or_judge(cache, digest, rows, seen, texts, |texts, places| {
            let rows: Vec<u32> = places.iter().map(|at| rows[*at]).collect();
            let (mut verdicts, missing) = served(arrived.ahead, place, &rows, self.manifest.scores.len());
            if missing.is_empty() {
                return Ok(verdicts);
            }
            let behind = self.behind(behind, |step| !step.known.knows(cache, digest));
            let mut judge = |texts: &TextBatch<'_>| -> StageResult<Verdicts> {
                let rows = missing.iter().map(|at| rows[*at]).collect();
                if let Some((own, others)) = self.judge_with(&behind, texts, place, rows)? {
                    ahead = Some(others);
                    return Ok(own);
                }
                let judged = self.judge_all(texts, &|row| row_of(places[missing[row]]))?;
                lines = judged.lines;
                Ok(judged.verdicts)
            };
            if missing.len() == rows.len() {
                return judge(texts);
            }
            let judged = judge(&subset(texts, &missing))?;
            spread(&mut verdicts, judged, &missing);
            Ok(verdicts)
        })?;
        Ok(Judgement { verdicts, lines, ahead })
    }

    /// The neighbours among the steps behind it, up to the first that is not `wanted`.
    fn behind<'a>(&self, behind: &'a [Step], wanted: impl Fn(&PluginStep) -> bool) -> Vec<&'a PluginStep> {
        let neighbours = behind.iter().take(self.neighbours.behind());
        neighbours.map_while(|step| step.plugin().filter(|step| wanted(step))).collect()
    }

    /// Judges `rows` with the steps behind it; `None` without any, or where one of them refuses a row, which it then says
    /// when its turn comes.
    fn judge_with(
        &self,
        behind: &[&PluginStep],
        texts: &TextBatch<'_>,
        place: usize,
        rows: Vec<u32>,
    ) -> StageResult<Option<(Verdicts, Ahead)>> {
        if behind.is_empty() {
            return Ok(None);
        }
        let bounds: Vec<&Bounds> =
            std::iter::once(&self.bounds).chain(behind.iter().map(|step| &step.bounds)).collect();
        let goes = |step: usize, verdicts: &Verdicts, row: usize| {
            verdicts.drop[row] != 0 || bounds[step].reason(&verdicts.scores, verdicts.drop.len(), row).is_some()
        };
        let Some(mut verdicts) = self.neighbours.judge(texts, bounds.len(), goes)? else { return Ok(None) };
        let reached =
            |row: usize| (0..behind.len()).find(|step| goes(*step, &verdicts[*step], row)).unwrap_or(behind.len());
        let reached = (0..rows.len()).map(reached).collect();
        let own = verdicts.remove(0);
        Ok(Some((own, Ahead::new(place + 1, rows, reached, verdicts))))
    }

    fn judge_all(&self, texts: &TextBatch<'_>, row_of: &dyn Fn(usize) -> String) -> StageResult<Judgement> {
        let mut worker = self.pool.take()?;
        let answer = worker.judge(texts, self.on_trap);
        let lines = worker.take_lines();
        match answer {
            Ok(verdicts) => {
                self.pool.put(worker);
                Ok(Judgement { verdicts, lines, ahead: None })
            }
            Err(JudgeError::Open(error)) => Err(error),
            Err(JudgeError::Row(failed)) => {
                let message = format!("plugin `{}` failed on {}: it {}", self.name, row_of(failed.row), failed.fault);
                Err(StageError::new("filter::plugin_failed", message).hint(failed.fault.hint(&self.limits)))
            }
        }
    }
}

impl ExactStep {
    /// One digest per row.
    pub fn digests(&self, batch: &RecordBatch) -> StageResult<Vec<u128>> {
        let columns: Vec<_> = self.columns.iter().map(|name| texts_of(batch, name)).collect::<StageResult<Vec<_>>>()?;
        Ok((0..batch.num_rows()).map(|row| self.dedup.digest(columns.iter().map(|column| column.get(row)))).collect())
    }

    /// The compared text of each row, for samples.
    pub fn texts<'a>(&self, batch: &'a RecordBatch) -> StageResult<TextColumn<'a>> {
        Judged::of(&self.columns).texts(batch)
    }
}

impl MinHashStep {
    /// The compared text of each row.
    pub fn texts<'a>(&self, batch: &'a RecordBatch) -> StageResult<TextColumn<'a>> {
        Judged::of(&self.columns).texts(batch)
    }

    /// The bucket keys of each row.
    pub fn keys(&self, batch: &RecordBatch) -> StageResult<Vec<Option<Vec<u64>>>> {
        let texts = self.texts(batch)?;
        Ok(texts.iter().map(|text| self.hasher.keys(text)).collect())
    }
}

/// Finds, builds and opens every step for a dataset of this schema.
pub(super) fn open_steps(
    context: &StageContext<'_>,
    steps: &[StepConfig],
    names: &[String],
    shape: DatasetShape,
    schema: &Schema,
) -> StageResult<Vec<Step>> {
    let mut engines = Engines { plain: None, metered: None };
    let mut opened = Vec::with_capacity(steps.len());
    for (index, (step, name)) in steps.iter().zip(names).enumerate() {
        context.check_cancelled()?;
        let on = step.on.as_ref().map(|on| on.0.clone());
        let step = match step.kind() {
            Some(StepKind::Plugin(plugin)) => {
                context.progress(index as u64, steps.len() as u64, "plugins", format!("preparing {name}"));
                let plugin = load(context, index, plugin, step, name, &mut engines)?;
                open_plugin(plugin, step, name, on.as_deref(), shape, schema)?
            }
            Some(StepKind::Dedup(dedup)) => open_dedup(dedup, name, on, shape, schema)?,
            Some(StepKind::Decontaminate(config)) => {
                let judged = on.map_or_else(|| whole_row(shape), |columns| Judged::of(&columns));
                judged.check(schema, name)?;
                context.progress(index as u64, steps.len() as u64, "plugins", format!("reading for {name}"));
                Step::Rows(Box::new(DecontaminateStep::open(context, *config, name, judged)?))
            }
            Some(StepKind::Tokens(bounds)) => {
                let judged = on.map_or_else(|| Judged::default_of(shape), |columns| Judged::of(&columns));
                judged.check(schema, name)?;
                let model = context.optional_input(tokens::PORT).ok_or_else(|| {
                    tokens::not_connected(name, tokens::PORT, "a model whose tokenizer counts", "base")
                })?;
                let tokenizer = Tokenizer::from_model(&model.path)?;
                Step::Rows(Box::new(TokensStep { name: name.clone(), judged, bounds: *bounds, tokenizer }))
            }
            None => {
                return Err(StageError::input("filter::step", format!("step `{name}` does not say what it is")));
            }
        };
        opened.push(step);
    }
    introduce(&mut opened);
    Ok(opened)
}

/// Tells every native filter of those behind it that judge the same text.
fn introduce(steps: &mut [Step]) {
    let mut behind: Vec<(Builtin, Value)> = Vec::new();
    let mut text: Option<Judged> = None;
    for step in steps.iter_mut().rev() {
        match step {
            Step::Plugin(step) if step.native().is_some() && step.manifest.reads.is_empty() => {
                if text.as_ref() != Some(&step.judged) {
                    behind.clear();
                }
                behind.splice(0..0, step.native().map(|builtin| (builtin, step.pool.config.clone())));
                text = Some(step.judged.clone());
                if behind.len() > 1 {
                    step.neighbours = Neighbours::new(behind.clone());
                }
            }
            _ => text = None,
        }
    }
}

/// How many groups of neighbours, and filters that judge alone, are linked in.
pub(super) fn native_groups(steps: &[Step]) -> usize {
    let mut left = 0;
    let mut groups = 0;
    for step in steps {
        let Some(step) = step.plugin().filter(|step| step.native().is_some()) else {
            left = 0;
            continue;
        };
        match left {
            0 => (groups, left) = (groups + 1, step.neighbours.behind()),
            _ => left -= 1,
        }
    }
    groups
}

/// One engine per kind of metering, made when it is first needed.
struct Engines {
    plain: Option<FilterEngine>,
    metered: Option<FilterEngine>,
}

impl Engines {
    fn get(&mut self, metered: bool) -> StageResult<FilterEngine> {
        let slot = if metered { &mut self.metered } else { &mut self.plain };
        match slot {
            Some(engine) => Ok(engine.clone()),
            None => Ok(slot.insert(FilterEngine::new(metered)?).clone()),
        }
    }
}

fn load(
    context: &StageContext<'_>,
    index: usize,
    plugin: &str,
    step: &StepConfig,
    name: &str,
    engines: &mut Engines,
) -> StageResult<Plugin> {
    let label = source_label(index);
    let source = PluginSource::parse(plugin, &context.request().directory)
        .map_err(|problem| StageError::input("filter::plugin_missing", problem.message).hint(problem.help))?;
    let wasm = match source {
        PluginSource::Directory(_) => {
            let resolved = context.source(&label)?;
            let prefix = format!("{label}/");
            let dependencies = context.request().sources.iter().filter(|(label, _)| label.starts_with(&prefix));
            let digests: Vec<Digest> =
                std::iter::once(resolved.digest).chain(dependencies.map(|(_, source)| source.digest)).collect();
            let options = BuildOptions {
                cache: context.cache(),
                offline: context.request().offline,
                sources: &digests,
                jobs: context.threads(),
            };
            build_plugin(&resolved.path, &options)?
        }
        PluginSource::Component(_) => fs_err::read(&context.source(&label)?.path)?,
        PluginSource::Builtin(builtin) => {
            let builtin = Builtin::find(&builtin)
                .map_err(|(message, help)| StageError::input("filter::builtin", message).hint(help))?;
            if step.run.unwrap_or_default() == RunMode::Native {
                return Ok(Plugin::Native(builtin));
            }
            builtin.component(context.cache(), context.request().offline, context.threads())?
        }
    };
    let limits = step.limits();
    let engine = engines.get(limits.fuel.is_some())?;
    let cache = CompiledCache::new(context.cache());
    PluginComponent::load(&engine, &cache, name, &wasm, limits).map(Plugin::Component)
}

fn open_plugin(
    plugin: Plugin,
    step: &StepConfig,
    name: &str,
    on: Option<&[String]>,
    shape: DatasetShape,
    schema: &Schema,
) -> StageResult<Step> {
    let manifest = plugin.manifest();
    let judged = match on {
        Some(columns) => Judged::of(columns),
        None if manifest.text.is_empty() => Judged::default_of(shape),
        None => Judged::Column(manifest.text.clone()),
    };
    judged.check(schema, name)?;
    for column in &manifest.reads {
        check_column(schema, column, name)?;
    }
    if manifest.edits_text && !matches!(judged, Judged::Column(_)) {
        return Err(StageError::input(
            "filter::edits_joined",
            format!("step `{name}` rewrites the text it judges, but judges several pieces of text at once"),
        )
        .hint("name the one column to judge and rewrite: `on: COLUMN`"));
    }
    let bounds = step.keep.clone().unwrap_or_default();
    if let Some((score, message, help)) = bounds::unknown_score(&bounds, &manifest) {
        let message = format!("step `{name}`: `keep.{score}`: {message}");
        return Err(StageError::input("filter::unknown_score", message).hint(help));
    }
    let bounds = Bounds::new(&bounds, &manifest);
    let limits = plugin.limits();
    let config = Value::Object(step.config.clone().unwrap_or_default());
    let columns: Vec<String> = judged.columns().into_iter().chain(manifest.reads.iter().cloned()).collect();
    let is_text = |name: &String| schema.field_with_name(name).is_ok_and(|field| field.data_type() == &DataType::Utf8);
    let as_it_came = columns.iter().all(is_text).then(|| seen_as_it_came(&judged, &manifest.reads));
    let known = known_verdicts(&plugin, step.plugin.as_deref(), &manifest, &config);
    let pool = WorkerPool { plugin, config, idle: Mutex::new(Vec::new()) };
    // A wrong configuration is found before the first row, and on an empty dataset too.
    pool.put(pool.take().map_err(|mut error| {
        error.message = format!("step `{name}`: {}", error.message);
        error
    })?);
    Ok(Step::Plugin(Box::new(PluginStep {
        name: name.to_owned(),
        judged,
        manifest,
        pool,
        on_trap: match step.on_trap() {
            OnTrapConfig::Fail => OnTrap::Fail,
            OnTrapConfig::Drop => OnTrap::Drop,
        },
        max_traps: step.max_traps.unwrap_or(100),
        limits,
        bounds,
        known,
        columns,
        as_it_came,
        neighbours: Neighbours::default(),
    })))
}

/// Native or WebAssembly, a built-in says the same and is known by its own version; another plugin is known by its bytes.
fn known_verdicts(plugin: &Plugin, source: Option<&str>, manifest: &Manifest, config: &Value) -> KnownVerdicts {
    let builtin = match plugin {
        Plugin::Native(builtin) => Some(*builtin),
        Plugin::Component(_) => {
            source.and_then(|source| source.strip_prefix("builtin:")).and_then(|name| Builtin::find(name).ok())
        }
    };
    let key = ShardKey::new("filter", FilterStage.recipe_version());
    let key = match (builtin, plugin) {
        (Some(builtin), _) | (None, &Plugin::Native(builtin)) => key
            .with("builtin", builtin.name().as_bytes())
            .with("version", manifest.version.as_bytes())
            .with_config("config", &builtin.measured(config)),
        (None, Plugin::Component(component)) => {
            key.with("component", component.digest().as_bytes()).with_config("config", config)
        }
    };
    let names = manifest.scores.iter().map(|score| &score.name).chain(&manifest.reasons);
    let key = names.fold(key.with("ledger", b"3"), |key, name| key.with("name", name.as_bytes()));
    KnownVerdicts::new(key, config.clone(), [manifest.scores.len(), manifest.reasons.len()], builtin)
}

fn open_dedup(
    dedup: &DedupConfig,
    name: &str,
    on: Option<Vec<String>>,
    shape: DatasetShape,
    schema: &Schema,
) -> StageResult<Step> {
    let columns = on.unwrap_or_else(|| shape.columns().iter().map(|name| (*name).to_owned()).collect());
    for column in &columns {
        check_column(schema, column, name)?;
    }
    let options = dedup.options();
    match options.method {
        DedupMethod::Exact => {
            let dedup = ExactDedup::new(options.normalize());
            Ok(Step::Exact(ExactStep { name: name.to_owned(), columns, memory: options.memory(), dedup }))
        }
        DedupMethod::Minhash => {
            let shape = options.shape();
            let hasher = MinHasher::new(shape, options.normalize());
            Ok(Step::MinHash(MinHashStep {
                name: name.to_owned(),
                columns,
                hasher,
                memory: options.memory(),
                copies: KnownCopies::default(),
            }))
        }
    }
}
