use luthier_core::{ArtifactKind, ErrorClass};
use serde_json::json;

use super::CommandStage;
use crate::testing::Bench;

#[test]
fn runs_a_shell_line_over_inputs_files_and_outputs() {
    let mut bench = Bench::new();
    let words = bench.write("with space/words.txt", "b\na\n");
    bench.write("tail.txt", "z\n");
    bench.input("words", ArtifactKind::File, &words);
    let with = json!({"run": "sort ${in.words} ${file.tail} > ${out.sorted}", "outputs": {"sorted": "file"}, "files": {"tail": "tail.txt"}});
    let done = bench.run(&CommandStage, &with).expect("runs");
    assert_eq!(fs_err::read_to_string(done.out.join("sorted")).expect("an output"), "a\nb\nz\n");
}

#[test]
fn a_list_needs_no_shell() {
    let mut bench = Bench::new();
    let with =
        json!({"run": ["cp", "${file.a}", "${out.copy}"], "outputs": {"copy": "file"}, "files": {"a": "a b.txt"}});
    bench.write("a b.txt", "x");
    let done = bench.run(&CommandStage, &with).expect("runs");
    assert_eq!(fs_err::read_to_string(done.out.join("copy")).expect("an output"), "x");
}

#[test]
fn sees_only_declared_variables() {
    let mut bench = Bench::new();
    let with = json!({"run": "echo \"$GREETING,$CARGO_MANIFEST_DIR\" > ${out.text}", "outputs": {"text": "file"}, "env": {"GREETING": "hello"}});
    let done = bench.run(&CommandStage, &with).expect("runs");
    assert_eq!(fs_err::read_to_string(done.out.join("text")).expect("an output"), "hello,\n");
}

#[test]
fn failures_say_how_and_repeat_the_last_lines() {
    let mut bench = Bench::new();
    let fails = json!({"run": "echo no such luck >&2; exit 3", "outputs": {"x": "file"}});
    let error = bench.run(&CommandStage, &fails).expect_err("fails");
    assert_eq!(error.message, "the command ended with exit code 3");
    assert_eq!(std::error::Error::source(&error).expect("a cause").to_string(), "no such luck");
    let silent = json!({"run": "true", "outputs": {"x": "file"}});
    assert_eq!(
        bench.run(&CommandStage, &silent).expect_err("no output").message,
        "the command ended well but did not write `x`"
    );
    let absent = json!({"run": ["no-such-program-here"], "outputs": {"x": "file"}});
    assert_eq!(
        bench.run(&CommandStage, &absent).expect_err("absent").message,
        "`no-such-program-here` cannot be started"
    );
}

#[test]
fn a_background_child_does_not_outlive_the_stage() {
    let mut bench = Bench::new();
    let with = json!({"run": "sleep 600 & echo done > ${out.x}", "outputs": {"x": "file"}});
    bench.run(&CommandStage, &with).expect("ends with the shell");
}

#[test]
fn cancellation_and_time_out_kill_it() {
    let mut bench = Bench::new();
    let late = json!({"run": "sleep 600", "outputs": {"x": "file"}, "timeout": 1});
    assert_eq!(bench.run(&CommandStage, &late).expect_err("late").message, "the command ran longer than 1 s");
    bench.cancel.cancel();
    let asked = json!({"run": "sleep 600", "outputs": {"x": "file"}});
    assert_eq!(bench.run(&CommandStage, &asked).expect_err("asked to stop").class, ErrorClass::Interrupted);
}

#[test]
fn undeclared_names_are_refused_before_anything_runs() {
    let bench = Bench::new();
    let with = json!({"run": "cat ${file.tial} > ${out.y}", "outputs": {"x": "file"}, "files": {"tail": "t"}});
    assert_eq!(
        bench.issues(&CommandStage, &with),
        [
            "run | `${file.tial}` is not declared | did you mean `${file.tail}`?",
            "run | `${out.y}` is not declared | did you mean `${out.x}`?",
        ]
    );
}
