//! `--only`, `--from`, `--until`, `--keep-going`, `--jobs`.

use crate::run::{RunOptions, RunStatus};
use crate::testkit::{Bench, CHAIN, id, plan_text, with_status};

#[test]
fn only_needs_what_it_reads_to_be_up_to_date() {
    let bench = Bench::new(CHAIN);
    let only = RunOptions { only: vec![id("b")], ..bench.options() };
    let summary = bench.try_run(&only).expect("the run starts");
    assert_eq!(with_status(&summary, RunStatus::Blocked), ["b"]);
    assert_eq!(summary.stages[0].blocked_by, Some(id("a")));
    assert_eq!(summary.error_class(), Some(luthier_core::ErrorClass::Input));
    assert!(bench.executed().is_empty());
    assert!(!bench.root.join("p.lock").exists());

    bench.run();
    bench.executed();
    bench.edit("text: two", "text: deux");
    bench.edit("keep: 2", "keep: 1");
    let summary = bench.try_run(&only).expect("the run starts");
    assert_eq!(bench.executed(), ["b"]);
    assert!(summary.succeeded());
    let lock = bench.read("p.lock");
    assert!(lock.contains("deux") && lock.contains("keep: 2"), "only the selected stage is updated:\n{lock}");
}

#[test]
fn from_and_until_are_cones() {
    let bench = Bench::new(CHAIN);
    let until = RunOptions { until: vec![id("b")], ..bench.options() };
    bench.try_run(&until).expect("the run starts");
    assert_eq!(bench.executed(), ["a", "b"]);
    let from = RunOptions { from: vec![id("b")], ..bench.options() };
    bench.try_run(&from).expect("the run starts");
    assert_eq!(bench.executed(), ["c"], "`d` does not read `b`");
    bench.edit("text: one", "text: uno");
    let between = RunOptions { from: vec![id("a")], until: vec![id("b")], ..bench.options() };
    assert_eq!(plan_text(&bench.plan(&between)), "a: run (text one → uno (p.yaml:5))\nb: run (a will run)\n");
}

#[test]
fn unknown_names_are_answered_with_the_nearest() {
    let bench = Bench::new(&CHAIN.replace("  d:", "  tokens:"));
    let options = RunOptions { only: vec![id("token")], ..bench.options() };
    let error = bench.try_run(&options).expect_err("no such stage");
    assert_eq!(error.to_string(), "the pipeline has no stage `token`");
    assert_eq!(error.hints(), ["did you mean `tokens`?"]);
    assert_eq!(error.class(), luthier_core::ErrorClass::Input);
}

#[test]
fn a_failure_blocks_only_what_depends_on_it() {
    let bench = Bench::new(&CHAIN.replace("text: two", "mode: fail"));
    let options = RunOptions { threads: 1, keep_going: true, ..bench.options() };
    let summary = bench.try_run(&options).expect("the run starts");
    assert_eq!(with_status(&summary, RunStatus::Ran), ["a", "d"]);
    assert_eq!(with_status(&summary, RunStatus::Failed), ["b"]);
    assert_eq!(with_status(&summary, RunStatus::Blocked), ["c"]);
    assert_eq!(summary.error_class(), Some(luthier_core::ErrorClass::Stage));
    assert!(!bench.root.join("p.lock").exists(), "a failed run has no lock");

    let bench = Bench::new(&CHAIN.replace("text: two", "mode: fail"));
    let options = RunOptions { threads: 1, ..bench.options() };
    let summary = bench.try_run(&options).expect("the run starts");
    assert_eq!(with_status(&summary, RunStatus::Stopped), ["d"], "nothing new is started after a failure");
}
