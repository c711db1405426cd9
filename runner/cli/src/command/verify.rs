//! `luthier verify`: re-hash the store, or execute a stage again and compare.

use luthier_core::{CancelToken, ErrorClass, EventSink, StageEvent, StageId};
use luthier_engine::EngineError;
use luthier_engine::format;
use luthier_engine::lock::Lock;
use luthier_engine::run::{
    self, CurveDifference, FileDifference, Reexecution, Remote, RunEvent, RunOptions, StepComparison, Wanted,
};
use luthier_engine::store::{Store, VerifyReport};

use super::{load, one_stage, open_store, remote, workspace};
use crate::args::{Global, VerifyArgs};
use crate::exit;
use crate::failure::Failure;
use crate::live::{self, Live};
use crate::printer::Printer;
use crate::{target, tensor};

pub fn run(args: &VerifyArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let (file, stage) = target::split_names(&args.names);
    match stage {
        Some(stage) => execute_again(args, file, &stage, global, printer),
        None if args.steps.is_some() => {
            Err(Failure::input("verify::no_stage", "`--steps` needs the stage whose first steps are to be executed")
                .hint("name it: `luthier verify STAGE --steps 10`; `luthier verify` alone re-hashes the store"))
        }
        None => rehash(args, file, global, printer),
    }
}

fn rehash(
    args: &VerifyArgs,
    file: Option<camino::Utf8PathBuf>,
    global: &Global,
    printer: Printer,
) -> Result<u8, Failure> {
    let store = open_store(&workspace(global))?;
    let report = store.verify(&mut |_, _| {})?;
    let broken = store.broken_results()?;
    if printer.json && !args.repair {
        let mut value = serde_json::to_value(&report).unwrap_or_default();
        value["broken"] = serde_json::json!(broken.iter().map(|(stage, _)| stage).collect::<Vec<_>>());
        printer.json(&value);
    } else if !printer.json {
        say(&report, &broken, printer);
    }
    if report.damaged.is_empty() && report.missing.is_empty() && broken.is_empty() {
        return Ok(exit::DONE);
    }
    if args.repair {
        return repair(args, file, &store, &report, &broken, printer);
    }
    Err(Failure::new(ErrorClass::Store, "store::damaged", "the store is damaged").hint(
        "`luthier verify --repair` removes what is damaged and brings it from the remote if there is one; `luthier run` \
         makes the rest anew",
    ))
}

fn say(report: &VerifyReport, broken: &[(StageId, luthier_core::Digest)], printer: Printer) {
    for damage in &report.damaged {
        printer.result(&format!("damaged: {} {} ({})", damage.digest.short(), damage.problem, damage.path));
    }
    for missing in &report.missing {
        printer.result(&format!("missing: {missing}"));
    }
    for (stage, key) in broken {
        printer.result(&format!("not whole: the result of {stage} with key {}", key.short()));
    }
    printer.result(&format!(
        "{} hashed, {}: {}",
        format::plural(report.objects, "object", "objects"),
        format::bytes(report.bytes),
        if report.damaged.is_empty() && report.missing.is_empty() { "all as recorded" } else { "see above" }
    ));
}

/// Clears the damage away, then brings what it can.
fn repair(
    args: &VerifyArgs,
    file: Option<camino::Utf8PathBuf>,
    store: &Store,
    report: &VerifyReport,
    broken: &[(StageId, luthier_core::Digest)],
    printer: Printer,
) -> Result<u8, Failure> {
    // The remote may be the pipeline's; without a pipeline here, only what the command line says.
    let named = args.remote.remote.is_some();
    let pipeline = match target::pipeline_file(file.as_deref()) {
        Ok(file) => Some(load(Some(&file), &[], printer)?),
        Err(_) if file.is_none() || named => None,
        Err(failure) => return Err(failure),
    };
    let remote = remote::of(&args.remote, pipeline.as_ref())?;
    store.discard(report)?;
    let mut brought = Vec::new();
    if let Some(remote) = &remote {
        let wanted: Vec<Wanted> =
            broken.iter().map(|(stage, key)| Wanted { stage: stage.clone(), key: *key, locked: None }).collect();
        let shipment = remote.pull(store, &wanted, &CancelToken::new());
        for line in remote::told("from", &remote.address(), &shipment) {
            printer.note(&line);
        }
        brought = shipment.stages;
    }
    let left = store.broken_results()?;
    if printer.json {
        let names = |results: &[(StageId, luthier_core::Digest)]| -> Vec<String> {
            results.iter().map(|(stage, _)| stage.to_string()).collect()
        };
        printer.json(&serde_json::json!({
            "damaged": report.damaged, "missing": report.missing, "broken": names(broken),
            "brought": brought, "left": names(&left),
        }));
    } else {
        printer.result(&format!(
            "removed {}, {} mended",
            format::plural(report.damaged.len(), "damaged object or tree", "damaged objects and trees"),
            format::plural(broken.len() - left.len().min(broken.len()), "result", "results")
        ));
    }
    if left.is_empty() {
        return Ok(exit::DONE);
    }
    let stages: std::collections::BTreeSet<&str> = left.iter().map(|(stage, _)| stage.as_str()).collect();
    Err(Failure::new(
        ErrorClass::Store,
        "store::not_repaired",
        format!("no remote has the bytes of {}", luthier_core::quoted(stages)),
    )
    .hint("`luthier run` makes anew what the pipeline still needs; `luthier gc` removes the rest"))
}

/// Passes a stage's warnings and log lines on.
struct Passing {
    live: Live,
    stage: StageId,
}

impl EventSink for Passing {
    fn emit(&self, event: StageEvent) {
        self.live.event(&RunEvent::StageEvent { stage: self.stage.clone(), event });
    }
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
    let path = Lock::path_of(&pipeline);
    let Some(lock) = Lock::read(&path)? else {
        return Err(Failure::new(
            ErrorClass::Expectation,
            "lock::missing",
            format!("there is no `{path}` to compare with"),
        )
        .hint("`luthier run` writes it"));
    };
    let cancel = CancelToken::new();
    run::interrupt_on_ctrl_c(&cancel)?;
    let defaults = RunOptions::default();
    let options = RunOptions { threads: args.threads.unwrap_or(defaults.threads).max(1), ..defaults };
    printer.note(&format!("executing `{id}` again, apart from the store"));
    // With `--json` the comparison is the only result.
    let mut plain = printer;
    plain.json = false;
    let sink = Passing { live: Live::new(plain), stage: id.clone() };
    let again = match args.steps {
        None => run::reexecute(&pipeline, &store, &lock, &id, &options, &sink, &cancel).map(Again::Whole),
        Some(steps) => {
            run::reexecute_steps(&pipeline, &store, &lock, &id, steps, &options, &sink, &cancel).map(Again::Steps)
        }
    };
    let again = match again {
        Ok(again) => again,
        Err(EngineError::LockMismatch { file, differences }) => {
            for difference in &differences {
                printer.error_line(&format!("  ≠ {difference}"));
            }
            let message = format!("`{file}` names other inputs or parameters for `{id}` than the pipeline");
            return Err(Failure::new(ErrorClass::Expectation, "lock::mismatch", message)
                .hint("check out the pipeline that belongs to the lock, or `luthier run` first"));
        }
        Err(EngineError::Failed { stage, failure }) => {
            printer.message(&live::render_failure(&stage, &failure));
            return Ok(exit::code(failure.class));
        }
        Err(error) => return Err(error.into()),
    };
    if printer.json {
        printer.json(&again);
    } else {
        printer.result(&again.text());
    }
    if again.equal() {
        return Ok(exit::DONE);
    }
    Err(Failure::new(ErrorClass::Expectation, "verify::differs", format!("stage `{id}` does not reproduce its result"))
        .hint("if a command or plugin uses the clock, randomness or the network, that is where to look"))
}

/// What was executed again.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Again {
    Whole(Reexecution),
    Steps(StepComparison),
}

impl Again {
    fn equal(&self) -> bool {
        match self {
            Self::Whole(again) => again.equal(),
            Self::Steps(again) => again.equal(),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Whole(again) => text(again),
            Self::Steps(again) => steps_text(again),
        }
    }
}

fn steps_text(again: &StepComparison) -> String {
    let StepComparison { stage, steps, of, curves, first, whole } = again;
    let compared: Vec<String> = curves
        .iter()
        .map(|(name, points)| format!("{} of `{name}`", format::plural(*points, "point", "points")))
        .collect();
    let how = if first.is_empty() { "equal through" } else { "DIFFERS at" };
    let mut lines = vec![format!("{stage}: {how} step {steps} of {of}")];
    lines.extend(first.iter().map(|curve| format!("  {}: {}", curve.name, values(curve))));
    lines.push(format!("  compared bit for bit with the stored result: {}", compared.join(", ")));
    match whole {
        Some(whole) => lines.push(text(whole)),
        None => lines.push(format!(
            "  not compared: its outputs, which all {of} steps make; `luthier verify {stage}` executes them"
        )),
    }
    lines.join("\n")
}

/// `0.5 stored, 0.25 now`.
fn values(curve: &CurveDifference) -> String {
    let value = |value: Option<f64>| value.map_or_else(|| "nothing".to_owned(), |value| value.to_string());
    format!("{} stored, {} now", value(curve.stored), value(curve.found))
}

fn text(again: &Reexecution) -> String {
    let mut lines = Vec::new();
    for (name, output) in &again.outputs {
        if output.locked.digest == output.found.digest {
            lines.push(format!("{}.{name}: equal ({})", again.stage, output.locked.digest.short()));
            continue;
        }
        lines.push(format!(
            "{}.{name}: DIFFERS (locked {}, now {})",
            again.stage,
            output.locked.digest.short(),
            output.found.digest.short()
        ));
        match &output.first {
            Some(first) => lines.push(format!("  first: {}", place(name.as_str(), first))),
            None => {
                lines.push("  the locked bytes are not in the store; `luthier pull` brings them to compare".to_owned())
            }
        }
    }
    for metric in &again.metrics {
        if metric.field.starts_with("metric") {
            lines.push(format!("  {metric}"));
        }
    }
    if !again.equal() {
        for curve in again.curves.iter().filter(|curve| !curve.name.contains("/s")) {
            lines.push(format!("  {} first differs at {}: {}", curve.name, curve.x, values(curve)));
        }
    }
    lines.join("\n")
}

/// `weights.safetensors, tensor `w` element 17: 0.5 stored, 0.25 now`.
fn place(output: &str, first: &FileDifference) -> String {
    let file = if first.path.is_empty() { output } else { &first.path };
    let (Some(byte), Some(stored), Some(made)) = (first.byte, &first.stored, &first.made) else {
        return format!("`{file}` {}", first.how);
    };
    let element = file.ends_with(".safetensors").then(|| tensor::locate(stored, byte)).flatten();
    match element {
        Some(element) => {
            let values = match (tensor::value(stored, &element), tensor::value(made, &element)) {
                (Some(old), Some(new)) => format!(": {old:?} stored, {new:?} now"),
                _ => String::new(),
            };
            format!("`{file}`, tensor `{}`, element {}{values}", element.tensor, element.index)
        }
        None => format!("`{file}` differs from byte {byte} on"),
    }
}
