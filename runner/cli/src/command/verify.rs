//! `luthier verify`: re-hash the store, or execute a stage again and compare.

use std::sync::Arc;

use luthier_core::{CancelToken, ErrorClass};
use luthier_engine::format;
use luthier_engine::run::{self, LockMode, RunOptions};

use super::{load, one_stage, open_store, show, workspace};
use crate::args::{Global, VerifyArgs};
use crate::exit;
use crate::failure::Failure;
use crate::live::Live;
use crate::printer::Printer;
use crate::target;

pub fn run(args: &VerifyArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let (file, stage) = target::split_names(&args.names);
    match stage {
        Some(stage) => execute_again(args, file, &stage, global, printer),
        None => rehash(global, printer),
    }
}

fn rehash(global: &Global, printer: Printer) -> Result<u8, Failure> {
    let store = open_store(&workspace(global))?;
    let report = store.verify(&mut |_, _| {})?;
    if printer.json {
        printer.json(&report);
    } else {
        for damage in &report.damaged {
            printer.result(&format!("damaged: {} {} ({})", damage.digest.short(), damage.problem, damage.path));
        }
        for missing in &report.missing {
            printer.result(&format!("missing: {missing}"));
        }
        printer.result(&format!(
            "{} hashed, {}: {}",
            format::plural(report.objects, "object", "objects"),
            format::bytes(report.bytes),
            if report.damaged.is_empty() && report.missing.is_empty() { "all as recorded" } else { "see above" }
        ));
    }
    if report.damaged.is_empty() && report.missing.is_empty() {
        return Ok(exit::DONE);
    }
    Err(Failure::new(ErrorClass::Store, "store::damaged", "the store is damaged")
        .hint("`luthier run` makes the damaged results anew"))
}

fn execute_again(
    args: &VerifyArgs,
    file: Option<camino::Utf8PathBuf>,
    stage: &str,
    global: &Global,
    printer: Printer,
) -> Result<u8, Failure> {
    let pipeline = load(file.as_deref(), &[], printer)?;
    let id = one_stage(&pipeline, stage)?;
    let store = open_store(&workspace(global))?;
    let before = show::latest(&store, file.as_deref(), stage, printer)?;
    let cancel = CancelToken::new();
    run::interrupt_on_ctrl_c(&cancel)?;
    let live = Arc::new(Live::new(printer));
    let mut options =
        RunOptions { only: vec![id.clone()], force: vec![id.clone()], lock: LockMode::Ignore, ..RunOptions::default() };
    options.threads = args.threads.unwrap_or(options.threads).max(1);
    let sink = Arc::new(move |event| live.event(&event));
    let summary = run::run(&pipeline, &store, &options, sink, cancel)?;
    if let Some(class) = summary.error_class() {
        return Ok(exit::code(class));
    }
    let after = show::latest(&store, file.as_deref(), stage, printer)?;
    let mut equal = true;
    for (name, artifact) in &after.outputs {
        let old = before.outputs.get(name);
        let same = old.is_some_and(|old| old.digest == artifact.digest);
        equal &= same;
        let verdict = if same { "equal" } else { "DIFFERS" };
        let was = old.map_or_else(|| "nothing".to_owned(), |old| old.digest.short());
        printer.result(&format!("{id}.{name}: {verdict} ({was}, now {})", artifact.digest.short()));
    }
    if equal {
        return Ok(exit::DONE);
    }
    Err(Failure::new(ErrorClass::Expectation, "verify::differs", format!("stage `{id}` does not reproduce its result"))
        .hint("if a command or plugin uses the clock, randomness or the network, that is where to look"))
}
