use camino::Utf8Path;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::run::RunOptions;
use crate::testkit::{Bench, CHAIN, id};

fn parse(text: &str) -> Result<Lock, LockError> {
    Lock::parse(text, Utf8Path::new("p.lock"))
}

fn error(text: &str) -> String {
    parse(text).expect_err("the text is wrong").to_string()
}

/// The lock of a real run.
fn lock() -> (Bench, String) {
    let bench =
        Bench::new(&CHAIN.replace("text: one", "text: one, file: in.txt, class: cpu-f32, steps: [{max: 0.1}, 1.0e-7]"));
    bench.write("in.txt", "!");
    bench.edit("  c:\n    uses: work\n    in: b\n", "  c:\n    uses: work\n    in: {data: b, more: [a, b]}\n");
    bench.run();
    let text = bench.read("p.lock");
    (bench, text)
}

#[test]
fn the_text_is_as_documented_and_reads_back() {
    let (_bench, text) = lock();
    let parsed = parse(&text).unwrap();
    assert_eq!(parsed.render(), text);
    insta::with_settings!({filters => vec![("[0-9a-f]{64}", "[DIGEST]")]}, {
        insta::assert_snapshot!(text, @r#"
    # Written by `luthier run`; commit it. Git merges blocks of different stages.
    version: 1

    stages:
      a:
        kind: work
        recipe: 1
        key: [DIGEST]
        class: cpu-f32
        config:
          class: "cpu-f32"
          keep: 0
          mode: ""
          steps[0].max: 0.1
          steps[1]: 1e-7
          text: "one"
          tree: false
        sources:
          file: [DIGEST]
        outputs:
          out: file file 4 [DIGEST]
        metrics:
          bytes: 4.0

      b:
        kind: work
        recipe: 1
        key: [DIGEST]
        config:
          class: null
          keep: 0
          mode: ""
          steps: []
          text: "two"
          tree: false
        inputs:
          data: file [DIGEST]
        outputs:
          out: file file 7 [DIGEST]
        metrics:
          bytes: 7.0

      c:
        kind: work
        recipe: 1
        key: [DIGEST]
        config:
          class: null
          keep: 0
          mode: ""
          steps: []
          text: ""
          tree: false
        inputs:
          data: file [DIGEST]
          more[0]: file [DIGEST] a.out
          more[1]: file [DIGEST] b.out
        outputs:
          out: file file 18 [DIGEST]
        metrics:
          bytes: 18.0

      d:
        kind: work
        recipe: 1
        key: [DIGEST]
        config:
          class: null
          keep: 2
          mode: ""
          steps: []
          text: ""
          tree: true
        inputs:
          data: file [DIGEST]
        outputs:
          out: dataset tree 3 [DIGEST]
        metrics:
          bytes: 2.0
    "#);
    });
}

#[test]
fn it_is_yaml() {
    let (_bench, text) = lock();
    let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(value["version"], json!(1));
    assert_eq!(value["stages"]["a"]["config"]["steps[0].max"], json!(0.1));
}

#[test]
fn merged_blocks_are_read_in_any_order() {
    let (_bench, text) = lock();
    let whole = parse(&text).unwrap();
    let (head, blocks) = text.split_once("stages:\n").unwrap();
    let mut blocks: Vec<&str> = blocks.split("\n\n").collect();
    blocks.reverse();
    let shuffled = format!("{head}stages:\n# merged\n\n{}\n\n\n", blocks.join("\n"));
    assert_eq!(parse(&shuffled).unwrap(), whole);
    let twice = format!("{text}\n{}\n", blocks[0]);
    assert_eq!(parse(&twice).unwrap(), whole, "the same block twice says nothing new");
    let contrary = format!("{text}\n{}\n", blocks[0].replacen("recipe: 1", "recipe: 2", 1));
    assert!(error(&contrary).contains("stands twice, with different content"), "{}", error(&contrary));
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    assert_eq!(error("<<<<<<< ours\nversion: 1\n"), "p.lock:1: git left conflict markers in the lock");
    assert_eq!(error(""), "p.lock:1: no `version:`, so this is not a lock");
    assert_eq!(error("version: 99\n"), "`p.lock` has lock version 99, but this luthier knows versions up to 1");
    assert_eq!(error("version: 1\nfoo: 1\n"), "p.lock:2: unknown key `foo`, expected `version` or `stages`");
    let block = "version: 1\nstages:\n  a:\n    kind: work\n    recipe: 1\n";
    assert_eq!(error(block), "p.lock:3: stage `a`: `key` is missing");
    assert_eq!(
        error(&format!("{block}    key: xyz\n")),
        "p.lock:3: stage `a`: `xyz` is not a BLAKE3 digest (64 hex digits)"
    );
    assert_eq!(error(&format!("{block}    kind: work\n")), "p.lock:6: `kind` stands twice in this stage");
    assert_eq!(error(&format!("{block}    config:\n      a: [\n")), "p.lock:7: `[` is not a JSON value");
    assert_eq!(error(&format!("{block}   odd: 1\n")), "p.lock:6: unexpected indentation");
    assert_eq!(error("version: 1\nstages:\n  9: 1\n").split(':').nth(1), Some("3"));
    assert_eq!(error("version: 1\nnonsense\n"), "p.lock:2: expected `name: value`");
    let conflict = parse("version: 1\n=======\n").unwrap_err();
    assert!(conflict.hints()[0].contains("git checkout --theirs p.lock"));
}

#[test]
fn a_lock_is_read_at_a_git_revision() {
    let bench = Bench::new(CHAIN);
    bench.run();
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
            .args(args)
            .current_dir(&bench.root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    git(&["init", "-q"]);
    git(&["add", "p.yaml", "p.lock"]);
    git(&["commit", "-q", "-m", "first"]);
    let file = bench.root.join("p.lock");
    let before = Lock::read(&file).unwrap().unwrap();
    bench.edit("text: two", "text: deux");
    bench.run();
    assert_eq!(Lock::at_revision(&file, "HEAD").unwrap(), before);
    let error = Lock::at_revision(&file, "nowhere").unwrap_err();
    assert_eq!(error.code(), "lock::git");
    assert!(error.to_string().contains("at git revision `nowhere`"), "{error}");
    assert!(Lock::at_revision(&file, "--output=x").is_err());
}

#[test]
fn metrics_keep_every_digit_and_measured_ones_stay_out() {
    let (_bench, text) = lock();
    let parsed = parse(&text).unwrap();
    let metrics = &parsed.stages[&id("a")].metrics;
    assert_eq!(metrics.get("bytes").map(String::as_str), Some("4.0"));
    assert!(!metrics.contains_key("speed"));
    let metric = |value| number(&MetricValue { value, unit: String::new(), deterministic: true });
    assert_eq!(metric(0.1 + 0.2), "0.30000000000000004");
    assert_eq!(metric(1e300), "1e+300");
    assert_eq!(metric(f64::NAN), "NaN");
    assert_eq!(metric(f64::NEG_INFINITY), "-inf");
    for text in ["NaN", "-inf", "1e+300"] {
        assert!(text.parse::<f64>().is_ok());
    }
}

/// Git in the directory of a bench.
fn git(bench: &Bench, arguments: &[&str]) -> bool {
    std::process::Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(&bench.root)
        .output()
        .unwrap()
        .status
        .success()
}

#[test]
fn git_merges_changes_of_different_stages() {
    const STAGES: &str = "\
luthier: 1
stages:
  clean: {uses: work, with: {text: one}}
  model: {uses: work, with: {text: two}}
  other: {uses: work, with: {text: three}}
  train: {uses: work, with: {text: four}}
";
    let bench = Bench::new(STAGES);
    let commit = |message: &str| {
        bench.run();
        assert!(git(&bench, &["add", "p.yaml", "p.lock"]) && git(&bench, &["commit", "-q", "-m", message]));
    };
    assert!(git(&bench, &["init", "-q"]));
    commit("base");
    assert!(git(&bench, &["checkout", "-q", "-b", "side"]));
    bench.edit("text: two", "text: deux");
    commit("side: another model");
    assert!(git(&bench, &["checkout", "-q", "main"]));
    bench.edit("text: four", "text: quatre");
    bench.edit(
        "  other: {uses: work, with: {text: three}}\n",
        "  other: {uses: work, with: {text: three}}\n  added: {uses: work, with: {text: five}}\n",
    );
    commit("main: another training, and a stage more");
    bench.executed();
    assert!(git(&bench, &["merge", "-q", "side", "-m", "merge"]), "git merges the lock without conflict");

    let merged = Lock::read(&bench.root.join("p.lock")).unwrap().unwrap();
    assert_eq!(merged.render(), bench.read("p.lock"), "the merged text is what would be written");
    let locked = RunOptions { lock: crate::run::LockMode::Locked, ..bench.options() };
    assert!(bench.try_run(&locked).unwrap().succeeded(), "and says what the merged pipeline makes");
    assert_eq!(bench.executed(), [""; 0], "of which both branches have made everything");
}

#[test]
fn the_text_does_not_depend_on_place_time_or_threads() {
    let texts: Vec<String> = [1, 2, 7]
        .into_iter()
        .map(|threads| {
            let bench = Bench::new(CHAIN);
            bench.try_run(&RunOptions { threads, ..bench.options() }).unwrap();
            assert!(!bench.read("p.lock").contains(bench.root.as_str()));
            bench.read("p.lock")
        })
        .collect();
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[1], texts[2]);
}

/// A store and a lock that an older way of hashing keys made: same fingerprints, other keys.
#[test]
fn another_version_of_keys_reruns_nothing() {
    let bench = Bench::new(CHAIN);
    bench.run();
    bench.executed();
    let store = bench.root.join(".luthier/store");
    let records = store.join("records");
    let mut old_keys = Vec::new();
    let old_key = |key: &str| Digest::of(format!("version 0 of {key}").as_bytes()).hex();
    for name in luthier_core::fs::walk_files(&records).unwrap() {
        let text = fs_err::read_to_string(records.join(&name)).unwrap();
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        let key = record["key"].as_str().unwrap().to_owned();
        record["key"] = json!(old_key(&key));
        record["fingerprint"]["version"] = json!(0);
        fs_err::remove_file(records.join(&name)).unwrap();
        let hex = old_key(&key);
        fs_err::create_dir_all(records.join(&hex[..2])).unwrap();
        fs_err::write(records.join(&hex[..2]).join(format!("{hex}.json")), record.to_string()).unwrap();
        old_keys.push(key);
    }
    for name in luthier_core::fs::walk_files(&store.join("index")).unwrap() {
        let path = store.join("index").join(name);
        let mut text = fs_err::read_to_string(&path)
            .unwrap()
            .replace("\"fingerprint\":{\"version\":1", "\"fingerprint\":{\"version\":0");
        for key in &old_keys {
            text = text.replace(key, &old_key(key));
        }
        fs_err::write(&path, text).unwrap();
    }
    let mut lock = bench.read("p.lock");
    for key in &old_keys {
        lock = lock.replace(&format!("key: {key}"), &format!("key: {}", old_key(key)));
    }
    bench.write("p.lock", &lock);

    let locked = RunOptions { lock: crate::run::LockMode::Locked, ..bench.options() };
    assert!(
        bench.try_run(&locked).unwrap().succeeded(),
        "a lock with other keys for the same fingerprints is no difference"
    );
    assert!(bench.run().succeeded());
    assert_eq!(bench.executed(), [""; 0], "a change of version never reruns work");
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(text in r#"(version: 1\n)?(stages:\n)?([ ]{0,8}[a-z"\[\]:.0-9 ]{0,20}\n){0,12}"#) {
        let _ = parse(&text);
    }

    #[test]
    fn damaged_locks_never_panic(cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
        const TEXT: &str = "version: 1\nstages:\n  a:\n    kind: work\n    recipe: 1\n    key: 00\n    config:\n      \"x y\": 1\n    outputs:\n      out: file tree 1 00\n";
        let mut bytes = TEXT.as_bytes().to_vec();
        let at = cut.index(bytes.len());
        bytes[at] = byte;
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }
}
