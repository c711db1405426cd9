//! A stage kind that does what tests tell it, and a bench to run pipelines of it on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{
    ArtifactKind, CancelToken, ConfigIssue, ErrorClass, InputPort, OutputDecl, PrepareEnv, Prepared, Registry,
    Resources, SourceKind, SourceRef, Stage, StageContext, StageError, StageId, StageOutcome, StageResult,
    config_schema, parse_config,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::EngineError;
use crate::pipeline::{self, Pipeline};
use crate::run::{self, RunEvent, RunOptions, RunPlan, RunStatus, RunSummary};
use crate::store::Store;
use crate::workspace::Workspace;

/// Parameters of the test stage.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Work {
    /// Appended to the input.
    pub text: String,
    /// How much of the input is kept; all if 0.
    pub keep: usize,
    /// Write a directory of two files.
    pub tree: bool,
    /// What else to do: `fail`, `wrong` (an input error), `panic`, `silent` (no output), `extra` (one too many),
    /// `wait` (until `go` exists in the pipeline's directory), `loop` (until cancelled), `resume` (fails once with a
    /// checkpoint), `die` (ends the process), `abort`, `kill`, `hog` (wants more than its address space), `oom` (wants
    /// more than its control group), `spin` (until its CPU time is up), `family` (leaves processes behind), `select` (claims
    /// that a rerun selects).
    pub mode: String,
    /// A file to read.
    pub file: Option<String>,
    /// A directory to read.
    pub directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    pub steps: Vec<Value>,
    pub class: Option<String>,
    pub threads: usize,
    /// Does not enter the key.
    pub quiet: bool,
}

/// The test stage, under several names.
pub struct WorkStage {
    pub kind: &'static str,
    pub recipe: Arc<AtomicU32>,
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Stage for WorkStage {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn recipe_version(&self) -> u32 {
        self.recipe.load(Ordering::Relaxed)
    }

    fn about(&self) -> &'static str {
        "Does what a test tells it."
    }

    fn schema(&self) -> Value {
        config_schema::<Work>()
    }

    fn inputs(&self) -> &'static [InputPort] {
        const ANY: &[ArtifactKind] = &[ArtifactKind::File, ArtifactKind::Dataset];
        &[
            InputPort { name: "data", accepts: ANY, required: false, many: false, about: "Copied first." },
            InputPort { name: "more", accepts: ANY, required: false, many: true, about: "Copied after." },
        ]
    }

    fn outputs_about(&self) -> &'static str {
        "out"
    }

    fn prepare(&self, with: &Value, _env: PrepareEnv<'_>) -> Result<Prepared, Vec<ConfigIssue>> {
        let work: Work = parse_config(with)?;
        let mut key = serde_json::to_value(&work).expect("test parameters are JSON");
        for hidden in ["quiet", "threads", "file", "directory"] {
            key.as_object_mut().expect("a mapping").remove(hidden);
        }
        let source = |label: &str, path: &String, kind| SourceRef {
            label: label.to_owned(),
            path: Utf8PathBuf::from(path),
            kind,
            config_path: label.to_owned(),
        };
        let sources = (work.file.iter().map(|path| source("file", path, SourceKind::File)))
            .chain(work.directory.iter().map(|path| source("directory", path, SourceKind::Tree)))
            .collect();
        let kind = if work.tree { ArtifactKind::Dataset } else { ArtifactKind::File };
        Ok(Prepared {
            config: serde_json::to_value(&work).expect("test parameters are JSON"),
            key,
            outputs: vec![OutputDecl::new("out", kind)],
            sources,
            resources: Resources { threads: work.threads.max(1), ..Resources::ONE_THREAD },
            numeric_class: work.class.clone(),
        })
    }

    fn rerun(&self, old: &Value, new: &Value) -> Option<String> {
        let selects = |key: &Value| key["mode"] == "select";
        (selects(old) && selects(new)).then(|| "selects again by stored scores".to_owned())
    }

    fn run(&self, context: &mut StageContext<'_>) -> StageResult<StageOutcome> {
        let work: Work = context.config()?;
        self.log.lock().expect("the log").push(context.stage().to_string());
        let mut text = String::new();
        for input in context.inputs("data").iter().chain(context.inputs("more")) {
            if input.path.is_dir() {
                text.push_str(&fs_err::read_to_string(input.path.join("part/a"))?);
            } else {
                text.push_str(&fs_err::read_to_string(&input.path)?);
            }
        }
        if work.keep > 0 {
            text.truncate(work.keep);
        }
        if work.file.is_some() {
            text.push_str(&fs_err::read_to_string(&context.source("file")?.path)?);
        }
        text.push_str(&work.text);
        let checkpoint = context.checkpoint().join("half");
        match work.mode.as_str() {
            "fail" => {
                return Err(StageError::new("work::failed", "the work failed as it was told")
                    .hint("set `mode` to something else"));
            }
            "wrong" => return Err(StageError::input("work::wrong", "row 3 is not a number").at("rows.csv", 3, 0)),
            "panic" => panic!("the work panicked as it was told"),
            "silent" => return Ok(StageOutcome::new()),
            "die" => std::process::exit(9),
            "abort" => {
                eprintln!("the work will abort");
                std::process::abort();
            }
            "kill" => end::by_signal(),
            "hog" => end::by_address_space(),
            "oom" => end::by_control_group()?,
            "spin" => end::by_cpu_time(),
            "gpus" => {
                let granted = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
                fs_err::write(context.request().directory.join("gpus"), granted)?;
            }
            "family" => end::leaving_a_family(&context.request().directory)?,
            "extra" => fs_err::write(context.output("surplus"), "")?,
            "wait" => {
                let go = context.request().directory.join("go");
                while !go.exists() {
                    context.check_cancelled()?;
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
            "loop" => loop {
                context.check_cancelled()?;
                std::thread::sleep(std::time::Duration::from_millis(2));
            },
            "resume" if !checkpoint.exists() => {
                fs_err::write(&checkpoint, "half of it")?;
                return Err(StageError::new("work::failed", "failed half way").class(ErrorClass::Stage));
            }
            "resume" => text.push_str(&fs_err::read_to_string(&checkpoint)?),
            _ => {}
        }
        let output = context.output("out");
        if work.tree {
            fs_err::create_dir_all(output.join("part"))?;
            fs_err::write(output.join("part/a"), &text)?;
            fs_err::write(output.join("b"), "b")?;
        } else {
            fs_err::write(&output, &text)?;
        }
        context.progress(1, 1, "files", "");
        let mut outcome = StageOutcome::new();
        outcome.metric("bytes", text.len() as f64, "bytes").measured("speed", 17.0, "bytes/s");
        for (name, value) in [("loss", work.loss), ("accuracy", work.accuracy)] {
            if let Some(value) = value {
                outcome.metric(name, value, "");
            }
        }
        Ok(outcome)
    }
}

/// Ways for a process to end that no language has a word for.
mod end {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use camino::Utf8Path;

    fn limit(resource: libc::__rlimit_resource_t, value: u64) {
        // A process over the hard limit of CPU time is killed without a word; the soft one comes first.
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value + 10 };
        // SAFETY: `limit` is a valid rlimit.
        assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0, "the limit is set");
    }

    pub fn by_signal() {
        // SAFETY: kill takes no pointers.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }

    pub fn by_address_space() {
        limit(libc::RLIMIT_AS, 1 << 30);
        let huge: Vec<u8> = Vec::with_capacity(8 << 30);
        std::hint::black_box(huge);
    }

    pub fn by_cpu_time() {
        limit(libc::RLIMIT_CPU, 1);
        loop {
            std::hint::spin_loop();
        }
    }

    /// The group is made by the test, which says where in the environment.
    pub fn by_control_group() -> std::io::Result<()> {
        let group = std::env::var("LUTHIER_TEST_GROUP").expect("the test says which group");
        fs_err::write(format!("{group}/cgroup.procs"), std::process::id().to_string())?;
        eprintln!("about to fill the memory");
        let filled = vec![1_u8; 512 << 20];
        std::hint::black_box(filled);
        Ok(())
    }

    /// A shell in a process group of its own, and a sleeper under it whose parent ends at once.
    pub fn leaving_a_family(directory: &Utf8Path) -> std::io::Result<()> {
        let line = format!(
            "sleep 300 & echo $! > {directory}/pids; (sleep 300 & echo $! >> {directory}/pids); echo $$ >> {directory}/pids; echo >> {directory}/pids; wait"
        );
        Command::new("sh").arg("-c").arg(line).process_group(0).spawn()?;
        while !fs_err::read_to_string(directory.join("pids")).is_ok_and(|text| text.ends_with("\n\n")) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Ok(())
    }
}

/// A directory with a pipeline and a store.
pub struct Bench {
    _directory: tempfile::TempDir,
    pub root: Utf8PathBuf,
    pub registry: Registry,
    pub recipe: Arc<AtomicU32>,
    log: Arc<Mutex<Vec<String>>>,
}

pub const CHAIN: &str = "\
luthier: 1
stages:
  a:
    uses: work
    with: {text: one}
  b:
    uses: work
    in: a
    with: {text: two}
  c:
    uses: work
    in: b
  d:
    uses: work
    in: a
    with: {keep: 2, tree: true}
";

impl Bench {
    pub fn new(yaml: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = Utf8PathBuf::from_path_buf(directory.path().canonicalize().expect("a path")).expect("UTF-8");
        let bench = Self::at(root, directory);
        bench.write("p.yaml", yaml);
        bench
    }

    fn at(root: Utf8PathBuf, directory: tempfile::TempDir) -> Self {
        let (recipe, log) = (Arc::new(AtomicU32::new(1)), Arc::default());
        let registry = registry(&recipe, &log);
        Self { _directory: directory, root, registry, recipe, log }
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.root.join(name);
        fs_err::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs_err::write(path, text).expect("a test file");
    }

    pub fn read(&self, name: &str) -> String {
        fs_err::read_to_string(self.root.join(name)).expect("a test file")
    }

    /// Replaces text in the pipeline file.
    pub fn edit(&self, old: &str, new: &str) {
        let text = self.read("p.yaml");
        assert!(text.contains(old), "`{old}` is not in the pipeline");
        self.write("p.yaml", &text.replace(old, new));
    }

    /// Adds a line to the script that stands for the program, `luthier.sh`.
    pub fn edit_program(&self, line: &str) {
        let text = self.read("luthier.sh").replacen("#!/bin/sh\n", &format!("#!/bin/sh\n{line}\n"), 1);
        // Written in place, so that it stays executable.
        self.write("luthier.sh", &text);
    }

    pub fn pipeline(&self) -> Pipeline {
        match pipeline::load(&self.root.join("p.yaml"), &[], &self.registry) {
            Ok(pipeline) => pipeline,
            Err(problems) => panic!("{problems}"),
        }
    }

    pub fn workspace(&self) -> Workspace {
        Workspace::new(self.root.join(".luthier"))
    }

    pub fn store(&self) -> Store {
        Store::open(&self.workspace()).expect("a store")
    }

    pub fn options(&self) -> RunOptions {
        RunOptions { threads: 2, ..RunOptions::default() }
    }

    pub fn try_run(&self, options: &RunOptions) -> Result<RunSummary, EngineError> {
        run::run(&self.pipeline(), &self.store(), options, Arc::new(|_| {}), CancelToken::new())
    }

    pub fn run(&self) -> RunSummary {
        self.try_run(&self.options()).expect("the run starts")
    }

    /// Runs and collects what was said.
    pub fn run_events(&self, options: &RunOptions) -> (RunSummary, Vec<RunEvent>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = {
            let events = Arc::clone(&events);
            Arc::new(move |event| events.lock().expect("the events").push(event))
        };
        let summary =
            run::run(&self.pipeline(), &self.store(), options, sink, CancelToken::new()).expect("the run starts");
        let events = events.lock().expect("the events").clone();
        (summary, events)
    }

    /// Runs stages of the mode `wait`, lets them go once `at_once` of them execute, and holds the run to never having more.
    pub fn runs_at_once(&self, options: &RunOptions, at_once: usize) {
        let root = self.root.clone();
        let state = Arc::new(Mutex::new((0_usize, 0_usize)));
        let seen = Arc::clone(&state);
        let sink = Arc::new(move |event: RunEvent| {
            let mut state = seen.lock().expect("the state");
            match event {
                RunEvent::StageStarted { .. } => {
                    state.0 += 1;
                    state.1 = state.1.max(state.0);
                    if state.0 == at_once {
                        fs_err::write(root.join("go"), "").expect("written");
                    }
                }
                RunEvent::StageFinished { .. } => state.0 -= 1,
                _ => {}
            }
        });
        let summary = run::run(&self.pipeline(), &self.store(), options, sink, CancelToken::new()).expect("a summary");
        assert!(summary.succeeded());
        assert_eq!(state.lock().expect("the state").1, at_once);
    }

    pub fn plan(&self, options: &RunOptions) -> RunPlan {
        run::plan(&self.pipeline(), &self.store(), options).expect("a plan")
    }

    /// Stages that executed since the last call, sorted.
    pub fn executed(&self) -> Vec<String> {
        let mut log = std::mem::take(&mut *self.log.lock().expect("the log"));
        log.sort();
        log
    }

    /// The content of output `out` of a stage.
    pub fn output(&self, stage: &str) -> String {
        let store = self.store();
        let records = store.latest(&self.pipeline()).expect("records");
        let record = records.get(&id(stage)).expect("a record");
        let path = store.artifact_path(record.outputs.get("out").expect("the output"));
        if path.is_dir() {
            fs_err::read_to_string(path.join("part/a")).expect("the output")
        } else {
            fs_err::read_to_string(path).expect("the output")
        }
    }
}

pub fn registry(recipe: &Arc<AtomicU32>, log: &Arc<Mutex<Vec<String>>>) -> Registry {
    let mut registry = Registry::new();
    for kind in ["work", "labour"] {
        registry.add(WorkStage { kind, recipe: Arc::clone(recipe), log: Arc::clone(log) });
    }
    registry
}

pub fn id(name: &str) -> StageId {
    StageId::new(name).expect("a stage name")
}

/// The stages with a status.
pub fn with_status(summary: &RunSummary, status: RunStatus) -> Vec<&str> {
    summary.stages.iter().filter(|stage| stage.status == status).map(|stage| stage.stage.as_str()).collect()
}

/// Replaces what differs from run to run.
pub fn redact(text: &str, root: &Utf8Path) -> String {
    text.replace(root.as_str(), "[ROOT]")
}

/// A plan as lines: `stage: action`.
pub fn plan_text(plan: &RunPlan) -> String {
    plan.stages
        .iter()
        .map(|(stage, action)| match action {
            run::Action::Reuse { .. } => format!("{stage}: reuse\n"),
            run::Action::Run { why, .. } => {
                let why: Vec<String> = why.iter().map(ToString::to_string).collect();
                format!("{stage}: run ({})\n", why.join("; "))
            }
            run::Action::Blocked { by } => format!("{stage}: blocked by {by}\n"),
        })
        .collect()
}

/// A value with one leaf of every type.
pub fn sample_config() -> Value {
    json!({"text": "t", "keep": 3, "rate": 0.001, "on": true, "none": null, "list": [1, {"max": 0.5}], "map": {}})
}
