//! `kill -9` at moments all over a run. The run is a child process: this test program.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::CancelToken;

use crate::pipeline;
use crate::run::{self, RunOptions};
use crate::store::Store;
use crate::testkit::{Bench, CHAIN, registry};
use crate::workspace::Workspace;

const DIRECTORY: &str = "LUTHIER_TEST_DIRECTORY";
const KILLS: u64 = 100;

/// Not a test by itself: one run of the pipeline in the directory named by the environment.
#[test]
#[ignore = "started by the test below"]
fn run_entry() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let root = Utf8PathBuf::from(directory);
    let pipeline = pipeline::load(&root.join("p.yaml"), &[], &registry(&Arc::default(), &Arc::default())).unwrap();
    let store = Store::open(&Workspace::new(root.join(".luthier"))).unwrap();
    let options = RunOptions { threads: 2, ..RunOptions::default() };
    run::run(&pipeline, &store, &options, Arc::new(|_| {}), CancelToken::new()).unwrap();
}

/// Starts a run of the pipeline in `directory` as a process of its own.
pub(super) fn spawn(program: &std::path::Path, directory: &Utf8Path) -> Child {
    Command::new(program)
        .args(["--exact", "store::tests::kill::run_entry", "--ignored"])
        .env(DIRECTORY, directory)
        .stdout(fs_err::File::create(directory.join("child.log")).unwrap().into_parts().0)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_runs_leave_a_whole_store() {
    let bench = Bench::new(CHAIN);
    // As the child's registry, whose recipe version is 0.
    bench.recipe.store(0, std::sync::atomic::Ordering::Relaxed);
    bench.run();
    let lock = bench.read("p.lock");
    let program = std::env::current_exe().unwrap();
    let mut completed = 0;
    for kill in 0..KILLS {
        fs_err::remove_dir_all(bench.root.join(".luthier")).unwrap();
        // One run after another is killed in the same store, later each time.
        for turn in 0..3 {
            let mut child = spawn(&program, &bench.root);
            // All over a run, which takes some 30 ms; in an order that looks random and is the same each time.
            std::thread::sleep(Duration::from_micros(2_000 + (kill * 7_919 + turn * 3_571) % 33_000));
            child.kill().unwrap();
            completed += u32::from(child.wait().unwrap().success());
        }
        let report = bench.store().verify(&mut |_, _| {}).unwrap();
        assert_eq!((&report.damaged, &report.missing), (&vec![], &vec![]), "kill {kill}");
        assert!(bench.run().succeeded(), "kill {kill}");
        assert_eq!(bench.read("p.lock"), lock, "kill {kill}");
    }
    println!("{} runs killed, {completed} ended before", KILLS * 3);
}
