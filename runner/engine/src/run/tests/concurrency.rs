//! Stages at once, and runs at once.

use std::sync::{Arc, Mutex};

use luthier_core::CancelToken;

use crate::run::{self, RunEvent, RunOptions, RunStatus};
use crate::testkit::{Bench, CHAIN, with_status};

#[test]
fn ready_stages_run_at_once_within_their_resources() {
    let yaml = "luthier: 1\nstages:\n  a: {uses: work, with: {mode: wait, text: a}}\n  b: {uses: work, with: {mode: wait, text: b}}\n  c: {uses: work, with: {mode: wait, text: c}}\n";
    for (options, at_once) in [
        (RunOptions { threads: 2, ..RunOptions::default() }, 2),
        (RunOptions { threads: 8, jobs: Some(1), ..RunOptions::default() }, 1),
        (RunOptions { threads: 8, ..RunOptions::default() }, 3),
    ] {
        let bench = Bench::new(yaml);
        bench.runs_at_once(&options, at_once);
    }
}

#[test]
fn a_second_run_waits_for_the_first_and_reuses() {
    let bench = Bench::new(&CHAIN.replace("text: one", "text: one, mode: wait"));
    let waiting = Arc::new(Mutex::new(Vec::new()));
    let summaries: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..2)
            .map(|_| {
                let (bench, waiting, root) = (&bench, Arc::clone(&waiting), bench.root.clone());
                scope.spawn(move || {
                    let sink = Arc::new(move |event: RunEvent| {
                        if let RunEvent::StageWaiting { stage, .. } = event {
                            waiting.lock().expect("the list").push(stage.to_string());
                            fs_err::write(root.join("go"), "").expect("written");
                        }
                    });
                    run::run(&bench.pipeline(), &bench.store(), &bench.options(), sink, CancelToken::new())
                        .expect("a summary")
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("no panic")).collect()
    });
    assert!(summaries.iter().all(run::RunSummary::succeeded));
    assert_eq!(waiting.lock().expect("the list").first().map(String::as_str), Some("a"));
    let mut executed = bench.executed();
    executed.dedup();
    assert_eq!(executed, ["a", "b", "c", "d"]);
    let ran: usize = summaries.iter().map(|summary| with_status(summary, RunStatus::Ran).len()).sum();
    assert_eq!(ran, 4, "each stage was executed by one of the two");
    assert_eq!(bench.store().verify(&mut |_, _| {}).expect("a report").damaged, []);
}
