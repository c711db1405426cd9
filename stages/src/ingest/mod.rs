//! `ingest`: files of many formats to one dataset.
//!
//! Records are cut one after the other, parsed and shaped in parallel, and written in order: memory is bounded by one
//! group of records whatever the files, and the output does not depend on threads. A broken record is an error with its
//! file and line, or is set aside with them. What became of a group of records is kept between runs: a new file costs its
//! own groups, a changed line one.

mod config;
mod csv_rows;
mod glob;
mod group;
mod json_scan;
mod open;
mod output;
mod parquet_rows;
mod parse;
mod record;
mod reject;
mod remote;
mod sampling;
mod shape;
mod shards;
mod source;

use camino::Utf8PathBuf;
use luthier_core::{
    ArtifactKind, ConfigIssue, Digest, InputPort, OutputDecl, PrepareEnv, Prepared, Resources, SourceKind, SourceRef,
    Stage, StageContext, StageError, StageOutcome, StageResult, config_schema, parse_config,
};
use luthier_formats::dataset::DatasetShape;
use rayon::prelude::*;
use regex::Regex;
use serde_json::{Value, json};

use crate::one_or_many::OneOrMany;
use config::{Format, IngestConfig, MapConfig, OnError};
use group::read_group;
use output::SampleWriter;
use parse::Parser;
use record::Record;
use reject::{Rejected, Rejects};
use remote::Remote;
use sampling::Sampler;
use shape::{Sample, Shaper};
use shards::{Item, KnownGroups, Listed};
use source::FileSource;

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
        2
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
        let mut config: IngestConfig = parse_config(with)?;
        let mut issues = check(&config);
        let listed = config.files.is_some();
        let (sources, remotes) = match expand_files(&config, with, env) {
            Ok(found) => found,
            Err(found) => {
                issues.extend(found);
                Default::default()
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
                let names = sources.iter().map(|source| source.path.as_str());
                let names = names.chain(remotes.iter().map(|(_, remote)| remote.name())).map(Value::from).collect();
                key.insert("names".to_owned(), Value::Array(names));
            }
            if !remotes.is_empty() {
                let remotes = remotes.iter().map(|(at, remote)| json!({"at": at, "content": remote.key()})).collect();
                key.insert("remote".to_owned(), Value::Array(remotes));
            }
        }
        if listed {
            // One entry for each file, in order: what messages and `rejected` call it.
            let mut files: Vec<String> = sources.iter().map(|source| source.path.to_string()).collect();
            for (at, remote) in &remotes {
                files.insert(*at, remote.written());
            }
            config.files = Some(OneOrMany(files));
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
        let mut warnings = Vec::new();
        let files = input_files(context, &config, &mut warnings)?;
        if files.is_empty() {
            return Err(StageError::input("ingest::no_files", "there is nothing to read")
                .hint("name files with `files: [data/*.jsonl]` under `with:`, or connect a fetched one with `in:`"));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(context.threads())
            .build()
            .map_err(|error| StageError::new("ingest::threads", "cannot start threads").caused_by(error))?;
        let mut outcome = pool.install(|| Ingest::new(context, &config)?.run(&files, self.recipe_version()))?;
        warnings.into_iter().for_each(|warning| {
            outcome.warn(warning);
        });
        Ok(outcome)
    }
}

fn check(config: &IngestConfig) -> Vec<ConfigIssue> {
    let mut issues = Vec::new();
    for (path, text) in [("pattern", &config.pattern), ("ignore", &config.ignore)] {
        let Some(text) = text else { continue };
        match Regex::new(text) {
            Err(error) => issues.push(
                ConfigIssue::new(path, format!("the regular expression does not parse: {}", last_line(&error)))
                    .help("named groups are written `(?<name>…)`; a bracket that is text gets a backslash before it"),
            ),
            Ok(pattern) if path == "pattern" && pattern.capture_names().flatten().next().is_none() => issues.push(
                ConfigIssue::new(path, "the pattern has no named group").help("name what to keep: `(?<word>\\S+)`"),
            ),
            Ok(_) => {}
        }
        if !matches!(config.format, Format::Lines | Format::Auto) {
            issues.push(
                ConfigIssue::new(path, format!("`{path}` belongs to `format: lines`"))
                    .help(format!("set `format: lines`, or remove `{path}`")),
            );
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
        let help = "such as `map: {prompt: \"{{ row.question }}\", completion: \"{{ row.answer }}\"}`";
        issues.extend(found.into_iter().map(|(path, message)| ConfigIssue::new(path, message).help(help)));
    }
    if let Some(delimiter) = &config.delimiter {
        if !matches!(config.format, Format::Csv | Format::Auto) {
            issues.push(
                ConfigIssue::new("delimiter", "`delimiter` belongs to `format: csv`")
                    .help("set `format: csv`, or remove `delimiter`"),
            );
        }
        if delimiter.len() != 1 || [b'"', b'\n', b'\r'].contains(&delimiter.as_bytes()[0]) {
            issues.push(
                ConfigIssue::new(
                    "delimiter",
                    format!("`{delimiter}` separates no fields, expected one ASCII character"),
                )
                .help("such as `delimiter: \";\"`, or `\"\\t\"` for a tab"),
            );
        }
    }
    if config.max_errors.is_some() && config.on_error == OnError::Fail {
        issues.push(ConfigIssue {
            on_key: true,
            ..ConfigIssue::new(
                "max_errors",
                "`max_errors` belongs to `on_error: skip`; without it the first broken row fails",
            )
            .help("add `on_error: skip`, or remove `max_errors`")
        });
    }
    for (index, name) in config.keep.iter().enumerate() {
        if ["id", "messages", "prompt", "completion", "text"].contains(&name.as_str()) {
            issues.push(
                ConfigIssue::new(
                    format!("keep[{index}]"),
                    format!("`{name}` is a column that datasets have anyway, and cannot be kept beside it"),
                )
                .help("remove it from `keep`; a `map` over `row` can write such a column of the file elsewhere"),
            );
        } else if config.keep[..index].contains(name) {
            issues
                .push(ConfigIssue::new(format!("keep[{index}]"), format!("`{name}` is kept twice")).help("remove one"));
        }
    }
    issues
}

fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned()
}

/// Local files, and files named by address with their places among all.
type Files = (Vec<SourceRef>, Vec<(usize, Remote)>);

fn expand_files(config: &IngestConfig, with: &Value, env: PrepareEnv<'_>) -> Result<Files, Vec<ConfigIssue>> {
    let (mut refs, mut remotes, mut issues): (Vec<SourceRef>, Vec<_>, Vec<ConfigIssue>) = Default::default();
    let list = with.get("files").is_some_and(Value::is_array);
    for (index, pattern) in config.files.iter().flat_map(|files| &files.0).enumerate() {
        let config_path = if list { format!("files[{index}]") } else { "files".to_owned() };
        match Remote::parse(pattern) {
            None => {}
            Some(Ok(remote)) => {
                remotes.push((refs.len() + remotes.len(), remote));
                continue;
            }
            Some(Err(issue)) => {
                issues.push(ConfigIssue { path: config_path, ..issue });
                continue;
            }
        }
        if pattern.is_empty() {
            issues.push(ConfigIssue::new(config_path, "an empty path").help("name files: `files: [data/*.jsonl]`"));
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
        } else if pattern.contains(['[', '{']) && !env.directory.join(pattern).exists() {
            issues.push(
                ConfigIssue::new(config_path, format!("there is no file `{pattern}`"))
                    .help("globs know `*`, `?` and `**` only: list what else there is, `files: [a.jsonl, b.jsonl]`"),
            );
            continue;
        } else {
            Ok(vec![Utf8PathBuf::from(pattern)])
        };
        match paths {
            Ok(paths) if paths.is_empty() => {
                issues.push(ConfigIssue::new(config_path, format!("no file matches `{pattern}`")).help(
                    "it is looked for beside the pipeline; `*` and `?` stay within a name, `**` is any directories",
                ))
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
    if issues.is_empty() { Ok((refs, remotes)) } else { Err(issues) }
}

/// A file to read.
struct InputFile {
    path: Utf8PathBuf,
    /// What messages call it.
    name: String,
    /// Of its content, where the runner says it.
    digest: Option<Digest>,
}

/// In order: connected inputs first. Fetches what is named by address; what there is to say of that goes into `warnings`.
fn input_files(
    context: &StageContext<'_>,
    config: &IngestConfig,
    warnings: &mut Vec<String>,
) -> StageResult<Vec<InputFile>> {
    let mut files = Vec::new();
    for input in context.inputs("files") {
        if !input.path.is_dir() {
            files.push(InputFile { path: input.path.clone(), name: input.from.clone(), digest: Some(input.digest) });
            continue;
        }
        for name in luthier_core::fs::walk_files(&input.path)? {
            let (path, name) = (input.path.join(&name), format!("{}/{name}", input.from));
            files.push(InputFile { path, name, digest: None });
        }
    }
    let mut local = 0;
    for (at, entry) in config.files.iter().flat_map(|files| &files.0).enumerate() {
        let file = match Remote::parse(entry) {
            Some(Ok(remote)) => {
                let fetched = remote.fetch(context, at)?;
                warnings.extend(fetched.warning);
                InputFile { path: fetched.path, name: remote.name().to_owned(), digest: Some(fetched.digest) }
            }
            Some(Err(_)) => continue,
            None => {
                let source = context.source(&format!("files[{local}]"))?;
                local += 1;
                InputFile { path: source.path.clone(), name: entry.clone(), digest: Some(source.digest) }
            }
        };
        files.push(file);
    }
    Ok(files)
}

const TOOLS_LEFT_OUT: &str = "the rows have `tools`, which chat templates show to the model and which are left out; `keep: [tools]` carries them along";

struct Ingest<'a, 'b> {
    context: &'a StageContext<'b>,
    config: &'a IngestConfig,
    parser: Parser,
    shaper: Option<Shaper>,
    rejects: Rejects,
    known: Option<KnownGroups>,
    /// What the user should know about the first row.
    note: Option<&'static str>,
    read: u64,
    ignored: u64,
}

/// What rows go to; answers false when it wants no more.
type Sink<'s> = &'s mut dyn FnMut(DatasetShape, Sample) -> StageResult<bool>;

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
        Ok(Self { context, config, parser, shaper, rejects, known: None, note: None, read: 0, ignored: 0 })
    }

    fn run(mut self, files: &[InputFile], recipe: u32) -> StageResult<StageOutcome> {
        self.decide_shape(files)?;
        let shaper = self.shaper.as_ref();
        self.known = shaper.map(|shaper| KnownGroups::new(self.context.shards(), self.config, shaper, recipe));
        let mut sampler = self.config.sample.map(Sampler::new);
        if let Some(sampler) = &mut sampler {
            // The first pass only chooses; the second writes what was chosen, so memory holds no rows.
            self.pass(files, true, &mut |_, sample| {
                sampler.offer(&sample.id);
                Ok(true)
            })?;
            sampler.decide();
            self.rejects.restart()?;
            (self.read, self.ignored) = (0, 0);
        }
        let mut writer = SampleWriter::new(self.context.output("dataset"), self.config);
        let limit = self.config.limit.unwrap_or(u64::MAX);
        self.pass(files, sampler.is_none(), &mut |shape, sample| {
            if sampler.as_mut().is_none_or(|sampler| sampler.take(&sample.id)) {
                writer.write(shape, sample)?;
            }
            Ok(writer.rows() < limit)
        })?;
        self.finish(files, writer)
    }

    /// Looks for the first row, which says how all are shaped, unless a map does.
    fn decide_shape(&mut self, files: &[InputFile]) -> StageResult<()> {
        for file in files {
            if self.shaper.is_some() {
                return Ok(());
            }
            let mut source = FileSource::open(&file.path, &file.name, self.config)?;
            while let Some(record) = source.next_record()? {
                self.context.check_cancelled()?;
                let Ok(Some(first)) = self.parser.parse(source.format, &record) else { continue };
                let shaper =
                    Shaper::from_first(self.config.shape, &first, &self.config.keep).map_err(|(what, hint)| {
                        StageError::input("ingest::shape", what).at(file.name.as_str(), record.line, 0).hint(hint)
                    })?;
                let forgets_tools = first.contains_key("tools") && !self.config.keep.iter().any(|name| name == "tools");
                if shaper.shape() == DatasetShape::Chat && forgets_tools {
                    self.note = Some(TOOLS_LEFT_OUT);
                }
                self.shaper = Some(shaper);
                break;
            }
        }
        Ok(())
    }

    /// Hands every sample in order to `sink`, until it answers false. `count` counts shards.
    fn pass(&mut self, files: &[InputFile], count: bool, sink: Sink<'_>) -> StageResult<()> {
        for (number, file) in files.iter().enumerate() {
            let progress = format!("file {} of {}", number + 1, files.len());
            if !self.read_file(file, count, &progress, &mut *sink)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// False when `sink` wants no more.
    fn read_file(&mut self, file: &InputFile, count: bool, progress: &str, sink: Sink<'_>) -> StageResult<bool> {
        let mut source = FileSource::open(&file.path, &file.name, self.config)?;
        let format = source.format;
        let list = self.known.as_ref().zip(file.digest).and_then(|(known, digest)| known.list(format, &digest));
        let (mut groups, mut read): (Vec<Listed>, usize) = (Vec::new(), 0);
        for number in 0.. {
            self.context.check_cancelled()?;
            let listed = match &list {
                Some(list) if number == list.len() => return Ok(true),
                Some(list) => list.get(number),
                None => None,
            };
            let kept = self.known.as_ref().zip(listed).and_then(|(known, listed)| known.get(&listed.key));
            let (line, items, reused) = match kept.zip(listed) {
                Some((items, listed)) => (listed.line, items, true),
                None => {
                    // Groups that came from the cache are still ahead in the file.
                    while read < number {
                        read_group(&mut source)?;
                        read += 1;
                    }
                    let group = read_group(&mut source)?;
                    read += 1;
                    let Some(first) = group.first() else { break };
                    let (key, items, reused) = self.shape_group(format, &group);
                    groups.extend(key.map(|key| Listed { key, line: first.line }));
                    (first.line, items, reused)
                }
            };
            if let Some(known) = self.known.as_ref().filter(|_| count) {
                known.count(reused);
            }
            for item in items {
                self.read += 1;
                match item {
                    Item::Ignored => self.ignored += 1,
                    Item::Broken { offset, reason, excerpt } => {
                        self.rejects.add(Rejected::new(&file.name, line + offset, reason, excerpt))?;
                    }
                    Item::Sample(sample) => {
                        let Some(shaper) = &self.shaper else { continue };
                        if !sink(shaper.shape(), sample)? {
                            return Ok(false);
                        }
                    }
                }
            }
            self.context.progress(self.read, 0, "rows", progress);
        }
        if let Some((known, digest)) = self.known.as_ref().zip(file.digest).filter(|_| list.is_none()) {
            known.file_list(format, &digest, &groups);
        }
        Ok(true)
    }

    /// What became of the records of a group, under which key it is kept, and whether it had been before.
    fn shape_group(&self, format: Format, group: &[Record]) -> (Option<Digest>, Vec<Item>, bool) {
        let key = self.known.as_ref().map(|known| known.group_key(format, group));
        if let Some(items) = self.known.as_ref().zip(key).and_then(|(known, key)| known.get(&key)) {
            return (key, items, true);
        }
        let (parser, shaper, first) = (&self.parser, self.shaper.as_ref(), group[0].line);
        let shape = |record: &Record| {
            let row = parser.parse(format, record);
            let sample = row.and_then(|row| row.zip(shaper).map(|(row, shaper)| shaper.sample(&row)).transpose());
            match sample {
                Ok(Some(sample)) => Item::Sample(sample),
                Ok(None) => Item::Ignored,
                Err(reason) => Item::Broken { offset: record.line - first, reason, excerpt: record.raw.excerpt() },
            }
        };
        let items: Vec<Item> = group.par_iter().map(shape).collect();
        if let Some((known, key)) = self.known.as_ref().zip(key) {
            known.put(&key, &items);
        }
        (key, items, false)
    }

    fn finish(self, files: &[InputFile], writer: SampleWriter) -> StageResult<StageOutcome> {
        let rejected = self.rejects.finish()?;
        if writer.rows() == 0 {
            let names: Vec<&str> = files.iter().take(5).map(|file| file.name.as_str()).collect();
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
        if let Some(note) = self.note {
            outcome.warn(note.to_owned());
        }
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
        if let Some(known) = &self.known {
            known.finish(self.context, &mut outcome);
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod remote_tests;
#[cfg(test)]
mod shard_tests;
#[cfg(test)]
mod tests;
