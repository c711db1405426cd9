//! The steps of a run: found, built, opened.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use luthier_core::{ConfigIssue, Digest, StageContext, StageError, StageResult, nearest};
use luthier_formats::dataset::DatasetShape;
use luthier_formats::tokenizer::Tokenizer;
use luthier_plugins::{
    BuildOptions, Builtin, CompiledCache, FilterEngine, Plugin, PluginComponent, PluginSource, TextColumn, build_plugin,
};
use serde_json::{Value, json};

use super::bounds;
use super::column::{Judged, check_column, texts_of};
use super::config::{RunMode, StepConfig, StepKind, source_label};
use super::decontaminate::{DecontaminateStep, whole_row};
use super::dedup::{DedupConfig, DedupMethod, ExactDedup, KnownCopies, MinHasher};
use super::funnel::StepAccount;
use super::plugin_step::{PluginStep, introduce, open_plugin};
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
                let unknown = message.strip_prefix("unknown key `").and_then(|rest| rest.split('`').next());
                let schema = builtin.manifest().config_schema;
                let known = schema["properties"].as_object().into_iter().flat_map(|known| known.keys());
                let help = match unknown.and_then(|key| nearest(key, known.map(String::as_str))) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("`luthier plugin inspect builtin:{name}` documents its configuration"),
                };
                issues.push(ConfigIssue { on_key: unknown.is_some(), ..ConfigIssue::new(at, message).help(help) });
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
                StepAccount::new(&step.name, step.manifest().scores.iter().map(|score| score.name.clone()))
            }
            Self::Exact(step) => StepAccount::new(&step.name, []),
            Self::MinHash(step) => StepAccount::new(&step.name, []),
            Self::Rows(step) => StepAccount::new(step.name(), step.scores().iter().map(|score| (*score).to_owned())),
        }
    }
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
