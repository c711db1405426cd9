//! `luthier remote`, `push`, `pull` and `import-lock`: sharing results.

use std::sync::Arc;

use camino::Utf8Path;
use luthier_core::{CancelToken, Digest, StageId};
use luthier_engine::format;
use luthier_engine::lock::Lock;
use luthier_engine::pipeline::Pipeline;
use luthier_engine::run::{self, Remote, Shipment, Wanted};
use luthier_remote::{Location, ObjectRemote, RemoteError};
use owo_colors::OwoColorize;
use serde_json::json;

use super::{load, open_store, select, workspace};
use crate::args::{Global, ImportLockArgs, PullArgs, PushArgs, RemoteArgs, RemoteCheckArgs};
use crate::exit;
use crate::failure::{self, Failure};
use crate::printer::Printer;

/// The remote that is meant: `--remote` or LUTHIER_REMOTE, else the pipeline's; `none` for none.
pub fn of(args: &RemoteArgs, pipeline: Option<&Pipeline>) -> Result<Option<ObjectRemote>, Failure> {
    let remote = match (&args.remote, pipeline.and_then(|pipeline| pipeline.remote.as_ref())) {
        (Some(text), _) if text == "none" || text.is_empty() => return Ok(None),
        (Some(text), _) => Location::parse(text, Utf8Path::new("."))?,
        (None, Some((text, location))) => {
            let directory = pipeline.map_or(Utf8Path::new("."), |pipeline| &pipeline.directory);
            Location::parse(text, directory).map_err(|error| {
                let failure = Failure::input(error.code(), format!("{location}: {error}"));
                error.hints().into_iter().fold(failure, Failure::hint)
            })?
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(ObjectRemote::new(remote)))
}

fn needed(args: &RemoteArgs, pipeline: Option<&Pipeline>) -> Result<ObjectRemote, Failure> {
    of(args, pipeline)?.ok_or_else(|| {
        Failure::input("remote::none", "no remote is named").hint(
            "give `--remote s3://bucket/prefix`, set LUTHIER_REMOTE, or add `remote: s3://bucket/prefix` to the pipeline",
        )
    })
}

/// `luthier remote`: what it is and whether it answers.
pub fn check(args: &RemoteCheckArgs, printer: Printer) -> Result<u8, Failure> {
    // Without a pipeline here the address must be given.
    let pipeline = match (&args.remote.remote, &args.pipeline) {
        (Some(_), None) => None,
        (_, named) => Some(load(named.as_deref(), &[], printer)?),
    };
    let remote = needed(&args.remote, pipeline.as_ref())?;
    let holdings = remote.holdings()?;
    let writable = match remote.try_write() {
        Ok(()) => true,
        Err(RemoteError::ReadOnly { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    if printer.json {
        printer.json(&json!({"remote": remote.address(), "holds": holdings, "writable": writable}));
    } else {
        printer.result(&format!(
            "{}: {} in {}, {}, {}",
            remote.address(),
            format::plural(usize::try_from(holdings.results).unwrap_or(usize::MAX), "result", "results"),
            format::plural(usize::try_from(holdings.objects).unwrap_or(usize::MAX), "object", "objects"),
            format::bytes(holdings.bytes),
            if writable { "writable" } else { "read-only" }
        ));
    }
    Ok(exit::DONE)
}

/// The stages that names mean; all if there are none.
fn chosen(pipeline: &Pipeline, names: &[String]) -> Result<Vec<StageId>, Failure> {
    if names.is_empty() {
        return Ok(pipeline.stages.iter().map(|stage| stage.id.clone()).collect());
    }
    let mut stages = std::collections::BTreeSet::new();
    for name in names {
        stages.extend(select(pipeline, name)?);
    }
    Ok(stages.into_iter().collect())
}

fn split(names: &[String]) -> (Option<&Utf8Path>, Vec<String>) {
    let is_file = |name: &&String| name.ends_with(".yaml") || name.ends_with(".yml");
    let file = names.iter().find(is_file).map(|name| Utf8Path::new(name.as_str()));
    (file, names.iter().filter(|name| !is_file(name)).cloned().collect())
}

fn read_lock(pipeline: &Pipeline) -> Result<Option<Lock>, Failure> {
    Ok(Lock::read(&Lock::path_of(pipeline))?)
}

pub fn push(args: &PushArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let (file, names) = split(&args.names);
    let pipeline = load(file, &[], printer)?;
    let store = open_store(&workspace(global))?;
    let remote = needed(&args.remote, Some(&pipeline))?;
    let lock = read_lock(&pipeline)?.unwrap_or_default();
    let latest = store.latest(&pipeline)?;
    let mut results: Vec<(StageId, Digest)> = Vec::new();
    for stage in chosen(&pipeline, &names)? {
        // What the lock names, and what was made since.
        let mut keys: Vec<Digest> = lock.stages.get(&stage).map(|locked| locked.key).into_iter().collect();
        keys.extend(latest.get(&stage).map(|record| record.key).filter(|key| !keys.contains(key)));
        let mut here = Vec::new();
        for key in keys {
            if store.record(&key)?.is_some() {
                here.push((stage.clone(), key));
            }
        }
        if here.is_empty() && (lock.stages.contains_key(&stage) || !names.is_empty()) {
            return Err(luthier_engine::EngineError::NoRecord { stage }.into());
        }
        results.extend(here);
    }
    let cancel = CancelToken::new();
    run::interrupt_on_ctrl_c(&cancel)?;
    let shipment = remote.push_all(&store, &results, args.force, &cancel);
    let skipped = shipment.skipped.len();
    report(&shipment, "sent to", &remote.address(), &format!("{skipped} there already"), printer);
    ended(&shipment, printer)
}

pub fn pull(args: &PullArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let (file, names) = split(&args.names);
    let pipeline = load(file, &[], printer)?;
    let remote = needed(&args.remote, Some(&pipeline))?;
    let imported = import(&pipeline, &names, Some(&remote), global)?;
    if printer.json {
        printer.json(&imported.json(Some(&remote)));
    } else {
        imported.say(Some(&remote), printer);
    }
    let code = ended(&imported.shipment, printer)?;
    match imported.shipment.skipped.first() {
        Some(stage) if imported.shipment.problems.is_empty() => Err(Failure::new(
            luthier_core::ErrorClass::Store,
            "remote::incomplete",
            format!(
                "the remote does not have the results of {}",
                luthier_core::quoted(imported.shipment.skipped.iter().map(StageId::as_str))
            ),
        )
        .hint(format!(
            "`luthier push` from a machine that has them, or make them here: `luthier run --until {stage}`"
        ))),
        // What is missing has been said.
        _ => Ok(code),
    }
}

pub fn import_lock(args: &ImportLockArgs, global: &Global, printer: Printer) -> Result<u8, Failure> {
    let pipeline = load(args.pipeline.as_deref(), &[], printer)?;
    let remote = of(&args.remote, Some(&pipeline))?;
    let imported = import(&pipeline, &[], remote.as_ref(), global)?;
    if printer.json {
        printer.json(&imported.json(remote.as_ref()));
    } else {
        imported.say(remote.as_ref(), printer);
    }
    ended(&imported.shipment, printer)
}

/// What is known of the lock's results after an import.
struct Imported {
    /// Results that the store had.
    here: Vec<StageId>,
    shipment: Shipment,
}

impl Imported {
    fn json(&self, remote: Option<&ObjectRemote>) -> serde_json::Value {
        json!({
            "remote": remote.map(Remote::address),
            "here": self.here,
            "brought": self.shipment.stages,
            "missing": self.shipment.skipped,
            "objects": self.shipment.objects,
            "bytes": self.shipment.bytes,
            "resumed_bytes": self.shipment.resumed,
            "problems": self.shipment.problems,
        })
    }

    fn say(&self, remote: Option<&ObjectRemote>, printer: Printer) {
        let Self { here, shipment } = self;
        if let Some(remote) = remote {
            printer.result(&format!(
                "{} brought from {} ({}), {} here already, {} missing",
                format::plural(shipment.stages.len(), "result", "results"),
                remote.address(),
                moved(shipment),
                here.len(),
                shipment.skipped.len()
            ));
        } else {
            printer.result(&format!("{} here, {} missing; no remote is named", here.len(), shipment.skipped.len()));
        }
        if !shipment.skipped.is_empty() && shipment.problems.is_empty() {
            printer.note(&format!("`luthier run` makes {}", luthier_core::quoted(shipment.skipped.iter())));
        }
    }
}

/// Makes the lock's results known to the store: from its own objects, else from the remote.
fn import(
    pipeline: &Pipeline,
    names: &[String],
    remote: Option<&ObjectRemote>,
    global: &Global,
) -> Result<Imported, Failure> {
    let file = Lock::path_of(pipeline);
    let Some(lock) = read_lock(pipeline)? else {
        return Err(Failure::input("lock::missing", format!("there is no `{file}`"))
            .hint("`luthier run` writes it; with a remote it brings what others made as it goes"));
    };
    let workspace = workspace(global);
    let store = open_store(&workspace)?;
    let chosen = chosen(pipeline, names)?;
    let mut here = Vec::new();
    let mut wanted = Vec::new();
    for (stage, locked) in lock.stages.iter().filter(|(stage, _)| chosen.contains(stage)) {
        if store.import_locked(stage, locked)? {
            here.push(stage.clone());
        } else {
            wanted.push(Wanted { stage: stage.clone(), key: locked.key, locked: Some(locked.clone()) });
        }
    }
    let cancel = CancelToken::new();
    run::interrupt_on_ctrl_c(&cancel)?;
    let shipment = match remote {
        Some(remote) => remote.pull(&store, &wanted, &cancel),
        None => Shipment { skipped: wanted.into_iter().map(|one| one.stage).collect(), ..Shipment::default() },
    };
    for stage in here.iter().chain(&shipment.stages) {
        let known = lock.stages.get(stage).map(|locked| store.record(&locked.key)).transpose()?.flatten();
        if let Some(record) = known {
            store.index_record(&pipeline.file, stage, &record)?;
        }
    }
    store.memo().save();
    Ok(Imported { here, shipment })
}

fn moved(shipment: &Shipment) -> String {
    let resumed = match shipment.resumed {
        0 => String::new(),
        bytes => format!(", {} had come before", format::bytes(bytes)),
    };
    format!("{} in {}{resumed}", format::bytes(shipment.bytes), format::plural(shipment.objects, "object", "objects"))
}

fn report(shipment: &Shipment, verb: &str, address: &str, rest: &str, printer: Printer) {
    if printer.json {
        printer.json(shipment);
        return;
    }
    printer.result(&format!(
        "{} {verb} {address} ({}), {rest}",
        format::plural(shipment.stages.len(), "result", "results"),
        moved(shipment)
    ));
}

/// All problems; the first decides how the command ends.
fn ended(shipment: &Shipment, printer: Printer) -> Result<u8, Failure> {
    for problem in &shipment.problems {
        printer.message(&problem_text(problem, "error:"));
    }
    Ok(shipment.problems.first().map_or(exit::DONE, |problem| exit::code(problem.failure.class)))
}

fn problem_text(problem: &run::RemoteProblem, word: &str) -> String {
    let message = match &problem.stage {
        Some(stage) => format!("stage `{stage}`: {}", problem.failure),
        None => problem.failure.to_string(),
    };
    let mark = if word == "error:" { word.red().bold().to_string() } else { word.yellow().bold().to_string() };
    failure::render(&message, &problem.failure.causes, &problem.failure.hints).replacen(
        &"error:".red().bold().to_string(),
        &mark,
        1,
    )
}

/// What a run says about its remote; `None` where there is nothing to say.
#[must_use]
pub fn told(verb: &str, remote: &str, shipment: &Shipment) -> Vec<String> {
    let mut lines = Vec::new();
    if !shipment.stages.is_empty() {
        lines.push(format!(
            "{} {} {verb} {remote} ({})",
            "✓".green(),
            format::plural(shipment.stages.len(), "result", "results"),
            moved(shipment)
        ));
    }
    lines.extend(shipment.problems.iter().map(|problem| problem_text(problem, "warning:")));
    lines
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        let failed = luthier_remote::failure(&error);
        let failure = Self::new(failed.class, &failed.code, failed.message).causes(failed.causes);
        failed.hints.into_iter().fold(failure, Self::hint)
    }
}

/// The remote of a run, unless it must not use the network.
pub fn of_run(
    args: &RemoteArgs,
    no_push: bool,
    offline: bool,
    pipeline: &Pipeline,
) -> Result<Option<Arc<dyn Remote>>, Failure> {
    if offline {
        return Ok(None);
    }
    let remote = of(args, Some(pipeline))?;
    let remote = remote.map(|remote| if no_push { remote.read_only() } else { remote });
    Ok(remote.map(|remote| Arc::new(remote) as Arc<dyn Remote>))
}
