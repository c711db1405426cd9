//! A test per reason: what changed, and how it reads.

use std::sync::atomic::Ordering;

use crate::fingerprint::DirtyReason;
use crate::run::{Action, RunOptions};
use crate::testkit::{Bench, id, plan_text, redact};

const YAML: &str = "\
luthier: 1
stages:
  a:
    uses: work
    with:
      text: one
      steps: [{max: 0.1}, {max: 3}]
  b: {uses: work, in: a}
";

fn ran() -> Bench {
    let bench = Bench::new(YAML);
    bench.run();
    bench
}

fn plan(bench: &Bench) -> String {
    redact(&plan_text(&bench.plan(&bench.options())), &bench.root)
}

/// The reasons recorded for the stage when it ran.
fn recorded(bench: &Bench, stage: &str) -> Vec<DirtyReason> {
    bench.run();
    bench.store().latest(&bench.pipeline()).expect("records")[&id(stage)].why.clone()
}

fn text(reasons: &[DirtyReason]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn first_run() {
    assert_eq!(plan(&Bench::new(YAML)), "a: run (never run before)\nb: run (never run before)\n");
}

#[test]
fn up_to_date() {
    assert_eq!(plan(&ran()), "a: reuse\nb: reuse\n");
}

#[test]
fn config_changed() {
    let bench = ran();
    bench.edit("max: 0.1", "max: 0.12");
    bench.edit("text: one", "quiet: true");
    assert_eq!(
        plan(&bench),
        "a: run (steps[0].max 0.1 → 0.12 (p.yaml:7); text one → \"\" (p.yaml:5))\nb: run (a will run)\n"
    );
    let why = recorded(&bench, "a");
    let DirtyReason::ConfigChanged { path, location: Some(location), .. } = &why[0] else { panic!("{why:?}") };
    assert_eq!((path.as_str(), location.line), ("steps[0].max", 7));
}

#[test]
fn config_elements_added_and_removed() {
    let bench = ran();
    bench.edit("[{max: 0.1}, ", "[{min: 1}, {max: 0.1}, ");
    assert_eq!(plan(&bench).lines().next(), Some("a: run (steps[0] added: {\"min\":1} (p.yaml:7))"));
    let bench = ran();
    bench.edit(", {max: 3}]", "]");
    assert_eq!(plan(&bench).lines().next(), Some("a: run (steps[1] removed (was {\"max\":3}) (p.yaml:7))"));
}

#[test]
fn kind_changed() {
    let bench = ran();
    bench.edit("  a:\n    uses: work", "  a:\n    uses: labour");
    assert_eq!(plan(&bench).lines().next(), Some("a: run (uses: work → labour)"));
}

#[test]
fn recipe_changed() {
    let bench = ran();
    bench.recipe.store(2, Ordering::Relaxed);
    assert_eq!(plan(&bench), "a: run (recipe version 1 → 2)\nb: run (recipe version 1 → 2; a will run)\n");
    bench.run();
    assert_eq!(plan(&bench), "a: reuse\nb: reuse\n");
}

#[test]
fn input_changed() {
    let bench = ran();
    bench.edit("text: one", "text: two");
    let why = recorded(&bench, "b");
    assert_eq!(text(&why), format!("input data changed: a.out {} → {}", short("one"), short("two")));
    bench.edit("in: a", "in: {more: [a]}");
    assert_eq!(
        text(&recorded(&bench, "b")),
        format!("input data removed: data (was {}); input more added: a.out {}", short("two"), short("two"))
    );
}

fn short(text: &str) -> String {
    luthier_core::Digest::of(text.as_bytes()).short()
}

#[test]
fn names_count_only_where_inputs_are_gathered() {
    let bench = ran();
    bench.edit("  a:\n", "  renamed:\n");
    bench.edit("in: a", "in: renamed");
    assert_eq!(plan(&bench), "renamed: reuse\nb: reuse\n", "a new name costs nothing");
    bench.edit("in: renamed", "in: {more: [renamed]}");
    bench.run();
    bench.edit("  renamed:\n", "  again:\n");
    bench.edit("[renamed]", "[again]");
    let DirtyReason::InputChanged { from, .. } = &recorded(&bench, "b")[0] else { panic!("an input") };
    assert_eq!(from, "again.out", "a stage that gathers may label by name");
}

#[test]
fn source_changed() {
    let bench = ran();
    bench.write("in.txt", "x");
    bench.edit("text: one", "file: in.txt");
    assert!(plan(&bench).contains("source file added: in.txt"));
    bench.run();
    bench.write("in.txt", "y");
    assert_eq!(plan(&bench).lines().next(), Some("a: run (source file changed: in.txt)"));
    bench.edit("file: in.txt", "quiet: false");
    assert_eq!(plan(&bench).lines().next(), Some("a: run (source file removed)"));
}

#[test]
fn numeric_class_changed() {
    let bench = ran();
    bench.edit("text: one", "text: one\n      class: cpu-f32");
    let first = plan(&bench).lines().next().map(str::to_owned);
    assert_eq!(
        first.as_deref(),
        Some("a: run (class null → cpu-f32 (p.yaml:7); numeric class none → cpu-f32)"),
        "the test stage also has it among its parameters"
    );
}

#[test]
fn env_changed() {
    let old = bench_print(&[("HOME", "x")]);
    let new = bench_print(&[("HOME", "y"), ("LANG", "C")]);
    let reasons = old.diff(&new, &crate::fingerprint::Origin::default());
    assert_eq!(text(&reasons), "environment variable HOME changed; environment variable LANG added");
    assert_eq!(
        text(&new.diff(&old, &crate::fingerprint::Origin::default())),
        "environment variable HOME changed; environment variable LANG removed"
    );
}

fn bench_print(env: &[(&str, &str)]) -> crate::fingerprint::Fingerprint {
    crate::fingerprint::Fingerprint {
        version: crate::fingerprint::FORMAT,
        kind: "work".to_owned(),
        recipe: 1,
        config: serde_json::json!({}),
        inputs: Default::default(),
        sources: Default::default(),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), luthier_core::Digest::of(value.as_bytes()))).collect(),
        numeric_class: None,
    }
}

#[test]
fn output_missing_and_corrupt() {
    let bench = ran();
    let store = bench.store();
    let path = store.artifact_path(&store.latest(&bench.pipeline()).expect("records")[&id("a")].outputs["out"]);
    fs_err::remove_file(&path).expect("removed");
    assert_eq!(plan(&bench).lines().next(), Some("a: run (output out is missing from the store)"));
    fs_err::write(&path, "something else").expect("written");
    assert_eq!(plan(&bench).lines().next(), Some("a: run (output out in the store is damaged)"));
}

#[test]
fn forced() {
    let bench = ran();
    let options = RunOptions { force: vec![id("a")], ..bench.options() };
    assert_eq!(plan_text(&bench.plan(&options)), "a: run (forced)\nb: run (a will run)\n");
    bench.executed();
    bench.try_run(&options).expect("the run starts");
    assert_eq!(bench.executed(), ["a"], "it made the same bytes, so `b` is reused");
}

#[test]
fn estimates_come_from_the_last_run() {
    let bench = ran();
    bench.edit("text: one", "text: two");
    let plan = bench.plan(&bench.options());
    assert!(plan.estimate_seconds().is_some_and(|seconds| seconds >= 0.0));
    let Some(Action::Run { key, .. }) = plan.action(&id("b")) else { panic!("b runs") };
    assert_eq!(*key, None, "the key is not known before `a` has run");
    bench.edit("  b:", "  z: {uses: work}\n  b:");
    assert_eq!(bench.plan(&bench.options()).estimate_seconds(), None, "`z` was never timed");
}

#[test]
fn a_declared_environment_value_changed() {
    let bench = ran();
    bench.edit("  b: {uses: work, in: a}", "  b: {uses: work, in: a, env: {LEVEL: one}}");
    assert_eq!(plan(&bench), "a: reuse\nb: run (environment variable LEVEL added)\n");
    bench.run();
    bench.edit("LEVEL: one", "LEVEL: two");
    assert_eq!(plan(&bench), "a: reuse\nb: run (environment variable LEVEL changed)\n");
    bench.edit(", env: {LEVEL: two}", "");
    assert_eq!(plan(&bench), "a: reuse\nb: reuse\n", "its result without the variable is still known");
}

/// As plugins are: a directory whose content counts, whatever its files are called by.
#[test]
fn a_source_tree_changed() {
    let bench = ran();
    bench.write("plugin/src/lib.rs", "fn keep() {}");
    bench.write("plugin/target/junk", "built");
    bench.edit("text: one", "directory: plugin");
    bench.run();
    bench.write("plugin/target/junk", "built anew");
    assert_eq!(plan(&bench).lines().next(), Some("a: reuse"), "what is built is no source");
    bench.write("plugin/src/lib.rs", "fn keep() -> bool { true }");
    assert_eq!(plan(&bench).lines().next(), Some("a: run (source directory changed: plugin)"));
    bench.run();
    bench.write("plugin/src/more.rs", "");
    assert_eq!(plan(&bench).lines().next(), Some("a: run (source directory changed: plugin)"));
}

#[test]
fn members_of_a_matrix_come_and_go() {
    let bench = Bench::new(
        "luthier: 1\nstages:\n  a: {uses: work, with: {text: one}}\n  m: {uses: work, in: a, with: {text: \"${matrix.x}\"}, matrix: {x: [p, q]}}\n  g: {uses: work, in: {more: [m]}}\n",
    );
    bench.run();
    bench.edit("[p, q]", "[p, q, r]");
    assert_eq!(
        plan(&bench),
        "a: reuse\nm@x=p: reuse\nm@x=q: reuse\nm@x=r: run (never run before)\ng: run (m@x=r will run)\n"
    );
    let why = text(&recorded(&bench, "g"));
    assert!(why.starts_with("input more added: m@x=r.out "), "{why}");
    bench.edit("[p, q, r]", "[p, r]");
    assert!(
        plan(&bench).lines().next_back().is_some_and(|line| line.starts_with("g: run (input more changed: m@x=r.out "))
    );
    bench.edit("with: {text: \"${matrix.x}\"}", "with: {text: \"${matrix.x}\", keep: 2}");
    assert!(plan(&bench).contains("m@x=p: run (keep 0 → 2 (p.yaml:4))\n"), "{}", plan(&bench));
}
