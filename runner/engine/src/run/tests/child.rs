//! Stages in processes of their own. The child is this test program, started through a script.

use std::sync::Arc;

use camino::Utf8PathBuf;
use luthier_core::StageRequest;

use crate::run::{Executor, RunOptions, exec_stage};
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
    RunOptions { executor: Executor::Child { program: path }, ..bench.options() }
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
    let options =
        RunOptions { executor: Executor::Child { program: Utf8PathBuf::from("/no/such/luthier") }, ..bench.options() };
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
    assert_eq!(summary.error_class(), Some(luthier_core::ErrorClass::Interrupted));
}
