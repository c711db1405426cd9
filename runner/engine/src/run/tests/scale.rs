//! A run that has nothing to do reads little and writes nothing but its journal, however many stages there are.

use std::fmt::Write as _;
use std::sync::Arc;

use luthier_core::CancelToken;

use crate::run::{self, RunStatus};
use crate::testkit::Bench;

/// A chain of `count / 2` stages and a fan-out of as many.
fn yaml(count: usize) -> String {
    let mut text = String::from("luthier: 1\nstages:\n  s0: {uses: work, with: {text: x}}\n");
    for at in 1..count {
        let from = if at < count / 2 { at - 1 } else { 0 };
        let _ = writeln!(text, "  s{at}: {{uses: work, in: s{from}, with: {{keep: {at}, text: y}}}}");
    }
    text
}

#[test]
fn a_run_without_work_costs_no_file_per_stage() {
    for count in [100, 1000] {
        check(count);
    }
}

fn check(count: usize) {
    let bench = Bench::new(&yaml(count));
    let summary = bench.run();
    assert_eq!(summary.count(RunStatus::Ran), count);
    let pipeline = bench.pipeline();
    let start = std::time::Instant::now();
    let store = bench.store();
    let summary = run::run(&pipeline, &store, &bench.options(), Arc::new(|_| {}), CancelToken::new()).expect("a run");
    let elapsed = start.elapsed();
    assert_eq!(summary.count(RunStatus::Reused), count);
    let traffic = store.traffic();
    assert_eq!(traffic.written, 0);
    assert_eq!(traffic.opened, 1, "the index holds the records of all stages");
    println!("a run of {count} stages without work took {elapsed:?} after loading");
}
