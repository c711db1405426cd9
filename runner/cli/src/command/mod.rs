//! One module per command. Each returns its exit code, or the failure that ends it.

mod bench;
mod comparison;
mod data;
mod diff;
mod doctor;
mod exec_stage;
mod explain;
mod gc;
mod graph;
mod import;
mod init;
mod kinds;
mod log;
mod man;
mod model;
mod plan;
mod plugin;
pub mod remote;
mod report;
mod run;
mod section;
mod show;
mod verify;

use camino::Utf8Path;
use clap::CommandFactory;
use luthier_core::{ErrorClass, Registry, StageId};
use luthier_engine::EngineError;
use luthier_engine::lock::LockError;
use luthier_engine::pipeline::{self, Pipeline};
use luthier_engine::store::{Store, StoreError};
use luthier_engine::workspace::Workspace;

use crate::args::{Cli, Command, Global};
use crate::exit::DONE;
use crate::failure::{self, Failure};
use crate::printer::Printer;
use crate::target;

pub fn dispatch(cli: &Cli, printer: Printer) -> Result<u8, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Init(args) => init::run(args, printer),
        Command::Run(args) => run::run(args, global, printer),
        Command::Plan(args) => plan::run(args, global, printer),
        Command::Status(args) => plan::status(args, global, printer),
        Command::Graph(args) => graph::run(args, printer),
        Command::Explain(args) => explain::run(args, global, printer),
        Command::Diff(args) => diff::run(args, printer),
        Command::Log(args) => log::run(args, global, printer),
        Command::Show(args) => show::run(args, global, printer),
        Command::Report(args) => report::run(args, global, printer),
        Command::Verify(args) => verify::run(args, global, printer),
        Command::Gc(args) => gc::run(args, global, printer),
        Command::Push(args) => remote::push(args, global, printer),
        Command::Pull(args) => remote::pull(args, global, printer),
        Command::ImportLock(args) => remote::import_lock(args, global, printer),
        Command::Remote(args) => remote::check(args, printer),
        Command::Schema(args) => kinds::schema(args, printer),
        Command::Import(args) => import::run(args, printer),
        Command::Man(args) => man::run(args, printer),
        Command::Stages(args) => kinds::stages(args, printer),
        Command::Data(args) => data::run(args, global, printer),
        Command::Plugin(args) => plugin::run(args, global, printer),
        Command::Chat(args) => model::chat(args, global, printer),
        Command::Sample(args) => model::sample(args, global, printer),
        Command::Logits(args) => model::logits(args, global, printer),
        Command::Bench(args) => bench::run(args, global, printer),
        Command::Doctor => Ok(doctor::run(global, printer)),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "luthier", &mut script);
            printer.result(&String::from_utf8_lossy(&script));
            Ok(DONE)
        }
        Command::ExecStage(args) => exec_stage::run(args),
    }
}

/// Loads and checks a pipeline; all its errors at once, with their source lines.
fn load(named: Option<&Utf8Path>, params: &[(String, String)], printer: Printer) -> Result<Pipeline, Failure> {
    load_with(named, params, &luthier_stages::registry(), printer)
}

/// As [`load`], and asks known plugins whether their configuration is right. With `build` those that are quick to build
/// are made known first, so that a run starts nothing before.
fn load_checked(
    named: Option<&Utf8Path>,
    params: &[(String, String)],
    workspace: &Workspace,
    build: bool,
    printer: Printer,
) -> Result<Pipeline, Failure> {
    load_with(named, params, &luthier_stages::registry().preparing_in(workspace.cache_dir(), build), printer)
}

fn load_with(
    named: Option<&Utf8Path>,
    params: &[(String, String)],
    registry: &Registry,
    printer: Printer,
) -> Result<Pipeline, Failure> {
    let file = target::pipeline_file(named)?;
    pipeline::load(&file, params, registry).map_err(|diagnostics| {
        Failure::rendered(
            ErrorClass::Input,
            diagnostics.render(printer.color(), printer.width()),
            diagnostics.to_json(),
        )
    })
}

fn workspace(global: &Global) -> Workspace {
    Workspace::new(global.store.clone())
}

fn open_store(workspace: &Workspace) -> Result<Store, Failure> {
    Store::open(workspace).map_err(|error| EngineError::from(error).into())
}

/// The one stage that a name means; a group or a pattern with several members is refused.
fn one_stage(pipeline: &Pipeline, name: &str) -> Result<StageId, Failure> {
    let found = select(pipeline, name)?;
    let mut members = found.into_iter();
    match (members.next(), members.next()) {
        (Some(only), None) => Ok(only),
        (Some(first), Some(_)) => Err(Failure::input("cli::several_stages", format!("`{name}` names several stages"))
            .hint(format!("name one of them, such as `{first}`"))),
        (None, _) => Err(Failure::input("plan::unknown_stage", format!("the pipeline has no stage `{name}`"))),
    }
}

/// The stages that a name, a group or a pattern means.
fn select(pipeline: &Pipeline, name: &str) -> Result<std::collections::BTreeSet<StageId>, Failure> {
    pipeline.select(name).map_err(|error| {
        let failure = Failure::input("plan::unknown_stage", error.to_string());
        let names = || pipeline.stages.iter().map(|stage| stage.id.as_str());
        match luthier_core::nearest(name, names()) {
            _ if error.to_string().contains("did you mean") => failure,
            Some(near) => failure.hint(format!("did you mean `{near}`?")),
            None => failure.hint(format!("its stages are {}", luthier_core::quoted(names().take(20)))),
        }
    })
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let mut failure = Self::new(error.class(), error.code(), error.to_string()).causes(failure::causes(&error));
        for hint in error.hints() {
            failure = failure.hint(hint);
        }
        failure
    }
}
