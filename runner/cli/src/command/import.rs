//! `luthier import`.

use luthier_core::ErrorClass;
use luthier_engine::pipeline;
use luthier_engine::spec::{Diagnostics, SourceText};
use owo_colors::OwoColorize;
use serde_json::json;

use crate::args::ImportArgs;
use crate::exit;
use crate::failure::Failure;
use crate::import::{self, Fate, Imported, Note};
use crate::printer::Printer;

pub fn run(args: &ImportArgs, printer: Printer) -> Result<u8, Failure> {
    let text = fs_err::read_to_string(&args.file).map_err(|error| {
        Failure::input("import::unreadable", error.to_string())
            .hint("name the YAML file that the trainer is started with, as in `luthier import axolotl qlora.yml`")
    })?;
    let source = SourceText::new(args.file.clone(), text);
    let imported = import::convert(args.from, &source, &luthier_stages::registry()).map_err(|problems| {
        let diagnostics = Diagnostics::new(source.into(), problems);
        Failure::rendered(
            ErrorClass::Input,
            diagnostics.render(printer.color(), printer.width()),
            diagnostics.to_json(),
        )
    })?;
    match &args.output {
        Some(path) => {
            if path.exists() && !args.force {
                return Err(Failure::input("import::exists", format!("`{path}` exists already"))
                    .hint("name another file with `--output FILE`, or replace it with `--force`"));
            }
            super::init::write_pipeline(path, &imported.yaml)?;
            // What was written is read at once, so that nobody meets its errors later.
            if let Err(diagnostics) = pipeline::load(path, &[], &luthier_stages::registry()) {
                let (text, value) = (diagnostics.render(printer.color(), printer.width()), diagnostics.to_json());
                return Err(Failure::rendered(ErrorClass::Input, text, value));
            }
        }
        None if !printer.json => printer.result(&imported.yaml),
        None => {}
    }
    report(args, &imported, printer);
    Ok(exit::DONE)
}

/// What became of the keys, one by one.
fn report(args: &ImportArgs, imported: &Imported, printer: Printer) {
    if printer.json {
        printer.json(&json!({"from": args.file, "output": args.output, "carried": imported.carried,
            "notes": imported.notes, "pipeline": imported.yaml}));
        return;
    }
    let line = |note: &Note| format!("  {}:{}: {}: {}", args.file, note.line, note.key.bold(), note.why.dimmed());
    for (fate, title) in [(Fate::NotNeeded, "not needed"), (Fate::NotCarried, "not carried over")] {
        let notes: Vec<&Note> = imported.notes.iter().filter(|note| note.fate == fate).collect();
        if !notes.is_empty() {
            printer.note(&format!("{title}:"));
            notes.into_iter().for_each(|note| printer.note(&line(note)));
        }
    }
    printer.note(&format!("{} keys carried over", imported.carried));
    if let Some(path) = &args.output {
        printer.note(&format!("wrote {path}; next: luthier plan {path}"));
    }
}
