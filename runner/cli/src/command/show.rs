//! `luthier show STAGE`: the last result of a stage.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Artifact, StageId};
use luthier_engine::EngineError;
use luthier_engine::format;
use luthier_engine::run;
use luthier_engine::store::{StageRecord, Store};
use owo_colors::OwoColorize;

use super::{load, one_stage, open_store, section, select, workspace};
use crate::args::{Global, ShowArgs};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::target;

pub fn run(args: &ShowArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let (file, stage) = target::split_names(&args.names);
    let Some(stage) = stage else {
        return Err(Failure::input("cli::which_stage", "name the stage to show")
            .hint("`luthier show STAGE`; `luthier status` lists the stages"));
    };
    let store = open_store(&workspace(global))?;
    if args.path.is_none() && sweep(&store, file.as_deref(), &stage, printer)? {
        return Ok(exit::DONE);
    }
    let record = latest(&store, file.as_deref(), &stage, printer)?;
    if let Some(output) = &args.path {
        let artifact = output_of(&record, Some(output.as_str()).filter(|name| !name.is_empty()))?;
        printer.result(store.artifact_path(artifact).as_str());
    } else if printer.json {
        printer.json(&record);
    } else {
        printer.result(&text(&record, &store, printer.result_width()));
    }
    Ok(exit::DONE)
}

/// Shows the members of a matrix side by side; false if the name means a single stage.
fn sweep(store: &Store, file: Option<&Utf8Path>, name: &str, printer: Printer) -> Result<bool, Failure> {
    let pipeline = load(file, &[], printer)?;
    let found = select(&pipeline, name)?;
    let members = pipeline.stages.iter().filter(|stage| found.contains(&stage.id) && !stage.matrix.is_empty());
    let groups: Vec<&StageId> = members.map(|stage| &stage.group).collect();
    if groups.len() < 2 {
        return Ok(false);
    }
    let mut compared = run::compare(&pipeline, store)?;
    compared.retain(|comparison| comparison.groups.iter().any(|group| groups.contains(&group)));
    if compared.is_empty() {
        return Err(Failure::input("show::no_results", format!("no member of `{name}` has a result to compare"))
            .hint(format!("make them with `luthier run {} --until '{name}'`", pipeline.file)));
    }
    if printer.json {
        printer.json(&compared);
    } else {
        for comparison in &compared {
            printer.result(&super::comparison::text(comparison, printer.width()));
        }
    }
    Ok(true)
}

/// The last result of a stage of a pipeline.
pub fn latest(store: &Store, file: Option<&Utf8Path>, stage: &str, printer: Printer) -> Result<StageRecord, Failure> {
    let pipeline = load(file, &[], printer)?;
    let stage = one_stage(&pipeline, stage)?;
    let found = store.latest(&pipeline)?.remove(&stage);
    let record = found.map(|record| store.record(&record.key)).transpose()?.flatten();
    record.ok_or_else(|| match file {
        Some(file) => Failure::input("store::no_record", format!("no result of stage `{stage}` is in the store"))
            .hint(format!("`luthier run {file} --until {stage}` makes it")),
        None => EngineError::NoRecord { stage }.into(),
    })
}

/// The artifact of a record: the named output, or the first.
pub fn output_of<'a>(record: &'a StageRecord, name: Option<&str>) -> Result<&'a Artifact, Failure> {
    let found = match name {
        Some(name) => record.outputs.get(name),
        None => default_output(record),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = record.outputs.keys().map(AsRef::as_ref).collect();
        Failure::input(
            "cli::unknown_output",
            format!("stage `{}` has no output `{}`", record.stage, name.unwrap_or_default()),
        )
        .hint(format!("its outputs are {}", names.join(", ")))
    })
}

/// The output that a stage's bare name means: its only one, or the one named like the stage, its kind or its type.
fn default_output(record: &StageRecord) -> Option<&Artifact> {
    let usual = [record.stage.as_str(), record.fingerprint.kind.as_str(), "kept", "out", "output", "default"];
    let named = usual.iter().find_map(|name| record.outputs.get(*name));
    let typed = || record.outputs.iter().find(|(name, artifact)| name.as_str() == artifact.kind.as_str());
    named.or_else(|| typed().map(|(_, artifact)| artifact)).or_else(|| record.outputs.values().next())
}

/// A path as it stands, or the artifact of `stage` or `stage.output`.
pub fn resolve(word: &str, file: Option<&Utf8Path>, global: &Global, printer: Printer) -> Result<Utf8PathBuf, Failure> {
    let path = Utf8PathBuf::from(word);
    if path.exists() || word.contains('/') {
        return Ok(path);
    }
    let store = open_store(&workspace(global))?;
    let (stage, output) = match word.rsplit_once('.') {
        Some((stage, output)) => (stage, Some(output)),
        None => (word, None),
    };
    let record = latest(&store, file, stage, printer)?;
    Ok(store.artifact_path(output_of(&record, output)?))
}

fn text(record: &StageRecord, store: &Store, width: Option<usize>) -> String {
    let mut lines = vec![
        format!(
            "{} ({}), {} at {}",
            record.stage.bold(),
            record.fingerprint.kind,
            format::duration(record.seconds),
            record.started
        ),
        format!("key {}", record.key),
    ];
    for (name, artifact) in &record.outputs {
        lines.push(format!(
            "output {name} ({}) {} {}",
            artifact.kind,
            artifact.digest.short(),
            format::bytes(artifact.size)
        ));
        lines.push(format!("  {}", store.artifact_path(artifact)));
    }
    let longest = record.outcome.metrics.keys().map(String::len).max().unwrap_or(0);
    for (name, metric) in &record.outcome.metrics {
        lines.push(format!("{name:<longest$}  {}", format::metric(metric)));
    }
    for warning in &record.outcome.warnings {
        lines.push(format!("{} {warning}", "warning:".yellow()));
    }
    for section in &record.outcome.sections {
        lines.push(section::text(section, width));
    }
    lines.join("\n")
}
