//! `luthier graph`.

use crate::args::{GraphArgs, GraphFormat};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;

pub fn run(args: &GraphArgs, printer: Printer) -> Result<u8, Failure> {
    let pipeline = super::load(args.pipeline.pipeline.as_deref(), &args.pipeline.params, printer)?;
    if printer.json {
        printer.json(&pipeline.graph.to_json());
    } else {
        printer.result(&match args.format {
            GraphFormat::Text => pipeline.graph.to_text(),
            GraphFormat::Dot => pipeline.graph.to_dot(),
            GraphFormat::Mermaid => pipeline.graph.to_mermaid(),
        });
    }
    Ok(exit::DONE)
}
