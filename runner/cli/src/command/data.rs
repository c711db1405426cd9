//! `luthier data show|doctor`.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{Artifact, ArtifactKind};
use luthier_stages::inspect::{self, Finding, Severity, ShownSample};
use owo_colors::OwoColorize;

use super::{open_store, section, show, workspace};
use crate::args::{DataArgs, DataCommand, DataShowArgs, Global};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &DataArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    match &args.command {
        DataCommand::Show(args) => {
            let (path, model) = locate(args, global, printer)?;
            let shown = inspect::show(&path, model.as_deref(), args.count)?;
            if printer.json {
                printer.json(&shown.rows);
            } else {
                printer.note(&shown.title);
                if printer.result_color() && !shown.samples.is_empty() {
                    printer.note("trained tokens green, others grey; neighbours differ in shade");
                    printer.result(&shown.samples.iter().map(colored).collect::<Vec<_>>().join("\n"));
                } else {
                    printer.result(&section::harmless(&shown.text));
                }
            }
            Ok(exit::DONE)
        }
        DataCommand::Doctor(args) => {
            let (path, model) = locate(args, global, printer)?;
            let findings = inspect::examine(&path, model.as_deref())?;
            if printer.json {
                printer.json(&findings);
            } else {
                printer.result(&findings.iter().map(report).collect::<Vec<_>>().join("\n"));
            }
            let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
            Ok(if failed { exit::code(luthier_core::ErrorClass::Expectation) } else { exit::DONE })
        }
    }
}

/// The artifact, and the model that it is for: the one named, or the one that the stage was run with.
fn locate(
    args: &DataShowArgs,
    global: &Global,
    printer: Printer,
) -> Result<(Utf8PathBuf, Option<Utf8PathBuf>), Failure> {
    let file = args.pipeline.as_deref();
    let path = show::resolve(&args.artifact, file, global, printer)?;
    let model = match &args.model {
        Some(model) => Some(show::resolve(model, file, global, printer)?),
        None => model_of(&args.artifact, file, global, printer),
    };
    Ok((path, model))
}

fn model_of(word: &str, file: Option<&Utf8Path>, global: &Global, printer: Printer) -> Option<Utf8PathBuf> {
    if word.contains('/') || Utf8Path::new(word).exists() {
        return None;
    }
    let store = open_store(&workspace(global)).ok()?;
    let stage = word.split_once('.').map_or(word, |(stage, _)| stage);
    let record = show::latest(&store, file, stage, printer).ok()?;
    let input = record.fingerprint.inputs.get("model")?.first()?;
    [false, true]
        .map(|tree| Artifact { kind: ArtifactKind::Model, digest: input.digest, size: 0, tree })
        .map(|artifact| store.artifact_path(&artifact))
        .into_iter()
        .find(|path| path.exists())
}

fn colored(sample: &ShownSample) -> String {
    let mut text = format!("{}\n", sample.title.bold());
    for (number, (piece, trained)) in sample.pieces.iter().enumerate() {
        let piece = section::harmless(piece);
        let piece = match (trained, number % 2) {
            (true, 0) => piece.green().bold().to_string(),
            (true, _) => piece.bright_green().underline().to_string(),
            (false, 0) => piece.dimmed().to_string(),
            (false, _) => piece.dimmed().underline().to_string(),
        };
        text.push_str(&piece);
    }
    text.push('\n');
    text
}

fn report(finding: &Finding) -> String {
    let label = match finding.severity {
        Severity::Ok => "ok     ".green().to_string(),
        Severity::Note => "note   ".to_owned(),
        Severity::Warning => "warning".yellow().to_string(),
        Severity::Error => "error  ".red().bold().to_string(),
    };
    let mut lines = vec![format!("{label} {}: {}", finding.check, finding.found)];
    for example in &finding.examples {
        lines.push(format!("          {}: {}", example.row.bold(), example.text));
    }
    lines.extend(finding.hint.iter().map(|hint| format!("        hint: {hint}")));
    lines.join("\n")
}
