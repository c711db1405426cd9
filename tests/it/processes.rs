//! Stages as processes: how they end, and that none outlives its runner.
#![cfg(target_os = "linux")]

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use luthier_formats::quant::TensorType;
use luthier_test::{TestProject, TinyModel};

const PATIENCE: Duration = Duration::from_secs(30);

fn project(yaml: &str) -> TestProject {
    let project = TestProject::new(env!("CARGO_BIN_EXE_luthier"));
    project.file("p.yaml", yaml);
    project
}

pub(crate) fn wait_for(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn alive(pid: &str) -> bool {
    fs_err::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

pub(crate) fn signal(pid: &str, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), pid]).status().expect("kill runs");
    assert!(status.success(), "process {pid} is there");
}

/// A stage that leaves a shell, its child and an orphan behind, in a process group of their own, and notes them.
const FAMILY: &str = r#"luthier: 1
stages:
  family:
    uses: command
    with:
      run: "sleep 300 & echo $! > pids; (sleep 300 & echo $! >> pids); echo $$ >> pids; echo $PPID >> pids; mv pids family; wait; echo > ${out.x}"
      outputs: {x: file}
"#;

fn family(project: &TestProject) -> Vec<String> {
    let file = project.path().join("family");
    wait_for("the stage starts", || file.exists());
    let pids: Vec<String> = fs_err::read_to_string(file).expect("its processes").lines().map(str::to_owned).collect();
    assert_eq!(pids.len(), 4, "two sleepers, the shell, the stage");
    assert!(pids.iter().all(|pid| alive(pid)), "{pids:?}");
    pids
}

fn start(project: &TestProject, arguments: &[&str]) -> Child {
    project.command(arguments).stderr(std::process::Stdio::null()).spawn().expect("the runner starts")
}

#[test]
fn nothing_outlives_a_runner_that_is_killed() {
    let project = project(FAMILY);
    let mut runner = start(&project, &["run", "p.yaml"]);
    let pids = family(&project);
    runner.kill().expect("SIGKILL");
    runner.wait().expect("it is dead");
    wait_for("the end of the stage's processes", || !pids.iter().any(|pid| alive(pid)));
}

#[test]
fn a_rerun_waits_for_the_last_process_of_a_killed_run() {
    let project = project(FAMILY);
    let mut runner = start(&project, &["run", "p.yaml"]);
    let pids = family(&project);
    // A stage that does not notice the end of its runner yet.
    signal(&pids[3], "STOP");
    runner.kill().expect("SIGKILL");
    runner.wait().expect("it is dead");
    fs_err::remove_file(project.path().join("family")).expect("removed");
    let mut next = start(&project, &["run", "p.yaml"]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!project.path().join("family").exists(), "the next run waits");
    signal(&pids[3], "CONT");
    let mut again = family(&project);
    again.extend(pids.clone());
    assert!(!pids.iter().any(|pid| alive(pid)), "the first has ended");
    signal(&next.id().to_string(), "INT");
    assert_eq!(next.wait().expect("it ends").code(), Some(130));
    wait_for("the end of the stage's processes", || !again.iter().any(|pid| alive(pid)));
}

#[test]
fn a_second_interruption_ends_at_once_what_a_first_did_not() {
    let project = project(FAMILY);
    let mut runner = start(&project, &["run", "p.yaml"]);
    let pids = family(&project);
    // A stage that cannot answer.
    signal(&pids[3], "STOP");
    let id = runner.id().to_string();
    signal(&id, "INT");
    std::thread::sleep(Duration::from_millis(300));
    assert!(runner.try_wait().expect("a status").is_none(), "it waits for the stage");
    signal(&id, "INT");
    assert_eq!(runner.wait().expect("it ends").code(), Some(130));
    wait_for("the end of the stage's processes", || !pids.iter().any(|pid| alive(pid)));
}

#[test]
fn a_second_interruption_ends_what_stages_in_the_runners_own_process_started() {
    let project = project(FAMILY);
    let mut runner = start(&project, &["run", "p.yaml", "--executor", "local"]);
    let pids = family(&project);
    let id = runner.id().to_string();
    assert_eq!(pids[3], id, "the stage is the runner");
    // Both at once: the first is not answered yet.
    signal(&id, "STOP");
    signal(&id, "INT");
    signal(&id, "CONT");
    signal(&id, "INT");
    assert_eq!(runner.wait().expect("it ends").code(), Some(130));
    wait_for("the end of the stage's processes", || !pids[..3].iter().any(|pid| alive(pid)));
}

#[test]
fn an_interruption_stops_a_command_with_all_it_started() {
    let project = project(FAMILY);
    let mut runner = start(&project, &["run", "p.yaml"]);
    let pids = family(&project);
    signal(&runner.id().to_string(), "INT");
    assert_eq!(runner.wait().expect("it ends").code(), Some(130));
    wait_for("the end of the stage's processes", || !pids.iter().any(|pid| alive(pid)));
}

#[test]
fn an_interrupted_training_checkpoints_and_the_next_run_goes_on_to_the_same_bits() {
    let yaml = r#"luthier: 1
stages:
  base: {uses: fetch, with: {from: base.gguf}}
  raw: {uses: ingest, with: {files: [chats.jsonl]}}
  tokens: {uses: tokenize, in: {model: base, data: raw}, with: {max_length: 128}}
  adapter:
    uses: train
    in: {model: base, data: tokens}
    with: {method: lora, rank: 4, learning_rate: 1e-3, batch: 4, steps: 300, seed: 5, checkpoint_every: 1000}
"#;
    let make = || {
        let project = project(yaml);
        TinyModel::new(11).write_gguf(&project.path().join("base.gguf"), TensorType::F32);
        let row = |number: u32| {
            format!(
                r#"{{"messages": [{{"role": "user", "content": "{number}?"}}, {{"role": "assistant", "content": "{number}"}}]}}"#
            )
        };
        project.file("chats.jsonl", (0..24).map(row).collect::<Vec<_>>().join("\n"));
        project
    };
    let straight = make();
    let _ = straight.run(&["run", "p.yaml"]).success();

    let stopped = make();
    let _ = stopped.run(&["run", "p.yaml", "--until", "tokens"]).success();
    let mut runner = stopped
        .command(&["run", "p.yaml", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the runner starts");
    let mut events = std::io::BufRead::lines(std::io::BufReader::new(runner.stdout.take().expect("its output")));
    let begun = events.any(|line| line.expect("an event").contains("\"point\""));
    assert!(begun, "the training says how it goes");
    signal(&runner.id().to_string(), "INT");
    let rest: Vec<String> = events.map(|line| line.expect("an event")).collect();
    let code = runner.wait().expect("it ends").code();
    // The smallest machines may finish the 300 steps before the signal arrives.
    if code != Some(0) {
        assert_eq!(code, Some(130), "{rest:#?}");
        let again = stopped.run(&["run", "p.yaml"]).success();
        assert!(again.stderr.contains("1 ran, 3 reused"), "{}", again.stderr);
        let shown = stopped.run(&["show", "p.yaml", "adapter", "--json"]).success().json();
        assert!(
            shown["outcome"]["metrics"]["resumed_from"]["value"].as_f64().is_some_and(|step| step > 0.0),
            "{shown}"
        );
    }
    let lock = |project: &TestProject| fs_err::read_to_string(project.path().join("p.lock")).expect("a lock");
    assert_eq!(lock(&straight), lock(&stopped));
}

#[test]
fn a_killed_stage_is_a_failure_and_the_rest_goes_on() {
    let project = project(
        r#"luthier: 1
stages:
  dies: {uses: command, with: {run: "echo its last words; sleep 1; kill -9 $PPID; sleep 5", outputs: {x: file}}}
  reads: {uses: command, in: {a: dies}, with: {run: "cat ${in.a} > ${out.x}", outputs: {x: file}}}
  lives: {uses: command, with: {run: "sleep 0.3; echo > ${out.x}", outputs: {x: file}}}
"#,
    );
    let failed = project.run(&["run", "p.yaml", "--keep-going"]).failure(1);
    let said: Vec<&str> = failed
        .stderr
        .lines()
        .filter(|line| !line.contains(" lives ") && !line.contains("report:") && !line.contains("▸"))
        .collect();
    insta::with_settings!({filters => vec![(r"\b[\d.]+ ?[kMGT]B\b", "[SIZE]"), (r"\b\d+(\.\d+)? m?s\b", "[TIME]"), (r"log: .*its last words", "log: its last words")]}, {
        insta::assert_snapshot!("killed_stage", said.join("\n"));
    });
}

#[test]
fn a_crash_in_the_runners_own_process_is_what_local_risks() {
    let project = project(
        "luthier: 1\nexecutor: local\nstages:\n  a: {uses: command, with: {run: \"echo $PPID > ${out.x}\", outputs: {x: file}}}\n",
    );
    let parent = |arguments: &[&str]| {
        let _ = project.run(arguments).success();
        let path = project.run(&["show", "p.yaml", "a", "--path"]).success().stdout;
        fs_err::read_to_string(project.path().join(path.trim())).expect("the output")
    };
    // One runner executes both stages in its own process; each child is a process of its own.
    let first = parent(&["run", "p.yaml"]);
    let child = parent(&["run", "p.yaml", "--force", "a", "--executor", "a=child"]);
    assert_ne!(first, child);
}

#[test]
fn executors_that_do_not_exist_are_said_before_anything_runs() {
    let project =
        project("luthier: 1\nstages:\n  a: {uses: command, with: {run: \"echo > ${out.x}\", outputs: {x: file}}}\n");
    let say = |executor: &str| {
        let failed = project.run(&["run", "p.yaml", "--executor", executor]).failure(2);
        assert!(!luthier_test::exists(project.path().join("p.lock")));
        failed.stderr
    };
    insta::assert_snapshot!(
        "no_executor",
        ["slrum", "b=local", "a=kubernetes", "external:./missing.py"].map(say).join("\n")
    );
    let memory = project.run(&["run", "p.yaml", "--memory", "lots"]).failure(2);
    assert!(memory.stderr.contains("`lots` is not a size such as `8GB` or `512MiB`"), "{}", memory.stderr);
}
