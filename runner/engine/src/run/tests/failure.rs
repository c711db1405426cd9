//! What a failing stage leaves and says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use luthier_core::{CancelToken, ErrorClass};

use crate::run::{self, RunEvent, RunOptions, RunStatus, StageFailure, journal};
use crate::testkit::{Bench, redact, with_status};

fn one(with: &str) -> Bench {
    Bench::new(&format!("luthier: 1\nstages:\n  a: {{uses: work, with: {with}}}\n"))
}

fn failure(bench: &Bench) -> StageFailure {
    let summary = bench.run();
    summary.stages[0].failure.clone().expect("it failed")
}

fn render(failure: &StageFailure) -> String {
    let mut text = format!("{}: {failure}\n", failure.code);
    for hint in &failure.hints {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

#[test]
fn errors_keep_their_words_place_and_class() {
    let failed = failure(&one("{mode: wrong}"));
    assert_eq!(render(&failed), "work::wrong: rows.csv:3: row 3 is not a number\n");
    assert_eq!(failed.class, ErrorClass::Input);
}

#[test]
fn a_panic_is_a_failure_of_the_stage() {
    let failed = failure(&one("{mode: panic}"));
    assert_eq!(
        render(&failed),
        "run::panic: the stage panicked: the work panicked as it was told\n\
         hint: this is a defect of luthier; please report it with the pipeline file and this message\n"
    );
    assert!(failed.causes[0].contains("testkit.rs:"), "{:?}", failed.causes);
}

#[test]
fn outputs_are_held_to_their_declaration() {
    assert_eq!(
        render(&failure(&one("{mode: silent}"))),
        "run::output_missing: the stage ended without writing its declared output `out`\n\
         hint: this is a defect of the stage kind `work`; please report it with the pipeline file\n"
    );
    assert_eq!(
        render(&failure(&one("{mode: extra}"))),
        "run::output_undeclared: the stage wrote `surplus`, which it does not declare as an output\n\
         hint: declare it under `outputs:`, or write it to the temporary directory\n"
    );
}

#[test]
fn missing_sources_are_named_with_their_place() {
    let bench =
        Bench::new("luthier: 1\nstages:\n  a:\n    uses: work\n    with:\n      file: in.txt\n      directory: lib\n");
    bench.write("in.txt", "");
    bench.write("lib/x", "");
    let pipeline = bench.pipeline();
    fs_err::remove_file(bench.root.join("in.txt")).expect("removed");
    fs_err::remove_dir_all(bench.root.join("lib")).expect("removed");
    bench.write("lib", "a file now");
    let error = run::plan(&pipeline, &bench.store(), &bench.options()).expect_err("two sources are wrong");
    assert_eq!(
        redact(&error.to_string(), &bench.root),
        "[ROOT]/p.yaml:6:13: stage `a`: source `in.txt` (file) does not exist\n\
         [ROOT]/p.yaml:7:18: stage `a`: source `lib` (directory) is not a directory, and one is expected"
    );
}

#[test]
fn a_failed_run_keeps_its_checkpoint_and_the_next_resumes() {
    let bench = one("{mode: resume, text: x}");
    let summary = bench.run();
    assert_eq!(summary.error_class(), Some(ErrorClass::Stage));
    let scratch = bench.workspace().scratch_dir().join(summary.stages[0].key.expect("a key").hex());
    assert!(scratch.join("checkpoint/half").exists());
    assert!(!scratch.join("out").exists());
    assert!(bench.run().succeeded());
    assert_eq!(bench.output("a"), "xhalf of it");
    assert!(!scratch.exists(), "a stored result needs no scratch");
}

#[test]
fn retries_are_counted_and_announced() {
    let bench = one("{mode: resume}");
    let options = RunOptions { retries: 2, ..bench.options() };
    let (summary, events) = bench.run_events(&options);
    assert!(summary.succeeded());
    let tries: Vec<(u32, bool)> = events
        .iter()
        .filter_map(|event| match event {
            RunEvent::StageStarted { attempt, .. } => Some((*attempt, true)),
            RunEvent::StageFailed { attempt, will_retry, .. } => Some((*attempt, *will_retry)),
            _ => None,
        })
        .collect();
    assert_eq!(tries, [(1, true), (1, true), (2, true)]);
    let bench = one("{mode: wrong}");
    let options = RunOptions { retries: 2, ..bench.options() };
    bench.try_run(&options).expect("the run starts");
    assert_eq!(bench.executed(), ["a"], "wrong input does not become right by trying again");
}

#[test]
fn cancellation_stops_stages_and_starts_no_more() {
    let bench = Bench::new(
        "luthier: 1\nstages:\n  a: {uses: work, with: {mode: loop}}\n  b: {uses: work, in: a}\n  c: {uses: work, in: b}\n",
    );
    let cancel = CancelToken::new();
    let token = cancel.clone();
    let sink = Arc::new(move |event: RunEvent| {
        if matches!(event, RunEvent::StageStarted { .. }) {
            token.cancel();
        }
    });
    let summary = run::run(&bench.pipeline(), &bench.store(), &bench.options(), sink, cancel).expect("a summary");
    assert_eq!(with_status(&summary, RunStatus::Stopped), ["a", "b", "c"]);
    assert_eq!(summary.error_class(), Some(ErrorClass::Interrupted));
}

#[test]
fn a_source_that_changes_under_a_stage_fails_it() {
    let bench = Bench::new("luthier: 1\nstages:\n  a: {uses: work, with: {mode: wait, file: in.txt}}\n");
    bench.write("in.txt", "before");
    let root = bench.root.clone();
    let started = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&started);
    let sink = Arc::new(move |event: RunEvent| {
        if matches!(event, RunEvent::StageStarted { .. }) && seen.fetch_add(1, Ordering::Relaxed) == 0 {
            fs_err::write(root.join("in.txt"), "after").expect("written");
            fs_err::write(root.join("go"), "").expect("written");
        }
    });
    let summary =
        run::run(&bench.pipeline(), &bench.store(), &bench.options(), sink, CancelToken::new()).expect("a summary");
    let failed = summary.stages[0].failure.clone().expect("it failed");
    assert_eq!(
        render(&failed),
        "run::source_changed: source `in.txt` changed while the stage ran, so its result belongs to neither state\n\
         hint: run again\n"
    );
    assert!(bench.run().succeeded());
    assert_eq!(bench.output("a"), "after");
}

#[test]
fn the_journal_tells_the_run() {
    let bench = one("{text: x}");
    let (summary, events) = bench.run_events(&bench.options());
    let workspace = bench.workspace();
    assert_eq!(journal::load(&workspace, None).expect("the last run"), summary);
    assert_eq!(journal::list(&workspace, 5).expect("runs"), std::slice::from_ref(&summary));
    let kept = journal::events(&workspace, &summary.run).expect("events");
    let said: Vec<RunEvent> = events
        .into_iter()
        .filter(|event| !matches!(event, RunEvent::StageEvent { event: luthier_core::StageEvent::Progress(_), .. }))
        .collect();
    assert_eq!(kept, said);
    let error = journal::load(&workspace, Some("2020")).expect_err("no such run");
    assert_eq!(error.to_string(), "there is no run `2020`");
}

#[test]
fn a_store_that_vanishes_or_cannot_be_written_is_said() {
    let bench = one("{mode: wait}");
    let root = bench.root.clone();
    let sink = Arc::new(move |event: RunEvent| {
        if matches!(event, RunEvent::StageStarted { .. }) {
            fs_err::remove_dir_all(root.join(".luthier")).expect("removed");
            fs_err::write(root.join(".luthier"), "in the way").expect("written");
            fs_err::write(root.join("go"), "").expect("written");
        }
    });
    let outcome = run::run(&bench.pipeline(), &bench.store(), &bench.options(), sink, CancelToken::new());
    match outcome {
        Ok(summary) => assert!(summary.error_class().is_some()),
        Err(error) => assert_eq!(error.class(), ErrorClass::Store, "{error}"),
    }
    fs_err::remove_file(bench.root.join(".luthier")).expect("removed");
    assert!(bench.run().succeeded());
}
