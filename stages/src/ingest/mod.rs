//! `ingest`: files of many formats to one dataset.
//!
//! Records are cut one after the other, parsed and shaped in parallel, and written in order: memory is bounded by one
//! group of records whatever the files, and the output does not depend on threads. A broken record is an error with its
//! file and line, or is set aside with them.

mod config;
mod glob;
mod json_scan;
mod open;
mod output;
mod parquet_rows;
mod parse;
mod record;
mod reject;
mod sampling;
mod shape;
mod source;

use camino::Utf8PathBuf;
use luthier_core::{
    ArtifactKind, ConfigIssue, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, SourceKind, SourceRef, Stage,
    StageContext, StageError, StageOutcome, StageResult, config_schema, parse_config,
};
use rayon::prelude::*;
use regex::Regex;
use serde_json::Value;

use config::{Format, IngestConfig, MapConfig, OnError};
use output::SampleWriter;
use parse::{Parser, Row};
use record::Record;
use reject::{Rejected, Rejects};
use sampling::Sampler;
use shape::{Sample, Shaper};
use source::FileSource;

/// A group of records is handed to the threads when it has this many, or this many bytes.
const GROUP_RECORDS: usize = 4096;
const GROUP_BYTES: usize = 8 << 20;

/// Reads files into a dataset.
#[derive(Debug, Clone, Copy, Default)]
pub struct IngestStage;

const INPUTS: &[InputPort] = &[InputPort {
    name: "files",
    accepts: &[ArtifactKind::File, ArtifactKind::Report],
    required: false,
    many: true,
    about: "files or directories to read, instead of `files:`",
}];

impl Stage for IngestStage {
    fn kind(&self) -> &'static str {
        "ingest"
    }

    fn recipe_version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "reads JSONL, JSON, CSV, TSV, Parquet, text or lines into a dataset of chats, prompts with completions, or texts"
    }

    fn schema(&self) -> Value {
        config_schema::<IngestConfig>()
    }

    fn examples(&self) -> &'static str {
        include_str!("../../examples/ingest.yaml")
    }

    fn inputs(&self) -> &'static [InputPort] {
        INPUTS
    }

    fn outputs_about(&self) -> &'static str {
        "`dataset`; with `on_error: skip` also `rejected`, a JSON line per broken row"
    }

    fn prepare(&self, with: &Value, env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let config: IngestConfig = parse_config(with)?;
        let mut issues = check(&config);
        let sources = match expand_files(&config, with, env) {
            Ok(sources) => sources,
            Err(found) => {
                issues.extend(found);
                Vec::new()
            }
        };
        if !issues.is_empty() {
            return Err(issues);
        }
        let mut key = serde_json::to_value(&config).unwrap_or_default();
        if let Value::Object(key) = &mut key {
            key.remove("files");
            if config.on_error == OnError::Skip {
                // The names of files are written beside rejected rows.
                let names = sources.iter().map(|source| Value::from(source.path.as_str())).collect();
                key.insert("names".to_owned(), Value::Array(names));
            }
        }
        let mut outputs = vec![OutputDecl::new("dataset", ArtifactKind::Dataset)];
        if config.on_error == OnError::Skip {
            outputs.push(OutputDecl::new("rejected", ArtifactKind::Report));
        }
        Ok(Prepared {
            config: serde_json::to_value(&config).unwrap_or_default(),
            key,
            outputs,
            sources,
            resources: Resources::ALL_THREADS,
            numeric_class: None,
        })
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let config: IngestConfig = context.config()?;
        let files = input_files(context)?;
        if files.is_empty() {
            return Err(StageError::input("ingest::no_files", "there is nothing to read")
                .hint("name files with `files: [data/*.jsonl]` under `with:`, or connect a fetched one with `in:`"));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(context.threads())
            .build()
            .map_err(|error| StageError::new("ingest::threads", "cannot start threads").caused_by(error))?;
        pool.install(|| Ingest::new(context, &config)?.run(&files))
    }
}

fn check(config: &IngestConfig) -> Vec<ConfigIssue> {
    let mut issues = Vec::new();
    for (path, text) in [("pattern", &config.pattern), ("ignore", &config.ignore)] {
        let Some(text) = text else { continue };
        match Regex::new(text) {
            Err(error) => issues
                .push(ConfigIssue::new(path, format!("the regular expression does not parse: {}", last_line(&error)))),
            Ok(pattern) if path == "pattern" && pattern.capture_names().flatten().next().is_none() => issues.push(
                ConfigIssue::new(path, "the pattern has no named group").help("name what to keep: `(?<word>\\S+)`"),
            ),
            Ok(_) => {}
        }
        if !matches!(config.format, Format::Lines | Format::Auto) {
            issues.push(ConfigIssue::new(path, format!("`{path}` belongs to `format: lines`")));
        }
    }
    if config.format == Format::Lines && config.pattern.is_none() && config.map.is_none() {
        issues.push(
            ConfigIssue::new("format", "`lines` needs a `pattern`, or a `map` over `row.line`")
                .help("add `pattern: '^(?<word>\\S+) (?<rest>.*)$'`"),
        );
    }
    if let Some(map) = &config.map
        && let Err(found) = Shaper::from_map(map, &config.keep)
    {
        issues.extend(found.into_iter().map(|(path, message)| ConfigIssue::new(path, message)));
    }
    for (index, name) in config.keep.iter().enumerate() {
        if ["id", "messages", "prompt", "completion", "text"].contains(&name.as_str()) {
            issues.push(ConfigIssue::new(
                format!("keep[{index}]"),
                format!("`{name}` is a column that datasets have anyway, and cannot be kept beside it"),
            ));
        } else if config.keep[..index].contains(name) {
            issues.push(ConfigIssue::new(format!("keep[{index}]"), format!("`{name}` is kept twice")));
        }
    }
    issues
}

fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned()
}

fn expand_files(config: &IngestConfig, with: &Value, env: PrepareEnv<'_>) -> Result<Vec<SourceRef>, Vec<ConfigIssue>> {
    let (mut refs, mut issues): (Vec<SourceRef>, Vec<ConfigIssue>) = (Vec::new(), Vec::new());
    let list = with.get("files").is_some_and(Value::is_array);
    for (index, pattern) in config.files.iter().flat_map(|files| &files.0).enumerate() {
        let config_path = if list { format!("files[{index}]") } else { "files".to_owned() };
        if pattern.contains("://") {
            issues.push(
                ConfigIssue::new(config_path, format!("`{pattern}` is an address, expected a path"))
                    .help("fetch it first: a stage with `uses: fetch`, connected with `in:`"),
            );
            continue;
        }
        let paths = if glob::is_pattern(pattern) {
            glob::expand(env.directory, pattern)
        } else if env.directory.join(pattern).is_dir() {
            issues.push(
                ConfigIssue::new(config_path, format!("`{pattern}` is a directory, expected files"))
                    .help(format!("name its files: `{}/*.jsonl`", pattern.trim_end_matches('/'))),
            );
            continue;
        } else {
            Ok(vec![Utf8PathBuf::from(pattern)])
        };
        match paths {
            Ok(paths) if paths.is_empty() => {
                issues.push(ConfigIssue::new(config_path, format!("no file matches `{pattern}`")))
            }
            Ok(paths) => {
                for path in paths {
                    let label = format!("files[{}]", refs.len());
                    let config_path = config_path.clone();
                    refs.push(SourceRef { label, path, kind: SourceKind::File, config_path });
                }
            }
            Err(error) => issues.push(ConfigIssue::new(config_path, error.to_string())),
        }
    }
    if issues.is_empty() { Ok(refs) } else { Err(issues) }
}

/// Path and the name that messages use, in order: connected inputs first.
fn input_files(context: &StageContext<'_>) -> StageResult<Vec<(Utf8PathBuf, String)>> {
    let mut files = Vec::new();
    for input in context.inputs("files") {
        if !input.path.is_dir() {
            files.push((input.path.clone(), input.from.clone()));
            continue;
        }
        for name in luthier_core::fs::walk_files(&input.path)? {
            files.push((input.path.join(&name), format!("{}/{name}", input.from)));
        }
    }
    for index in 0.. {
        let Ok(source) = context.source(&format!("files[{index}]")) else { break };
        let name = source.path.strip_prefix(&context.request().directory).unwrap_or(&source.path);
        files.push((source.path.clone(), name.as_str().to_owned()));
    }
    Ok(files)
}

struct Ingest<'a, 'b> {
    context: &'a StageContext<'b>,
    config: &'a IngestConfig,
    parser: Parser,
    shaper: Option<Shaper>,
    rejects: Rejects,
    read: u64,
    ignored: u64,
}

/// What a record became.
enum Shaped {
    Sample(Sample),
    Ignored,
    Broken(String),
}

impl<'a, 'b> Ingest<'a, 'b> {
    fn new(context: &'a StageContext<'b>, config: &'a IngestConfig) -> StageResult<Self> {
        let compile = |text: &Option<String>| match text {
            Some(text) => Regex::new(text)
                .map(Some)
                .map_err(|error| StageError::input("ingest::pattern", "the pattern does not parse").caused_by(error)),
            None => Ok(None),
        };
        let parser = Parser { pattern: compile(&config.pattern)?, ignore: compile(&config.ignore)? };
        let map: Option<&MapConfig> = config.map.as_ref();
        let shaper = match map.map(|map| Shaper::from_map(map, &config.keep)) {
            Some(Ok(shaper)) => Some(shaper),
            Some(Err(issues)) => {
                let text: Vec<String> = issues.into_iter().map(|(path, what)| format!("{path}: {what}")).collect();
                return Err(StageError::input("ingest::map", text.join("; ")));
            }
            None => None,
        };
        let rejects = Rejects::new(context, config)?;
        Ok(Self { context, config, parser, shaper, rejects, read: 0, ignored: 0 })
    }

    fn run(mut self, files: &[(Utf8PathBuf, String)]) -> StageResult<StageOutcome> {
        let mut sampler = self.config.sample.map(Sampler::new);
        if let Some(sampler) = &mut sampler {
            // The first pass only chooses; the second writes what was chosen, so memory holds no rows.
            self.pass(files, &mut |_, sample| {
                sampler.offer(&sample.id);
                Ok(true)
            })?;
            sampler.decide();
            self.rejects.restart()?;
            (self.read, self.ignored) = (0, 0);
        }
        let mut writer = SampleWriter::new(self.context.output("dataset"), self.config);
        let limit = self.config.limit.unwrap_or(u64::MAX);
        self.pass(files, &mut |shape, sample| {
            if sampler.as_mut().is_none_or(|sampler| sampler.take(&sample.id)) {
                writer.write(shape, sample)?;
            }
            Ok(writer.rows() < limit)
        })?;
        self.finish(files, writer)
    }

    /// Hands every sample in order to `sink`, until it answers false.
    fn pass(
        &mut self,
        files: &[(Utf8PathBuf, String)],
        sink: &mut dyn FnMut(luthier_formats::dataset::DatasetShape, Sample) -> StageResult<bool>,
    ) -> StageResult<()> {
        for (number, (path, name)) in files.iter().enumerate() {
            let mut source = FileSource::open(path, name, self.config)?;
            loop {
                self.context.check_cancelled()?;
                let group = read_group(&mut source)?;
                if group.is_empty() {
                    break;
                }
                let format = source.format;
                let shaped = self.shape_group(name, format, &group)?;
                for (record, shaped) in group.iter().zip(shaped) {
                    self.read += 1;
                    match shaped {
                        Shaped::Ignored => self.ignored += 1,
                        Shaped::Broken(what) => self.rejects.add(Rejected::new(name, record, what))?,
                        Shaped::Sample(sample) => {
                            let Some(shaper) = &self.shaper else { continue };
                            if !sink(shaper.shape(), sample)? {
                                return Ok(());
                            }
                        }
                    }
                }
                self.context.progress(self.read, 0, "rows", format!("file {} of {}", number + 1, files.len()));
            }
        }
        Ok(())
    }

    fn shape_group(&mut self, name: &str, format: Format, group: &[Record]) -> StageResult<Vec<Shaped>> {
        let parser = &self.parser;
        let rows: Vec<Result<Option<Row>, String>> =
            group.par_iter().map(|record| parser.parse(format, record)).collect();
        if self.shaper.is_none()
            && let Some((record, first)) =
                group.iter().zip(&rows).find_map(|(record, row)| Some((record, row.as_ref().ok()?.as_ref()?)))
        {
            let shaper = Shaper::from_first(self.config.shape, first, &self.config.keep)
                .map_err(|(what, hint)| StageError::input("ingest::shape", what).at(name, record.line, 0).hint(hint))?;
            self.shaper = Some(shaper);
        }
        let shaper = self.shaper.as_ref();
        let shaped = rows.into_par_iter().map(|row| match (row, shaper) {
            (Ok(Some(row)), Some(shaper)) => shaper.sample(&row).map_or_else(Shaped::Broken, Shaped::Sample),
            (Ok(_), _) => Shaped::Ignored,
            (Err(what), _) => Shaped::Broken(what),
        });
        Ok(shaped.collect())
    }

    fn finish(self, files: &[(Utf8PathBuf, String)], writer: SampleWriter) -> StageResult<StageOutcome> {
        let rejected = self.rejects.finish()?;
        if writer.rows() == 0 {
            let names: Vec<&str> = files.iter().take(5).map(|(_, name)| name.as_str()).collect();
            return Err(StageError::input(
                "ingest::empty",
                format!(
                    "no row came out of {} ({} records read, {} ignored, {rejected} broken)",
                    names.join(", "),
                    self.read,
                    self.ignored
                ),
            )
            .hint("look at the file, and at `pattern:`, `ignore:` and `map:`"));
        }
        let mut outcome = StageOutcome::new();
        writer.finish(&mut outcome)?;
        outcome.metric("records", self.read as f64, "rows");
        if self.ignored > 0 {
            outcome.metric("ignored", self.ignored as f64, "rows");
        }
        if self.config.on_error == OnError::Skip {
            outcome.metric("rejected", rejected as f64, "rows");
        }
        if rejected > 0 {
            outcome.warn(format!(
                "{rejected} of {} records are broken and were left out; `rejected` lists them with file and line",
                self.read
            ));
        }
        Ok(outcome)
    }
}

fn read_group(source: &mut FileSource) -> StageResult<Vec<Record>> {
    let (mut group, mut weight) = (Vec::new(), 0);
    while group.len() < GROUP_RECORDS && weight < GROUP_BYTES {
        let Some(record) = source.next_record()? else { break };
        weight += record.raw.weight();
        group.push(record);
    }
    Ok(group)
}

#[cfg(test)]
mod tests;
