//! A training on the emulated driver that is killed in a process of its own, again and again, and ends in the same bytes.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "conformance/support/mod.rs"]
#[expect(dead_code, clippy::print_stderr, reason = "what the tests of operations share; a part of it is used here")]
mod support;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::{
    ArtifactKind, CancelToken, Digest, EventSink, InputArtifact, PrepareEnv, StageContext, StageEvent, StageId,
    StageOutcome, StageRequest, digest_path,
};
use luthier_cuda::Precision;
use luthier_test::{TinyModel, token_set};
use serde_json::json;

/// Names the directory in which the other process trains.
const DIRECTORY: &str = "LUTHIER_TEST_KILLED";
/// Names its optimiser.
const OPTIMIZER: &str = "LUTHIER_TEST_OPTIMIZER";
const STEPS: u64 = 30;

struct Silent;

impl EventSink for Silent {
    fn emit(&self, _event: StageEvent) {}
}

/// Trains the model and the data of `root` in the scratch directory `name`, of which only the checkpoint may be there.
fn train(root: &Utf8Path, name: &str, optimizer: &str) -> StageOutcome {
    let registry = luthier_stages::registry();
    let stage = registry.get("train").unwrap();
    let with = json!({
        "rank": 70, "alpha": 8, "batch": 9, "targets": ["q_proj", "down_proj"], "optimizer": optimizer, "steps": STEPS, "learning_rate": 1e-2, "seed": 5, "dropout": 0.1,
        "checkpoint_seconds": 0, "checkpoint_every": 1, "device": "cuda",
    });
    let prepared = stage.prepare(&with, PrepareEnv { directory: root, cache: None, build: false }).unwrap();
    let scratch = root.join(name);
    for part in ["out", "tmp", "checkpoint"] {
        if part != "checkpoint" && scratch.join(part).exists() {
            fs_err::remove_dir_all(scratch.join(part)).unwrap();
        }
        fs_err::create_dir_all(scratch.join(part)).unwrap();
    }
    let inputs = [("model", ArtifactKind::Model), ("data", ArtifactKind::Tokens)].map(|(port, kind)| {
        let path = root.join(port);
        let digest = digest_path(&path).unwrap().0;
        (port.to_owned(), vec![InputArtifact { from: port.to_owned(), kind, digest, path }])
    });
    let request = StageRequest {
        version: 1,
        stage: StageId::new("tested").unwrap(),
        kind: "train".to_owned(),
        config: prepared.config,
        inputs: BTreeMap::from(inputs),
        sources: BTreeMap::new(),
        outputs: prepared.outputs,
        scratch,
        // Each its own, as a finished run leaves its state for a longer one.
        cache: root.join(format!("{name}-cache")),
        directory: root.to_owned(),
        threads: 1,
        device: "cpu".to_owned(),
        offline: true,
        fresh: false,
    };
    stage.run(&mut StageContext::new(request, &Silent, CancelToken::new())).unwrap()
}

/// The other process. As a test of its own it does nothing.
#[test]
fn child() {
    let Ok(root) = std::env::var(DIRECTORY) else { return };
    assert!(support::emulated(Precision::Bf16).is_some());
    train(Utf8Path::new(&root), "killed", &std::env::var(OPTIMIZER).unwrap());
}

fn start(root: &Utf8Path, optimizer: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--test-threads", "1"]).env(DIRECTORY, root).env(OPTIMIZER, optimizer);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The step of the checkpoint on the disk.
fn checkpointed(root: &Utf8Path) -> u64 {
    let Ok(bytes) = fs_err::read(root.join("killed/checkpoint/state.checkpoint")) else { return 0 };
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
    text.split("\"step\":").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

fn adapter(root: &Utf8Path, name: &str) -> Digest {
    digest_path(&root.join(name).join("out/adapter")).unwrap().0
}

/// One after the other: the emulated driver lets nothing of the process wait or load while a graph is captured.
#[test]
fn killed_while_the_device_works_it_goes_on_to_the_same_bytes() {
    ["adamw", "paged_adamw_8bit"].into_iter().for_each(go_on_after_kills);
}

fn go_on_after_kills(optimizer: &str) {
    if support::emulated(Precision::Bf16).is_none() || support::is_real() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
    let model = TinyModel::new(3);
    model.write_directory(&root.join("model"));
    token_set(9, model.config.vocab_size).write(&root.join("data")).unwrap();
    train(&root, "straight", optimizer);
    for wanted in [1, 4, 11, 12] {
        let mut child = start(&root, optimizer);
        let before = checkpointed(&root);
        assert!(before < STEPS);
        while checkpointed(&root) < wanted.max(before + 1) {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(checkpointed(&root) >= wanted, "a kill took a checkpoint away");
    }
    assert!(start(&root, optimizer).wait().unwrap().success());
    assert_eq!(adapter(&root, "killed"), adapter(&root, "straight"));
}
