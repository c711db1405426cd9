//! Stages in processes of their own. The child is this test program, started through a script.

use std::sync::{Arc, Mutex};

use camino::Utf8PathBuf;
use luthier_core::{ErrorClass, ExecutorSpec, StageRequest};

use crate::run::{RunOptions, StageFailure, exec_stage};
use crate::testkit::{Bench, registry};

const REQUEST: &str = "LUTHIER_TEST_REQUEST";

/// Not a test by itself: what `luthier exec-stage` does.
#[test]
#[ignore = "started by the tests below"]
fn exec_stage_entry() {
    let Ok(file) = std::env::var(REQUEST) else { return };
    let request: StageRequest = serde_json::from_slice(&fs_err::read(file).unwrap()).unwrap();
    eprintln!("about to work");
    let failed = exec_stage(&request, &registry(&Arc::default(), &Arc::default()), &mut std::io::stdout());
    std::process::exit(i32::from(failed.is_some()));
}

fn options(bench: &Bench) -> RunOptions {
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nexport {REQUEST}=\"$2\"\nexec '{}' --exact run::tests::child::exec_stage_entry --ignored --nocapture\n",
        program.display()
    );
    bench.write("luthier.sh", &script);
    let path = bench.root.join("luthier.sh");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    RunOptions { program: Some(path), ..bench.options() }
}

fn one(with: &str) -> Bench {
    Bench::new(&format!("luthier: 1\nstages:\n  a: {{uses: work, with: {with}}}\n"))
}

#[test]
fn a_child_makes_the_same_result() {
    let (local, child) = (one("{text: hello, tree: true}"), one("{text: hello, tree: true}"));
    local.run();
    let (summary, events) = child.run_events(&options(&child));
    assert!(summary.succeeded(), "{summary:?}");
    assert_eq!(local.read("p.lock"), child.read("p.lock"));
    let said = format!("{events:?}");
    assert!(said.contains("Progress") && said.contains("about to work"), "{said}");
}

#[test]
fn failures_and_deaths_of_a_child_are_the_stages() {
    let bench = one("{mode: wrong}");
    let failure = bench.try_run(&options(&bench)).unwrap().stages[0].failure.clone().unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.to_string().as_str()),
        ("work::wrong", "rows.csv:3: row 3 is not a number")
    );

    let bench = one("{mode: die}");
    let failure = bench.try_run(&options(&bench)).unwrap().stages[0].failure.clone().unwrap();
    assert_eq!(failure.to_string(), "the stage's process ended with status 9 and without a result");
    assert!(failure.log.iter().any(|line| line == "about to work"), "{:?}", failure.log);

    let bench = one("{}");
    let options = RunOptions { program: Some(Utf8PathBuf::from("/no/such/luthier")), ..bench.options() };
    let failure = bench.try_run(&options).unwrap().stages[0].failure.clone().unwrap();
    assert_eq!(failure.to_string(), "`/no/such/luthier` cannot be started");
}

#[test]
fn a_child_is_told_to_stop() {
    let bench = one("{mode: loop}");
    let cancel = luthier_core::CancelToken::new();
    let token = cancel.clone();
    let sink = Arc::new(move |event: crate::run::RunEvent| {
        // The child has said something, so it is at work.
        if matches!(event, crate::run::RunEvent::StageEvent { .. }) {
            token.cancel();
        }
    });
    let summary =
        crate::run::run(&bench.pipeline(), &bench.store(), &options(&bench), sink, cancel).expect("a summary");
    assert_eq!(summary.error_class(), Some(ErrorClass::Interrupted));
}

/// Runs one stage in a child and returns how it failed.
fn fate(mode: &str, resources: &str, environment: &str) -> StageFailure {
    let bench = Bench::new(&format!(
        "luthier: 1\nstages:\n  a:\n    uses: work\n    with: {{mode: {mode}}}\n    resources: {resources}\n"
    ));
    let options = options(&bench);
    bench.edit_program(environment);
    let summary = bench.try_run(&options).expect("the runner survives");
    let failure = summary.stages[0].failure.clone().expect("it failed");
    assert_eq!(failure.class, ErrorClass::Stage, "{failure}");
    failure
}

/// Message, log and hints, with what differs between machines and runs replaced.
fn obituary(failure: &StageFailure) -> String {
    let mut text = format!("{}: {failure}\n", failure.code);
    for line in failure
        .log
        .iter()
        .filter(|line| line.starts_with("about") || line.starts_with("the work") || line.contains("allocation of"))
    {
        text.push_str(&format!("log: {line}\n"));
    }
    for hint in &failure.hints {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

fn snapshot(name: &str, failure: &StageFailure) {
    insta::with_settings!({filters => vec![(r"\b[\d.]+ ?[kMGT]B\b", "[SIZE]")]}, {
        insta::assert_snapshot!(name, obituary(failure));
    });
}

/// Whether memory was the cause is told by a counter of the whole machine.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_killed_child_is_a_failure_with_numbers() {
    let _alone = ALONE.lock();
    snapshot("child_killed", &fate("kill", "{memory: 100MB}", ""));
}

#[test]
fn an_aborted_child_is_a_failure_with_its_last_lines() {
    snapshot("child_aborted", &fate("abort", "{}", ""));
}

#[test]
fn a_child_that_meets_a_limit_says_which() {
    snapshot("child_address_space", &fate("hog", "{}", ""));
    snapshot("child_cpu_time", &fate("spin", "{}", ""));
}

/// Needs root and a memory controller of control groups that may be written.
#[test]
fn a_child_killed_for_memory_is_a_failure_that_says_so() {
    let _alone = ALONE.lock();
    let parent = camino::Utf8Path::new("/sys/fs/cgroup/memory");
    let group = parent.join(format!("luthier-test-{}", std::process::id()));
    let limit = group.join("memory.limit_in_bytes");
    if fs_err::create_dir(&group).and_then(|()| fs_err::write(&limit, "67108864")).is_err() {
        eprintln!("skipped: no control group of memory can be made here");
        return;
    }
    let failure = fate("oom", "{memory: 1GB}", &format!("export LUTHIER_TEST_GROUP={group}"));
    fs_err::remove_dir(&group).expect("the group is empty again");
    snapshot("child_out_of_memory", &failure);
}

#[test]
fn what_a_stage_leaves_running_ends_with_it() {
    let bench = one("{mode: family}");
    assert!(bench.try_run(&options(&bench)).expect("a summary").succeeded());
    let pids: Vec<u32> = bench.read("pids").lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(pids.len(), 3, "a shell, its child, and an orphan");
    for pid in pids {
        let alive = fs_err::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
        assert!(!alive, "process {pid} outlived its stage");
    }
}

#[test]
fn a_stage_that_takes_too_long_is_stopped_where_it_runs() {
    let yaml = "luthier: 1\nstages:\n  a:\n    uses: work\n    with: {mode: loop}\n    resources: {time: 1s}\n";
    for executor in [ExecutorSpec::Child, ExecutorSpec::Local] {
        let bench = Bench::new(yaml);
        let options = RunOptions { executor: Some(executor), ..options(&bench) };
        let failure = bench.try_run(&options).expect("a summary").stages[0].failure.clone().expect("it failed");
        let said = format!("{}: {failure}\nhint: {}", failure.code, failure.hints.join("\nhint: "));
        assert_eq!(
            said.replace(bench.root.as_str(), "[ROOT]"),
            "run::time_limit: the stage ran longer than the 1.0 s that `resources.time` allows\n\
             hint: raise `time` ([ROOT]/p.yaml:6:17); a rerun goes on from the checkpoint, if the stage made one"
        );
    }
}

#[test]
fn a_stage_that_takes_more_memory_than_it_says_is_named() {
    let warnings = |memory: &str| {
        let bench = one("{text: x}");
        bench.edit("uses: work,", &format!("uses: work, resources: {{memory: {memory}}},"));
        let (summary, events) = bench.run_events(&options(&bench));
        assert!(summary.succeeded(), "{summary:?}");
        let said = events.iter().filter_map(|event| match event {
            crate::run::RunEvent::StageEvent { event: luthier_core::StageEvent::Warning { message, hint }, .. } => {
                Some(
                    format!("{message}\nhint: {}", hint.as_deref().unwrap_or_default())
                        .replace(bench.root.as_str(), "[ROOT]"),
                )
            }
            _ => None,
        });
        said.collect::<Vec<_>>()
    };
    assert_eq!(warnings("4GB"), [""; 0]);
    if cfg!(target_os = "linux") {
        let said = warnings("100kB");
        insta::with_settings!({filters => vec![(r"\b[\d.]+ ?MB\b", "[SIZE]")]}, {
            insta::assert_snapshot!(said.join("\n"), @r"
            took [SIZE] of memory, but says 100.0 kB ([ROOT]/p.yaml:3:31)
            hint: write `memory: [SIZE]`, so that no more runs beside it than fits
            ");
        });
    }
}

#[test]
fn a_stage_is_given_the_accelerators_it_is_granted() {
    let bench = one("{text: x, mode: gpus}");
    bench.edit("uses: work,", "uses: work, resources: {gpu: 2},");
    let options = RunOptions { gpus: Some(3), ..options(&bench) };
    assert!(bench.try_run(&options).expect("a summary").succeeded());
    assert_eq!(bench.read("gpus"), "0,1");
}
