//! What stages ask for, what there is, and where they execute.

use luthier_core::{ErrorClass, ExecutorSpec};

use crate::run::{RunEvent, RunOptions};
use crate::testkit::{Bench, id, redact};

#[test]
fn a_stage_that_asks_for_more_than_exists_says_so_before_anything_runs() {
    let bench = Bench::new(
        "luthier: 1\nstages:\n  a: {uses: work}\n  b:\n    uses: work\n    in: a\n    resources:\n      memory: 64GB\n      gpu: 2\n  c:\n    uses: work\n    matrix: {n: [1]}\n    resources: {gpu: true}\n",
    );
    let options = RunOptions { memory: Some(8_000_000_000), gpus: Some(0), ..bench.options() };
    let error = bench.try_run(&options).expect_err("too much is asked");
    assert_eq!(error.class(), ErrorClass::Input);
    insta::assert_snapshot!(
        format!("{}\nhint: {}", redact(&error.to_string(), &bench.root), error.hints().join("\nhint: ")),
        @r"
    [ROOT]/p.yaml:8:7: stage `b` asks for 64.0 GB of memory, but stages may have 8.0 GB together
    [ROOT]/p.yaml:9:7: stage `b` asks for 2 GPUs, but there is none
    [ROOT]/p.yaml:13:17: stage `c@n=1` asks for 1 GPU, but there is none
    hint: lower `memory` under `resources:`, allow more with `--memory 64.0GB`, or run it elsewhere, as with `--executor b=slurm`
    hint: `luthier doctor` shows what the driver says; run it elsewhere, as with `--executor b=slurm`, or say `--gpus 2` if they are there
    hint: `luthier doctor` shows what the driver says; run it elsewhere, as with `--executor c=slurm`, or say `--gpus 1` if they are there
    "
    );
    assert!(bench.executed().is_empty(), "nothing ran");

    let enough = RunOptions { memory: Some(64_000_000_000), gpus: Some(2), ..bench.options() };
    assert!(bench.try_run(&enough).expect("a summary").succeeded());
    assert!(bench.try_run(&options).expect("what is up to date asks for nothing").succeeded());
}

#[test]
fn fewer_threads_than_asked_for_is_said_and_no_error() {
    let bench = Bench::new("luthier: 1\nstages:\n  a: {uses: work, resources: {threads: 64}}\n");
    let (summary, events) = bench.run_events(&bench.options());
    assert!(summary.succeeded());
    let said = events.iter().any(|event| {
        matches!(event, RunEvent::StageEvent { event: luthier_core::StageEvent::Warning { message, .. }, .. }
            if message == "asks for 64 threads and gets the 2 of this run; its result is the same")
    });
    assert!(said, "{events:?}");
}

#[test]
fn resources_and_executors_are_in_no_key() {
    let bench = Bench::new(
        "luthier: 1\nparams: {where: local}\nexecutor: local\nstages:\n  a:\n    uses: work\n    resources: {threads: 1}\n    executor: \"${params.where}\"\n",
    );
    bench.run();
    bench.edit("executor: local", "executor: child");
    bench.edit("threads: 1", "threads: 2, memory: 1MB, time: 1h, gpu: 1");
    bench.edit("where: local", "where: slurm");
    assert!(bench.plan(&bench.options()).is_up_to_date());
}

#[test]
fn the_nearest_word_on_the_executor_wins() {
    let bench = Bench::new(
        "luthier: 1\nexecutor: slurm\nstages:\n  a: {uses: work, executor: \"external:./none\"}\n  b: {uses: work}\n",
    );
    let place = |options: &RunOptions| {
        let error = bench.try_run(options).expect_err("no such executor in tests");
        assert_eq!(error.class(), ErrorClass::Input);
        error.to_string()
    };
    let program = Some(bench.root.join("luthier"));
    let options = RunOptions { program, ..bench.options() };
    assert_eq!(
        place(&options),
        "stage `a` cannot execute on `external:./none`: this program has no executor `external:./none`"
    );
    let of_a = RunOptions { executors: [(id("a"), ExecutorSpec::Local)].into(), ..options.clone() };
    assert_eq!(place(&of_a), "stage `b` cannot execute on `slurm`: this program has no executor `slurm`");
    let general = RunOptions { executor: Some(ExecutorSpec::Local), ..of_a };
    assert!(bench.try_run(&general).expect("a summary").succeeded());
}

#[test]
fn a_stage_says_itself_how_often_it_is_tried() {
    let bench = Bench::new("luthier: 1\nstages:\n  a: {uses: work, with: {mode: resume}, retries: 1}\n");
    assert!(bench.run().succeeded(), "the file asks for a second try");
    assert_eq!(bench.executed(), ["a", "a"]);
    bench.edit("retries: 1", "retries: 0");
    bench.edit("mode: resume", "mode: fail");
    let options = RunOptions { retries: 3, ..bench.options() };
    assert!(!bench.try_run(&options).expect("a summary").succeeded());
    assert_eq!(bench.executed(), ["a"], "the stage's own word wins");
}

#[test]
fn force_runs_what_is_up_to_date_and_nothing_after_equal_bytes() {
    let bench = Bench::new(crate::testkit::CHAIN);
    bench.run();
    bench.executed();
    let options = RunOptions { force: vec![id("a")], ..bench.options() };
    assert!(bench.try_run(&options).expect("a summary").succeeded());
    assert_eq!(bench.executed(), ["a"]);
}
