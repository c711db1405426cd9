//! Trainings in processes of their own, killed at random moments or short of disk.

use std::process::{Child, Command};
use std::time::Duration;

use camino::Utf8Path;
use luthier_core::{CancelToken, EventSink, StageEvent, StageRequest, digest_path};
use luthier_kernels::random::Stream;
use serde_json::json;

use super::tests::{bench, scratch};
use super::*;

const REQUEST: &str = "LUTHIER_TEST_REQUEST";
const FILE_LIMIT: &str = "LUTHIER_TEST_FILE_LIMIT";

struct Silent;

impl EventSink for Silent {
    fn emit(&self, _event: StageEvent) {}
}

/// The other process: trains what the request in the environment says. As a test of its own it does nothing.
#[test]
fn child() {
    let Ok(path) = std::env::var(REQUEST) else { return };
    let request: StageRequest = serde_json::from_slice(&fs_err::read(&path).expect("a request")).expect("JSON");
    if let Ok(limit) = std::env::var(FILE_LIMIT) {
        limit_files(limit.parse().expect("bytes"));
    }
    let result = TrainStage.run(&mut StageContext::new(request, &Silent, CancelToken::new()));
    let text = match result {
        Ok(_) => "done".to_owned(),
        Err(error) => format!("{}: {error}\n  hint: {}", error.code, error.hints.join("; ")),
    };
    fs_err::write(format!("{path}.result"), text).expect("written");
}

/// Writes beyond `bytes` of a file fail, as on a full disk.
fn limit_files(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: both calls only change this process's own limits and signals.
    let failed = unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit)
    };
    assert_eq!(failed, 0);
}

/// Starts the other process as the runner starts a stage: of an earlier try only the checkpoint is left.
fn start(request: &Utf8Path, file_limit: Option<u64>) -> Child {
    for name in ["out", "tmp"] {
        let path = request.with_file_name(name);
        fs_err::remove_dir_all(&path).expect("removed");
        fs_err::create_dir_all(&path).expect("made");
    }
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "train::process_tests::child", "--test-threads", "1"]).env(REQUEST, request);
    if let Some(limit) = file_limit {
        command.env(FILE_LIMIT, limit.to_string());
    }
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("a process")
}

fn with(steps: u64, optimizer: &str) -> Value {
    json!({
        "rank": 64, "alpha": 8, "batch": 4, "steps": steps, "learning_rate": 1e-3, "seed": 5, "checkpoint_seconds": 0,
        "checkpoint_every": 1, "optimizer": optimizer, "dropout": 0.1, "targets": ["q_proj", "down_proj"],
    })
}

#[test]
fn killed_at_random_moments_it_ends_in_the_same_bytes() {
    for (case, optimizer) in ["adamw", "paged_adamw_8bit"].into_iter().enumerate() {
        let mut bench = bench(9);
        let straight = bench.run(&TrainStage, &with(150, optimizer)).expect("trained");
        let scratch = scratch(&bench, "killed");
        let request = scratch.join("request.json");
        let text = serde_json::to_vec(&bench.request(&TrainStage, &with(150, optimizer), &scratch)).expect("JSON");
        fs_err::write(&request, text).expect("written");
        let moments = Stream::new(17, &format!("kill.{case}"));
        let (mut kills, mut steps) = (0, Vec::new());
        loop {
            let mut child = start(&request, None);
            // Longer and longer, so that a slow machine gets somewhere too.
            let patience = moments.below(kills, 60) + 20 * kills;
            std::thread::sleep(Duration::from_millis(patience));
            if child.try_wait().expect("a child").is_some() {
                break;
            }
            child.kill().expect("killed");
            child.wait().expect("reaped");
            kills += 1;
            if let Ok(bytes) = fs_err::read(scratch.join("checkpoint/state.checkpoint")) {
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
                steps.extend(
                    text.split("\"step\":").nth(1).and_then(|rest| rest.split(',').next()?.parse::<u64>().ok()),
                );
            }
        }
        assert_eq!(fs_err::read_to_string(format!("{request}.result")).expect("a result"), "done");
        assert!(kills >= 3, "killed only {kills} times");
        assert!(steps.windows(2).all(|pair| pair[0] <= pair[1]), "a kill lost steps: {steps:?}");
        assert!(steps.last().is_some_and(|last| *last > 0), "no kill met a checkpoint: {steps:?}");
        let adapter = |path: &Utf8Path| digest_path(&path.join("adapter")).expect("an adapter").0;
        assert_eq!(adapter(&straight.out), adapter(&scratch.join("out")), "{optimizer} after {kills} kills");
    }
}

#[test]
fn a_full_disk_stops_the_run_and_keeps_the_last_checkpoint() {
    let mut bench = bench(9);
    let straight = bench.run(&TrainStage, &with(20, "adamw")).expect("trained");
    let scratch = scratch(&bench, "full");
    let request = scratch.join("request.json");
    let text = serde_json::to_vec(&bench.request(&TrainStage, &with(20, "adamw"), &scratch)).expect("JSON");
    fs_err::write(&request, text).expect("written");
    let run = |limit: Option<u64>| {
        start(&request, limit).wait().expect("a child");
        fs_err::read_to_string(format!("{request}.result")).expect("a result")
    };
    let checkpoint = scratch.join("checkpoint/state.checkpoint");
    let first = run(Some(100_000));
    assert!(first.starts_with("train::checkpoint_write: the checkpoint of step 1 ("), "{first}");
    assert!(first.contains("could not be written; none was written before it"), "{first}");
    assert!(!checkpoint.exists());
    // A checkpoint grows by a record with every step, so a limit between two of them is met on the way.
    let size: u64 =
        first.split(['(', ' ']).find_map(|word| word.parse().ok().filter(|size| *size > 100_000)).expect("a size");
    let second = run(Some(size + 600));
    assert!(second.contains("could not be written; the one before it is kept"), "{second}");
    assert!(second.contains("hint: free space for twice as many bytes where `"), "{second}");
    assert!(checkpoint.is_file());
    assert_eq!(run(None), "done");
    let adapter = |path: &Utf8Path| digest_path(&path.join("adapter")).expect("an adapter").0;
    assert_eq!(adapter(&straight.out), adapter(&scratch.join("out")));
}
