//! One run of a filter: windows of batches through the steps, into two datasets.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, StringBuilder};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use luthier_core::{Digest, ShardCache, StageContext, StageError, StageOutcome, StageResult};
use luthier_formats::dataset::{DatasetReader, DatasetShape, DatasetWriter, Shard, string_column};
use luthier_plugins::{SharedWords, TextColumn};
use rayon::prelude::*;

use super::ahead::Ahead;
use super::column::{text_bytes, texts_of};
use super::config::{FilterConfig, OnEmpty, step_names};
use super::decontaminate;
use super::dedup::{DigestSorter, KeySorter, KnownCopies, SortSpace};
use super::funnel::{StepAccount, artifact, report};
use super::plugin_step::{Arrived, Judgement, native_groups};
use super::rows::{RowDrop, RowStep, RowVerdicts};
use super::step::{ExactStep, MinHashStep, Step, open_steps};

/// Shards in flight per thread.
const WINDOW: usize = 2;
/// Bytes per thread for words that several native filters share: those of the shards in flight.
const WORD_MEMORY: usize = 96 << 20;

const STEP_COLUMN: &str = "filter_step";
const REASON_COLUMN: &str = "filter_reason";
/// What was found, as JSON; only there if a step has more to say than the reason.
const DETAIL_COLUMN: &str = "filter_detail";

/// Why a row was dropped.
#[derive(Debug, Clone)]
struct Fate {
    step: usize,
    reason: Arc<str>,
}

/// A shard on its way.
struct Chunk {
    /// Of the texts as they came in; computed when a plugin first asks.
    digest: OnceLock<Digest>,
    /// Number of its first row in the dataset, from 0.
    first: u64,
    original: RecordBatch,
    /// The rows left, with their edits.
    current: RecordBatch,
    /// Index in `original` of each row of `current`.
    rows: Vec<u32>,
    /// Of each row of `original`.
    fates: Vec<Option<Fate>>,
    /// What there is to say besides, by row of `original`.
    details: BTreeMap<u32, String>,
    /// Columns that a step edited, and in which rows of `original`.
    edited: BTreeMap<String, Vec<bool>>,
    /// What steps said already of rows that have not come to them yet.
    ahead: Vec<Ahead>,
}

fn arrow_error(error: ArrowError) -> StageError {
    StageError::new("filter::rows", "rows do not fit together").caused_by(error)
}

impl Chunk {
    fn new(Shard { first, rows: batch }: Shard) -> Self {
        let rows = batch.num_rows();
        Self {
            digest: OnceLock::new(),
            first,
            current: batch.clone(),
            original: batch,
            rows: (0..rows as u32).collect(),
            fates: vec![None; rows],
            details: BTreeMap::new(),
            edited: BTreeMap::new(),
            ahead: Vec::new(),
        }
    }

    fn digest(&self, texts: &[&str]) -> &Digest {
        self.digest.get_or_init(|| Shard { first: self.first, rows: self.original.clone() }.digest(texts))
    }

    /// Takes out the rows that have a fate.
    fn shrink(&mut self, fates: Vec<Option<Fate>>) -> StageResult<()> {
        if fates.iter().all(Option::is_none) {
            return Ok(());
        }
        let keep: BooleanArray = fates.iter().map(|fate| Some(fate.is_none())).collect();
        self.current = filter_record_batch(&self.current, &keep).map_err(arrow_error)?;
        let mut left = Vec::with_capacity(self.current.num_rows());
        for (row, fate) in self.rows.iter().zip(fates) {
            match fate {
                None => left.push(*row),
                fate => self.fates[*row as usize] = fate,
            }
        }
        self.rows = left;
        Ok(())
    }

    fn number_of(&self, row: usize) -> u64 {
        self.first + u64::from(self.rows[row])
    }
}

pub(super) fn run(context: &StageContext<'_>) -> StageResult<StageOutcome> {
    let config: FilterConfig = context.config()?;
    let reader = DatasetReader::open(&context.input("data")?.path)?;
    let (shape, schema) = (reader.shape(), reader.schema());
    let names = step_names(&config.steps);
    let mut steps = open_steps(context, &config.steps, &names, shape, &schema)?;
    // wasmtime runs a guest on the thread's own stack.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(context.threads())
        .stack_size(4 << 20)
        .build()
        .map_err(|error| StageError::new("filter::threads", "cannot start threads").caused_by(error))?;
    let texts = schema.fields().iter().filter(|field| field.data_type() == &DataType::Utf8);
    let texts: Vec<&str> = texts.map(|field| field.name().as_str()).collect();
    let known = context.shards();
    let pass = Pass { context, pool: &pool, reader: &reader, shape, texts: &texts, known: &known };

    // Neighbours have the words of a text from each other; others judge a window of shards one after the other.
    let _words = (native_groups(&steps) > 1).then(|| SharedWords::hold(context.threads() * WORD_MEMORY));

    // What is equal to a row is known only after all rows were seen: a pass per such step, over the steps before it.
    for index in 0..steps.len() {
        if steps[index].needs_pass(reader.rows()) {
            pass.collect(&mut steps, index)?;
        }
    }

    let decontaminates = config.steps.iter().any(|step| step.decontaminate.is_some());
    if let (false, Some(unused)) = (decontaminates, context.optional_input(decontaminate::PORT)) {
        let message = format!("`{}` is connected to `against`, but no step decontaminates", unused.from);
        return Err(StageError::input("filter::unused_input", message).hint("add the step `decontaminate: {}`"));
    }
    let freed = decontaminate::freed(context, decontaminates)?;
    let dropped_schema = dropped_schema(&schema, decontaminates);
    let mut kept = DatasetWriter::create(&context.output("kept"), Arc::clone(&schema), shape)?;
    let mut dropped =
        DatasetWriter::create_table(&context.output("dropped"), Arc::clone(&dropped_schema), Some(shape))?;
    let mut accounts: Vec<StepAccount> = steps.iter().map(Step::account).collect();
    let rows = pass.stream(&mut steps, &mut accounts, "", |window| {
        for chunk in window {
            kept.write(&chunk.current)?;
            write_dropped(chunk, &names, &dropped_schema, &mut dropped)?;
        }
        Ok(())
    })?;
    let summary = kept.finish()?;
    freed.write(&context.output("kept"))?;
    dropped.finish()?;
    if summary.rows == 0 && config.on_empty == OnEmpty::Fail {
        return Err(empty(&accounts, rows));
    }
    let funnel = serde_json::to_vec_pretty(&artifact(&accounts, rows, summary.rows)).map_err(|error| {
        StageError::new("filter::funnel", "the account of the steps cannot be written as JSON").caused_by(error)
    })?;
    luthier_core::fs::write_atomic(&context.output("funnel"), &funnel)?;
    let mut outcome = report(&accounts, rows, summary.rows);
    let judged: Vec<u64> = steps.iter().filter_map(Step::judged).collect();
    if !judged.is_empty() {
        known.finish(context, &mut outcome);
        outcome.measured("rows_judged", judged.iter().sum::<u64>() as f64, "rows");
    }
    Ok(outcome)
}

/// A pass over the rows of the dataset.
struct Pass<'a> {
    context: &'a StageContext<'a>,
    pool: &'a rayon::ThreadPool,
    reader: &'a DatasetReader,
    shape: DatasetShape,
    /// The columns of text.
    texts: &'a [&'a str],
    /// What plugins said about shards in earlier runs.
    known: &'a ShardCache,
}

impl Pass<'_> {
    /// Finds the copies for the deduplicating step at `index` among the rows that the steps before it leave.
    fn collect(&self, steps: &mut [Step], index: usize) -> StageResult<()> {
        let (before, after) = steps.split_at_mut(index);
        let mut accounts: Vec<StepAccount> = before.iter().map(Step::account).collect();
        let directory = self.context.temporary().join(format!("dedup-{index}"));
        let step = match after {
            [Step::MinHash(step), ..] => step,
            [Step::Exact(step), ..] => {
                let mut sorter = DigestSorter::new(&SortSpace { directory, memory: step.memory })?;
                let name = step.name.clone();
                self.stream(before, &mut accounts, &format!("{name}: comparing, "), |window| {
                    let shared: &ExactStep = step;
                    let digests: Vec<StageResult<Vec<u128>>> =
                        self.pool.install(|| window.par_iter().map(|chunk| shared.digests(&chunk.current)).collect());
                    digests.into_iter().try_for_each(|digests| sorter.add(&digests?))
                })?;
                step.dedup.know(sorter.resolve()?);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let mut sorter = KeySorter::new(&SortSpace { directory, memory: step.memory })?;
        let name = step.name.clone();
        self.stream(before, &mut accounts, &format!("{name}: comparing, "), |window| {
            let keys: Vec<StageResult<Vec<Option<Vec<u64>>>>> =
                self.pool.install(|| window.par_iter().map(|chunk| step.keys(&chunk.current)).collect());
            for keys in keys {
                keys?.iter().try_for_each(|keys| sorter.add(keys.as_deref()))?;
            }
            Ok(())
        })?;
        step.copies = KnownCopies::new(sorter.resolve(|| self.context.check_cancelled())?);
        Ok(())
    }

    /// Takes all rows through `steps`, window by window, into `sink`; returns how many there were.
    fn stream(
        &self,
        steps: &mut [Step],
        accounts: &mut [StepAccount],
        note: &str,
        mut sink: impl FnMut(&[Chunk]) -> StageResult<()>,
    ) -> StageResult<u64> {
        steps.iter_mut().for_each(Step::rewind);
        let context = self.context;
        let total = self.reader.rows();
        let mut first = 0u64;
        let mut shards = self.reader.shards();
        loop {
            context.check_cancelled()?;
            let mut window = Vec::new();
            for shard in shards.by_ref().take(context.threads() * WINDOW) {
                let shard = shard?;
                first += shard.rows.num_rows() as u64;
                window.push(Chunk::new(shard));
            }
            if window.is_empty() {
                return Ok(first);
            }
            for (index, account) in accounts.iter_mut().enumerate() {
                context.check_cancelled()?;
                match &mut steps[index] {
                    Step::Plugin(_) => run_plugin(self, index, steps, &mut window, account)?,
                    Step::Exact(step) => run_exact(self, index, step, &mut window, account)?,
                    Step::MinHash(step) => run_minhash(self, index, step, &mut window, account)?,
                    Step::Rows(step) => run_rows(self, index, step.as_ref(), &mut window, account)?,
                }
            }
            sink(&window)?;
            let left = accounts.last().map_or(first, |account| account.rows_out);
            context.progress(first, total, "rows", format!("{note}{left} kept"));
        }
    }
}

fn ids(batch: &RecordBatch) -> StageResult<&StringArray> {
    string_column(batch, "id")
}

fn run_plugin(
    pass: &Pass<'_>,
    index: usize,
    steps: &[Step],
    window: &mut [Chunk],
    account: &mut StepAccount,
) -> StageResult<()> {
    let Some(step) = steps[index].plugin() else { return Ok(()) };
    let shape = pass.shape;
    let judge = |chunk: &Chunk| -> StageResult<Judgement> {
        let texts = step.texts(&chunk.current)?;
        let id_column = ids(&chunk.current)?;
        let row_of = |row: usize| format!("row {} (id {})", chunk.number_of(row) + 1, id_column.value(row));
        let edited: Vec<&Vec<bool>> = step.columns.iter().filter_map(|name| chunk.edited.get(name)).collect();
        let untouched = |row: usize| edited.iter().all(|rows| !rows[chunk.rows[row] as usize]);
        let seen = step.seen(&texts, untouched);
        let digest = chunk.digest(pass.texts);
        let arrived = Arrived { digest, rows: &chunk.rows, texts, seen, ahead: &chunk.ahead };
        step.judge(pass.known, &arrived, index, &steps[index + 1..], &row_of)
    };
    let judgements: Vec<StageResult<Judgement>> = pass.pool.install(|| window.par_iter().map(judge).collect());
    for (chunk, judgement) in window.iter_mut().zip(judgements) {
        let Judgement { verdicts, lines, ahead } = judgement?;
        chunk.ahead.extend(ahead);
        for line in lines {
            pass.context.log(format!("{}: {line}", step.name));
        }
        let rows = verdicts.drop.len();
        let reason_of = |(row, drop): (usize, &u8)| {
            let reasons = &step.manifest().reasons;
            let own = usize::from(*drop).checked_sub(1).and_then(|reason| reasons.get(reason)).map(String::as_str);
            own.or_else(|| step.bounds.reason(&verdicts.scores, rows, row))
        };
        let mut fates: Vec<Option<Fate>> = verdicts
            .drop
            .iter()
            .enumerate()
            .map(|verdict| Some(Fate { step: index, reason: Arc::from(reason_of(verdict)?) }))
            .collect();
        for (row, why) in &verdicts.faults {
            fates[*row] = Some(Fate { step: index, reason: format!("plugin-trap: {why}").into() });
        }
        account.failed += verdicts.faults.len() as u64;
        if account.failed > step.max_traps {
            let (row, why) = verdicts.faults.last().map_or((0, ""), |(row, why)| (*row, why.as_str()));
            return Err(StageError::new(
                "filter::too_many_traps",
                format!(
                    "plugin `{}` failed on {} rows, more than `max_traps: {}`; the last was row {}: it {why}",
                    step.name,
                    account.failed,
                    step.max_traps,
                    chunk.number_of(row) + 1
                ),
            )
            .hint("fix the plugin, or raise `max_traps` on the step"));
        }
        account.enter(chunk.current.num_rows(), text_bytes(&chunk.current, shape));
        account.add_scores(fates.len(), &verdicts.scores);
        let edits: Vec<(usize, String)> = verdicts.edits.into_iter().filter(|(row, _)| fates[*row].is_none()).collect();
        account.edited += edits.len() as u64;
        apply_edits(chunk, step.edited_column(), edits)?;
        settle(chunk, fates, account, |batch| step.judged_texts(batch))?;
        account.leave(chunk.current.num_rows(), text_bytes(&chunk.current, shape));
    }
    Ok(())
}

fn run_exact(
    pass: &Pass<'_>,
    index: usize,
    step: &mut ExactStep,
    window: &mut [Chunk],
    account: &mut StepAccount,
) -> StageResult<()> {
    let shape = pass.shape;
    let shared: &ExactStep = step;
    let digests: Vec<StageResult<Vec<u128>>> =
        pass.pool.install(|| window.par_iter().map(|chunk| shared.digests(&chunk.current)).collect());
    let reason: Arc<str> = Arc::from("duplicate");
    for (chunk, digests) in window.iter_mut().zip(digests) {
        let copies = step.dedup.copies(&digests?)?;
        let fate = |copy: &bool| copy.then(|| Fate { step: index, reason: Arc::clone(&reason) });
        let fates = copies.iter().map(fate).collect();
        account.enter(chunk.current.num_rows(), text_bytes(&chunk.current, shape));
        settle(chunk, fates, account, |batch| step.texts(batch))?;
        account.leave(chunk.current.num_rows(), text_bytes(&chunk.current, shape));
    }
    Ok(())
}

fn run_minhash(
    pass: &Pass<'_>,
    index: usize,
    step: &mut MinHashStep,
    window: &mut [Chunk],
    account: &mut StepAccount,
) -> StageResult<()> {
    let reason: Arc<str> = Arc::from("near-duplicate");
    for chunk in window {
        let copies = step.copies.take(chunk.current.num_rows())?;
        let fates = copies.iter().map(|copy| copy.then(|| Fate { step: index, reason: Arc::clone(&reason) })).collect();
        account.enter(chunk.current.num_rows(), text_bytes(&chunk.current, pass.shape));
        settle(chunk, fates, account, |batch| step.texts(batch))?;
        account.leave(chunk.current.num_rows(), text_bytes(&chunk.current, pass.shape));
    }
    Ok(())
}

fn run_rows(
    pass: &Pass<'_>,
    index: usize,
    step: &dyn RowStep,
    window: &mut [Chunk],
    account: &mut StepAccount,
) -> StageResult<()> {
    let verdicts: Vec<StageResult<RowVerdicts>> =
        pass.pool.install(|| window.par_iter().map(|chunk| step.judge(&chunk.current)).collect());
    for (chunk, verdicts) in window.iter_mut().zip(verdicts) {
        let RowVerdicts { drops, scores } = verdicts?;
        account.enter(chunk.current.num_rows(), text_bytes(&chunk.current, pass.shape));
        account.add_scores(drops.len(), &scores);
        let mut fates = Vec::with_capacity(drops.len());
        for (row, drop) in drops.into_iter().enumerate() {
            fates.push(drop.map(|RowDrop { reason, detail }| {
                if let Some(detail) = detail {
                    chunk.details.insert(chunk.rows[row], detail);
                }
                Fate { step: index, reason }
            }));
        }
        settle(chunk, fates, account, |batch| step.texts(batch))?;
        account.leave(chunk.current.num_rows(), text_bytes(&chunk.current, pass.shape));
    }
    Ok(())
}

/// Counts and takes out the rows that have a fate.
fn settle(
    chunk: &mut Chunk,
    fates: Vec<Option<Fate>>,
    account: &mut StepAccount,
    texts: impl for<'a> Fn(&'a RecordBatch) -> StageResult<TextColumn<'a>>,
) -> StageResult<()> {
    if fates.iter().any(Option::is_some) {
        let texts = texts(&chunk.current)?;
        let ids = ids(&chunk.current)?;
        for (row, fate) in fates.iter().enumerate() {
            if let Some(fate) = fate {
                let text = || texts.get(row).to_owned();
                account.drop_row(&fate.reason, ids.value(row), chunk.number_of(row), text);
            }
        }
    }
    chunk.shrink(fates)
}

/// Puts new texts into a column of the rows left.
fn apply_edits(chunk: &mut Chunk, column: Option<&str>, edits: Vec<(usize, String)>) -> StageResult<()> {
    let (Some(column), false) = (column, edits.is_empty()) else { return Ok(()) };
    let schema = chunk.current.schema();
    let at = schema.index_of(column).map_err(arrow_error)?;
    let edited: StringArray = {
        let texts = texts_of(&chunk.current, column)?;
        let mut edits = edits.iter().peekable();
        // Room for all at once: a column of megabytes that grows is copied and paged in again and again.
        let new: usize = edits.clone().map(|(_, text)| text.len()).sum();
        let mut column = StringBuilder::with_capacity(texts.rows(), texts.data().len() + new);
        for row in 0..texts.rows() {
            let new = edits.next_if(|(edited, _)| *edited == row).map(|(_, text)| text.as_str());
            column.append_value(new.unwrap_or_else(|| texts.get(row)));
        }
        column.finish()
    };
    let rows = chunk.edited.entry(column.to_owned()).or_insert_with(|| vec![false; chunk.fates.len()]);
    edits.iter().for_each(|(row, _)| rows[chunk.rows[*row] as usize] = true);
    let mut columns = chunk.current.columns().to_vec();
    columns[at] = Arc::new(edited);
    chunk.current = RecordBatch::try_new(schema, columns).map_err(arrow_error)?;
    Ok(())
}

/// The columns of the dataset, then the step, the reason, and what was found where a step says that.
fn dropped_schema(schema: &Schema, details: bool) -> SchemaRef {
    let own = [(STEP_COLUMN, false), (REASON_COLUMN, false), (DETAIL_COLUMN, true)];
    let own = if details { &own[..] } else { &own[..2] };
    let fields = schema.fields().iter().filter(|field| !own.iter().any(|(name, _)| name == field.name())).cloned();
    let added = own.iter().map(|(name, nullable)| Arc::new(Field::new(*name, DataType::Utf8, *nullable)));
    Arc::new(Schema::new(fields.chain(added).collect::<Vec<_>>()))
}

/// The dropped rows of a batch as they came in.
fn write_dropped(chunk: &Chunk, names: &[String], schema: &SchemaRef, writer: &mut DatasetWriter) -> StageResult<()> {
    let fates: Vec<&Fate> = chunk.fates.iter().flatten().collect();
    if fates.is_empty() {
        return Ok(());
    }
    let mask: BooleanArray = chunk.fates.iter().map(|fate| Some(fate.is_some())).collect();
    let rows = filter_record_batch(&chunk.original, &mask).map_err(arrow_error)?;
    let steps: StringArray = fates.iter().map(|fate| Some(names[fate.step].as_str())).collect();
    let reasons: StringArray = fates.iter().map(|fate| Some(fate.reason.as_ref())).collect();
    let fated = (0u32..).zip(&chunk.fates).filter(|(_, fate)| fate.is_some());
    let details: StringArray = fated.map(|(row, _)| chunk.details.get(&row).map(String::as_str)).collect();
    let mut added: Vec<(&str, ArrayRef)> = vec![(STEP_COLUMN, Arc::new(steps)), (REASON_COLUMN, Arc::new(reasons))];
    if schema.fields().last().is_some_and(|field| field.name() == DETAIL_COLUMN) {
        added.push((DETAIL_COLUMN, Arc::new(details)));
    }
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .filter_map(|field| {
            let own = added.iter().find(|(name, _)| name == field.name()).map(|(_, column)| Arc::clone(column));
            own.or_else(|| rows.column_by_name(field.name()).cloned())
        })
        .collect();
    writer.write(&RecordBatch::try_new(Arc::clone(schema), columns).map_err(arrow_error)?)
}

fn empty(accounts: &[StepAccount], rows_in: u64) -> StageError {
    let worst = accounts.iter().reduce(|best, next| if next.dropped() > best.dropped() { next } else { best });
    match worst.filter(|worst| worst.dropped() > 0) {
        None => StageError::input("filter::empty", "the dataset to filter has no rows")
            .hint("look at the stage before, or write `on_empty: allow`"),
        Some(worst) => {
            let reason = worst.main_reason().unwrap_or_default();
            StageError::input(
                "filter::empty",
                format!(
                    "none of {rows_in} rows is left: step `{}` dropped {} of the {} it saw, most of them for `{reason}`",
                    worst.name,
                    worst.dropped(),
                    worst.rows_in
                ),
            )
            .hint(format!("loosen step `{}`, or write `on_empty: allow`", worst.name))
        }
    }
}
