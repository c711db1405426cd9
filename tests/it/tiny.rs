//! The whole way from rows to GGUF on a tiny random model: same bits for any thread count, after a kill, and nothing to do
//! the second time.

use std::time::Duration;

use luthier_formats::quant::TensorType;
use luthier_test::{TestProject, TinyModel};

const PIPELINE: &str = r#"luthier: 1
params: {steps: 6, rate: 1e-2}
stages:
  base:
    uses: fetch
    with: {from: base.gguf}
  raw:
    uses: ingest
    with: {files: [chats.jsonl]}
  split:
    uses: split
    in: raw
    with: {seed: 3, parts: {test: 4, train: rest}}
  tokens:
    uses: tokenize
    in: {model: base, data: split.train}
    with: {max_length: 128}
  memory:
    uses: plan
    in: {model: base, data: tokens}
    with: {method: qlora, rank: 4, batch: 4}
  adapter:
    uses: train
    in: {model: base, data: tokens}
    with: {method: qlora, rank: 4, alpha: 8, learning_rate: "${params.rate}", batch: 4, steps: "${params.steps}", seed: 5, checkpoint_every: 1}
  scores:
    uses: eval
    in: {model: base, adapter: adapter, data: split.test}
    with: {generation: {max_new_tokens: 4}, perplexity: {}}
  merged:
    uses: merge
    in: {model: base, adapters: adapter}
    with: {dtype: f32}
  gguf:
    uses: export
    in: merged
    with: {type: q8_0}
"#;

fn project() -> TestProject {
    let project = TestProject::new(env!("CARGO_BIN_EXE_luthier"));
    TinyModel::new(11).write_gguf(&project.path().join("base.gguf"), TensorType::F32);
    let rows: Vec<String> = (0..24)
        .map(|number| {
            format!(
                r#"{{"messages": [{{"role": "user", "content": "{number}?"}}, {{"role": "assistant", "content": "{}"}}]}}"#,
                number * 7 % 10
            )
        })
        .collect();
    project.file("tiny.yaml", PIPELINE).file("chats.jsonl", rows.join("\n"));
    project
}

fn lock(project: &TestProject) -> String {
    fs_err::read_to_string(project.path().join("tiny.lock")).expect("a lock")
}

#[test]
fn reaches_gguf_and_has_nothing_left_to_do() {
    let project = project();
    let first = project.run(&["run", "tiny.yaml", "--threads", "1"]).success();
    assert!(first.stderr.contains("9 ran, 0 reused"), "{}", first.stderr);
    let second = project.run(&["run", "tiny.yaml", "--threads", "2", "--locked"]).success();
    assert!(second.stderr.contains("nothing to do: 9 stages up to date"), "{}", second.stderr);
    let gguf = project.run(&["show", "tiny.yaml", "gguf", "--path"]).success().stdout;
    let bytes = fs_err::read(project.path().join(gguf.trim())).expect("the exported file");
    assert_eq!(&bytes[..4], b"GGUF");
    let explained = project.run(&["explain", "tiny.yaml", "adapter", "-p", "rate=2e-2"]).success();
    assert!(explained.stdout.contains("learning_rate"), "{}", explained.stdout);
    let page = project.run(&["report", "-o", "report.html"]).success();
    assert!(luthier_test::exists(project.path().join(page.stdout.trim())));
}

#[test]
fn any_number_of_threads_gives_the_locked_bits() {
    let one = project();
    let _ = one.run(&["run", "tiny.yaml", "--threads", "1"]).success();
    let three = project();
    three.file("tiny.lock", lock(&one));
    let _ = three.run(&["run", "tiny.yaml", "--threads", "3", "--locked"]).success();
}

#[test]
fn a_killed_training_resumes_to_the_same_bits() {
    let straight = project();
    straight.edit("tiny.yaml", "steps: 6", "steps: 40");
    let _ = straight.run(&["run", "tiny.yaml", "--until", "adapter"]).success();
    let killed = project();
    killed.edit("tiny.yaml", "steps: 6", "steps: 40");
    for milliseconds in [150, 250, 400] {
        let mut child = killed.command(&["run", "tiny.yaml", "--until", "adapter"]).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().expect("SIGKILL");
        let _ = child.wait().expect("ended");
    }
    let _ = killed.run(&["run", "tiny.yaml", "--until", "adapter"]).success();
    let digest = |project: &TestProject| {
        let shown = project.run(&["show", "tiny.yaml", "adapter", "--json"]).success().json();
        shown["outputs"]["adapter"]["digest"].as_str().expect("a digest").to_owned()
    };
    assert_eq!(digest(&straight), digest(&killed));
    let _ = killed.run(&["verify"]).success();
}

#[test]
fn damaged_models_and_missing_templates_are_named() {
    let project = project();
    let bytes = fs_err::read(project.path().join("base.gguf")).expect("the model");
    project.file("base.gguf", &bytes[..bytes.len() / 2]);
    let failed = project.run(&["run", "tiny.yaml"]);
    assert_ne!(failed.code, 0);
    assert!(failed.stderr.contains("hint:"), "{}", failed.stderr);
    assert!(!failed.stderr.contains("panicked"), "{}", failed.stderr);
    project.file("base.gguf", b"not a model at all");
    let failed = project.run(&["run", "tiny.yaml"]);
    assert_ne!(failed.code, 0);
    assert!(failed.stderr.contains("GGUF"), "{}", failed.stderr);
}

#[test]
fn a_rate_that_diverges_stops_with_the_step() {
    let project = project();
    let failed = project.run(&["run", "tiny.yaml", "--until", "adapter", "-p", "rate=1e30", "-p", "steps=30"]);
    assert_ne!(failed.code, 0, "{}", failed.stderr);
    assert!(failed.stderr.contains("step"), "{}", failed.stderr);
    assert!(failed.stderr.contains("hint:"), "{}", failed.stderr);
}
