//! Steps that are plugins: opened, known by what they read, asked row by row.

use std::sync::{Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use luthier_core::{Digest, ShardCache, ShardKey, Stage, StageError, StageResult};
use luthier_formats::dataset::DatasetShape;
use luthier_plugins::{Builtin, JudgeError, Limits, Manifest, OnTrap, Plugin, TextBatch, TextColumn, Verdicts, Worker};
use serde_json::Value;

use super::FilterStage;
use super::ahead::{Ahead, Neighbours, served};
use super::bounds::{self, Bounds};
use super::column::{Judged, check_column, texts_of};
use super::config::{OnTrapConfig, StepConfig};
use super::known::{KnownVerdicts, spread, subset};
use super::ledger::{Seen, seen, seen_as_it_came};
use super::step::Step;
use super::turns::Turns;

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
        self.judged.readable(batch)
    }

    /// The column that edits go into.
    pub fn edited_column(&self) -> Option<&str> {
        match &self.judged {
            Judged::Column(name) => Some(name),
            Judged::Turns => Some("messages"),
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
        let turns = if self.judged == Judged::Turns { Some(Turns::of(texts)?) } else { None };
        let mut worker = self.pool.take()?;
        let answer = worker.judge(turns.as_ref().map_or(texts, |turns| &turns.texts), self.on_trap);
        let lines = worker.take_lines();
        let row_of = |at: usize| row_of(turns.as_ref().map_or(at, |turns| turns.row(at)));
        match answer {
            Ok(verdicts) => {
                self.pool.put(worker);
                let verdicts = match turns {
                    Some(turns) => turns.join(verdicts, &self.manifest.scores),
                    None => verdicts,
                };
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

/// Tells every native filter of those behind it that judge the same text.
pub(super) fn introduce(steps: &mut [Step]) {
    let mut behind: Vec<(Builtin, Value)> = Vec::new();
    let mut text: Option<Judged> = None;
    for step in steps.iter_mut().rev() {
        match step {
            Step::Plugin(step)
                if step.native().is_some() && step.manifest.reads.is_empty() && step.judged != Judged::Turns =>
            {
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

pub(super) fn open_plugin(
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
    let is_chat =
        judged == Judged::Messages || shape == DatasetShape::Chat && judged == Judged::Column("messages".to_owned());
    let judged = if manifest.edits_text && is_chat { Judged::Turns } else { judged };
    judged.check(schema, name)?;
    for column in &manifest.reads {
        check_column(schema, column, name)?;
    }
    let is_part = matches!(&judged, Judged::Column(name) if schema.field_with_name(name).is_err());
    if manifest.edits_text && (is_part || matches!(judged, Judged::Joined(_))) {
        return Err(StageError::input(
            "filter::edits_joined",
            format!("step `{name}` rewrites the text it judges, but what it judges is no column"),
        )
        .hint(match shape {
            DatasetShape::Chat => "leave `on:` out: every message of a chat is judged and rewritten by itself",
            _ => "name the one column to judge and rewrite, `on: COLUMN`, in a step for each",
        }));
    }
    let bounds = step.keep.clone().unwrap_or_default();
    if let Some((score, message, help)) = bounds::unknown_score(&bounds, &manifest) {
        let message = format!("step `{name}`: `keep.{score}`: {message}");
        return Err(StageError::input("filter::unknown_score", message).hint(help));
    }
    let bounds = Bounds::new(&bounds, &manifest);
    let limits = plugin.limits();
    let config = Value::Object(step.config.clone().unwrap_or_default());
    let stored = |name: String| if schema.field_with_name(&name).is_ok() { name } else { "messages".to_owned() };
    let columns: Vec<String> = judged.columns().into_iter().chain(manifest.reads.iter().cloned()).map(stored).collect();
    let is_text = |name: &String| schema.field_with_name(name).is_ok_and(|field| field.data_type() == &DataType::Utf8);
    let as_it_came = columns.iter().all(is_text).then(|| seen_as_it_came(&judged, &manifest.reads));
    let known = known_verdicts(&plugin, step.plugin.as_deref(), &manifest, &config, &judged);
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
        max_traps: step.max_traps(),
        limits,
        bounds,
        known,
        columns,
        as_it_came,
        neighbours: Neighbours::default(),
    })))
}

/// Native or WebAssembly, a built-in says the same and is known by its own version; another plugin is known by its bytes.
fn known_verdicts(
    plugin: &Plugin,
    source: Option<&str>,
    manifest: &Manifest,
    config: &Value,
    judged: &Judged,
) -> KnownVerdicts {
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
    if *judged == Judged::Turns {
        // What is known of a chat follows from the scores of its messages, which are not kept.
        let key = key.with("judged", b"turns").with_config("all", config);
        return KnownVerdicts::new(key, config.clone(), [manifest.scores.len(), manifest.reasons.len()], None);
    }
    KnownVerdicts::new(key, config.clone(), [manifest.scores.len(), manifest.reasons.len()], builtin)
}
