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
fn the_first_steps_of_a_training_are_executed_again() {
    let project = project();
    let _ = project.run(&["run", "tiny.yaml", "--until", "adapter"]).success();
    let equal = project.run(&["verify", "tiny.yaml", "adapter", "--steps", "3"]).success();
    insta::assert_snapshot!(equal.stdout.trim(), @r#"
    adapter: equal through step 3 of 6
      compared bit for bit with the stored result: 3 points of `grad_norm`, 3 points of `learning_rate`, 3 points of `loss`
      not compared: its outputs, which all 6 steps make; `luthier verify adapter` executes them
    "#);
    let all = project.run(&["verify", "tiny.yaml", "adapter", "--steps", "99", "--json"]).success().json();
    assert_eq!((&all["steps"], &all["of"], &all["first"]), (&6.into(), &6.into(), &serde_json::json!([])), "{all}");
    assert!(all["whole"]["outputs"]["adapter"]["locked"].is_object(), "{all}");
    let _ = project.run(&["verify"]).success();
    assert!(project.run(&["run", "tiny.yaml", "--until", "adapter"]).success().stderr.contains("nothing to do"));

    // What a machine that computes otherwise would have stored.
    let records = project.path().join(".luthier/store/records");
    for name in luthier_core::fs::walk_files(&records).expect("records") {
        let path = records.join(name);
        let text = fs_err::read_to_string(&path).expect("a record");
        let Ok(mut record) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
        if record["stage"] == "adapter" {
            let point = &mut record["outcome"]["sections"][2]["plot"]["series"][0]["points"][1][1];
            *point = serde_json::json!(f64::from_bits(point.as_f64().expect("a norm").to_bits() + 1));
            fs_err::remove_file(&path).expect("removed");
            fs_err::write(&path, record.to_string()).expect("written");
        }
    }
    let number = regex::Regex::new(r"\d+\.\d+").expect("a pattern");
    let differs = project.run(&["verify", "tiny.yaml", "adapter", "--steps", "4"]).failure(3);
    insta::assert_snapshot!(number.replace_all(&format!("{}{}", differs.stdout, differs.stderr), "[NUMBER]").trim(), @r#"
    adapter: DIFFERS at step 2 of 6
      grad_norm: [NUMBER] stored, [NUMBER] now
      compared bit for bit with the stored result: 2 points of `grad_norm`, 2 points of `learning_rate`, 2 points of `loss`
      not compared: its outputs, which all 6 steps make; `luthier verify adapter` executes them
    executing `adapter` again, apart from the store
    error: stage `adapter` does not reproduce its result

    hint: if a command or plugin uses the clock, randomness or the network, that is where to look
    "#);
    let _ = project.run(&["verify", "tiny.yaml", "adapter", "--steps", "1"]).success();

    let none = project.run(&["verify", "tiny.yaml", "tokens", "--steps", "2"]).failure(2);
    insta::assert_snapshot!(none.stderr.trim(), @r#"
    executing `tokens` again, apart from the store
    error: stage `tokens` has no steps to compare: its stored result has no curve over the steps of a `tokenize`

    hint: `luthier verify tokens` executes the whole stage again and compares its outputs
    "#);
    let nothing = project.run(&["verify", "--steps", "2"]).failure(2);
    insta::assert_snapshot!(nothing.stderr.trim(), @r#"
    error: `--steps` needs the stage whose first steps are to be executed

    hint: name it: `luthier verify STAGE --steps 10`; `luthier verify` alone re-hashes the store
    "#);
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
