//! `split`: one dataset to several, by hash of content.
//!
//! A row's part depends on the seed and on its own content (or the columns in `by:`), so equal rows never lie on both sides
//! of a split, and rows added later leave the others where they were. Rows keep their order.

mod assign;
mod config;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use luthier_core::{
    ArtifactKind, ArtifactName, ConfigIssue, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, Section, Stage,
    StageContext, StageError, StageOutcome, StageResult, config_schema, parse_config,
};
use luthier_formats::dataset::{DatasetReader, DatasetWriter, column_text, optional_column, string_column};
use luthier_formats::decontaminated::Decontaminated;
use serde_json::Value;

use assign::{Assignment, GroupHash};
use config::{Size, SplitConfig};

const BATCH: usize = 4096;

/// Splits a dataset.
#[derive(Debug, Clone, Copy, Default)]
pub struct SplitStage;

const INPUTS: &[InputPort] = &[InputPort {
    name: "data",
    accepts: &[ArtifactKind::Dataset],
    required: true,
    many: false,
    about: "the dataset to split",
}];

impl Stage for SplitStage {
    fn kind(&self) -> &'static str {
        "split"
    }

    fn recipe_version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "splits a dataset into named parts by hash of content, stable when rows are added"
    }

    fn schema(&self) -> Value {
        config_schema::<SplitConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/split.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        INPUTS
    }

    fn outputs_about(&self) -> &'static str {
        "a dataset for each name in `parts`"
    }

    fn prepare(&self, with: &Value, _: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let config: SplitConfig = parse_config(with)?;
        let (mut issues, mut outputs) = (Vec::new(), Vec::new());
        for name in config.parts.keys() {
            match ArtifactName::new(name.clone()) {
                Ok(name) => outputs.push(OutputDecl { name, kind: ArtifactKind::Dataset }),
                Err(error) => issues.push(ConfigIssue {
                    on_key: true,
                    ..ConfigIssue::new(format!("parts.{name}"), error.to_string()).help("rename it")
                }),
            }
        }
        if config.parts.is_empty() {
            issues.push(
                ConfigIssue::new("parts", "there are no parts").help("such as `parts: {train: rest, test: 100}`"),
            );
        }
        if let Some(sum) = assign::excess(&config.parts) {
            issues.push(
                ConfigIssue::new("parts", format!("the fractions add up to {sum}, more than 1"))
                    .help("lower one, or let one part take the `rest`"),
            );
        }
        if config.parts.values().filter(|size| **size == Size::Rest).count() > 1 {
            issues.push(
                ConfigIssue::new("parts", "two parts want the `rest`").help("give all but one a fraction or a number"),
            );
        }
        if !issues.is_empty() {
            return Err(issues);
        }
        let value = serde_json::to_value(&config).unwrap_or_default();
        Ok(Prepared {
            key: value.clone(),
            config: value,
            outputs,
            sources: Vec::new(),
            resources: Resources::ONE_THREAD,
            numeric_class: None,
        })
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let config: SplitConfig = context.config()?;
        let reader = DatasetReader::open(&context.input("data")?.path)?;
        let mut hashes = Vec::new();
        if Assignment::needs_hashes(&config.parts) {
            hashes.reserve(usize::try_from(reader.rows()).unwrap_or(0).min(1 << 24));
            for batch in reader.batches(BATCH) {
                context.check_cancelled()?;
                hashes.extend(group_hashes(&config, &batch?)?);
            }
        }
        let assignment = Assignment::new(&config.parts, hashes)?;
        write_parts(context, &config, &reader, &assignment)
    }
}

fn group_hashes(config: &SplitConfig, batch: &RecordBatch) -> StageResult<Vec<GroupHash>> {
    let Some(by) = &config.by else {
        let ids = string_column(batch, "id")?;
        return Ok((0..batch.num_rows()).map(|row| GroupHash::of(config.seed, [Some(ids.value(row))])).collect());
    };
    let columns = by.0.iter().map(|name| {
        // `string_column` has the better message for a column that is not there.
        optional_column(batch, name).map_or_else(|| string_column(batch, name).map(|column| column as _), Ok)
    });
    let columns = columns.collect::<StageResult<Vec<&dyn arrow::array::Array>>>()?;
    let hash = |row: usize| {
        let texts: Vec<_> =
            columns.iter().map(|column| (!column.is_null(row)).then(|| column_text(*column, row))).collect();
        GroupHash::of(config.seed, texts.iter().map(|text| text.as_deref()))
    };
    Ok((0..batch.num_rows()).map(hash).collect())
}

fn write_parts(
    context: &StageContext<'_>,
    config: &SplitConfig,
    reader: &DatasetReader,
    assignment: &Assignment,
) -> StageResult<StageOutcome> {
    let names: Vec<&str> = config.parts.keys().map(String::as_str).collect();
    let create = |name: &&str| DatasetWriter::create(&context.output(name), reader.schema(), reader.shape());
    let mut writers = names.iter().map(create).collect::<StageResult<Vec<DatasetWriter>>>()?;
    let (mut done, mut unused) = (0u64, 0u64);
    for batch in reader.batches(BATCH) {
        context.check_cancelled()?;
        let batch = batch?;
        let parts: Vec<Option<usize>> =
            group_hashes(config, &batch)?.into_iter().map(|hash| assignment.part(hash)).collect();
        unused += parts.iter().filter(|part| part.is_none()).count() as u64;
        for (number, writer) in writers.iter_mut().enumerate() {
            let mask: BooleanArray = parts.iter().map(|part| Some(*part == Some(number))).collect();
            let rows = filter_record_batch(&batch, &mask)
                .map_err(|error| StageError::new("split::filter", "rows cannot be selected").caused_by(error))?;
            if rows.num_rows() > 0 {
                writer.write(&rows)?;
            }
        }
        done += batch.num_rows() as u64;
        context.progress(done, reader.rows(), "rows", "");
    }
    let freed = Decontaminated::read(&context.input("data")?.path)?;
    let mut outcome = StageOutcome::new();
    let mut table = Vec::new();
    for (name, writer) in names.iter().zip(writers) {
        let rows = writer.finish()?.rows;
        if rows == 0 {
            return Err(StageError::input("split::empty_part", format!("part `{name}` got none of {done} rows"))
                .hint("give it a number of rows, a larger fraction, or keep more rows in the stages before"));
        }
        freed.write(&context.output(name))?;
        outcome.metric(&format!("rows.{name}"), rows as f64, "rows");
        table.push(vec![(*name).to_owned(), rows.to_string(), format!("{:.2} %", 100.0 * rows as f64 / done as f64)]);
    }
    if unused > 0 {
        outcome.metric("rows.unused", unused as f64, "rows");
        table.push(vec![
            "(unused)".to_owned(),
            unused.to_string(),
            format!("{:.2} %", 100.0 * unused as f64 / done as f64),
        ]);
    }
    outcome.section(Section::Table {
        title: "Parts".to_owned(),
        columns: ["part", "rows", "share"].map(str::to_owned).to_vec(),
        rows: table,
    });
    Ok(outcome)
}

#[cfg(test)]
mod tests;
