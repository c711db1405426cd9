//! `--locked` and what is written to the lock.

use luthier_core::ErrorClass;

use crate::error::EngineError;
use crate::run::{LockMode, LockOutcome, RunOptions};
use crate::testkit::{Bench, CHAIN};

fn locked(bench: &Bench) -> RunOptions {
    RunOptions { lock: LockMode::Locked, ..bench.options() }
}

fn differences(bench: &Bench) -> String {
    let error = bench.try_run(&locked(bench)).expect_err("it differs");
    assert_eq!(error.class(), ErrorClass::Expectation);
    match &error {
        EngineError::LockMismatch { differences, .. } => {
            differences.iter().map(|difference| format!("{difference}\n")).collect()
        }
        other => format!("{other}\n"),
    }
}

#[test]
fn a_clean_clone_reproduces_the_lock() {
    let bench = Bench::new(CHAIN);
    bench.run();
    let clone = Bench::new(CHAIN);
    clone.write("p.lock", &bench.read("p.lock"));
    let summary = clone.try_run(&locked(&clone)).expect("all equal");
    assert_eq!(summary.lock, LockOutcome::Verified);
    assert_eq!(clone.executed(), ["a", "b", "c", "d"]);
    let summary = clone.try_run(&locked(&clone)).expect("all equal");
    assert_eq!(summary.lock, LockOutcome::Verified);
    assert!(clone.executed().is_empty());
}

#[test]
fn differences_are_found_before_anything_runs() {
    let bench = Bench::new(CHAIN);
    assert_eq!(differences(&bench), format!("there is no `{}/p.lock`, but `--locked` was given\n", bench.root));
    bench.run();
    bench.executed();
    bench.edit("keep: 2", "keep: 3");
    bench.edit("  c:\n    uses: work\n    in: b\n", "  e:\n    uses: work\n    in: b\n");
    assert_eq!(
        differences(&bench),
        "e: not in the lock\nd: config.keep is 3, locked 2\nc: in the lock, but not in the pipeline\n"
    );
    assert!(bench.executed().is_empty());
}

#[test]
fn other_results_are_found_as_they_are_made() {
    let bench = Bench::new(CHAIN);
    bench.run();
    let lock = bench.read("p.lock");
    let clone = Bench::new(CHAIN);
    clone.write("p.lock", &lock.replace("bytes: 6.0", "bytes: 7.0"));
    assert_eq!(differences(&clone), "b: metric bytes is 6.0, locked 7.0\n", "what reads `b` is not blamed for it");
}

#[test]
fn what_ran_says_its_own_metrics_to_the_lock() {
    let bench = Bench::new(CHAIN);
    bench.run();
    let lock = bench.read("p.lock");
    let clone = Bench::new(CHAIN);
    clone.write("p.lock", &lock.replace("bytes: 6.0", "bytes: 7.0"));
    clone.run();
    assert_eq!(clone.read("p.lock"), lock);
}

#[test]
fn a_partial_run_updates_its_stages_only_and_removed_ones_go() {
    let bench = Bench::new(CHAIN);
    bench.run();
    let before = bench.read("p.lock");
    bench.edit("\n  d:\n    uses: work\n    in: a\n    with: {keep: 2, tree: true}\n", "\n");
    bench.run();
    let after = bench.read("p.lock");
    assert!(before.starts_with(after.trim_end()), "the block of `d` is gone, all else is as it was");
    let ignore = RunOptions { lock: LockMode::Ignore, ..bench.options() };
    bench.edit("text: one", "text: uno");
    let summary = bench.try_run(&ignore).expect("the run starts");
    assert_eq!(summary.lock, LockOutcome::Untouched);
    assert_eq!(bench.read("p.lock"), after);
}

#[test]
fn an_unchanged_lock_is_not_touched() {
    let bench = Bench::new(CHAIN);
    bench.run();
    let text = format!("# mine\n{}", bench.read("p.lock"));
    bench.write("p.lock", &text);
    bench.run();
    assert_eq!(bench.read("p.lock"), text);
}
