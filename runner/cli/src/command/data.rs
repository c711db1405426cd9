//! `luthier data show|doctor`.

use luthier_stages::inspect;

use super::show;
use crate::args::{DataArgs, DataCommand, Global};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &DataArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    match &args.command {
        DataCommand::Show(args) => {
            let path = show::resolve(&args.artifact, args.pipeline.as_deref(), global, printer)?;
            let model = args
                .model
                .as_ref()
                .map(|model| show::resolve(model, args.pipeline.as_deref(), global, printer))
                .transpose()?;
            let shown = inspect::show(&path, model.as_deref(), args.count)?;
            if printer.json {
                printer.json(&shown.rows);
            } else {
                printer.note(&shown.title);
                printer.result(&shown.text);
            }
        }
        DataCommand::Doctor(args) => {
            let path = show::resolve(&args.artifact, args.pipeline.as_deref(), global, printer)?;
            let findings = inspect::examine(&path)?;
            if printer.json {
                printer.json(&findings);
            } else {
                for finding in &findings {
                    printer.result(&format!(
                        "{} {}: {}",
                        if finding.ok { "ok  " } else { "note" },
                        finding.check,
                        finding.found
                    ));
                    if let Some(hint) = &finding.hint {
                        printer.result(&format!("     hint: {hint}"));
                    }
                }
            }
        }
    }
    Ok(exit::DONE)
}
