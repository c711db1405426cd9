//! `luthier explain`.

use luthier_engine::explain;
use luthier_engine::run::RunOptions;

use super::{load, one_stage, open_store, workspace};
use crate::args::{ExplainArgs, Global};
use crate::exit;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::target;

pub fn run(args: &ExplainArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let (file, stage) = target::split_names(&args.names);
    let Some(stage) = stage else {
        return Err(Failure::input("cli::which_stage", "name the stage to explain")
            .hint("`luthier explain STAGE`; `luthier status` lists the stages"));
    };
    let pipeline = load(file.as_deref(), &args.params, printer)?;
    let stage = one_stage(&pipeline, &stage)?;
    let store = open_store(&workspace(global))?;
    let options = RunOptions::default();
    let explanation = explain::explain(&pipeline, &store, &options, &stage)?;
    if printer.json {
        printer.json(&explanation);
    } else {
        printer.result(&explanation.to_string());
    }
    Ok(exit::DONE)
}
