//! A scaffold of each language: built by its toolchain, tested, run on many rows, and held to the limits. A language whose
//! toolchain is missing is skipped with the command that installs it.

use std::io::Write;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use luthier_plugins::author::{Workshop, inspect, run_cases, scaffold};
use luthier_plugins::{JudgeError, Language, Limits, OnTrap, PluginComponent, TextBatch, TextColumn, Worker};
use serde_json::json;

struct Made {
    _held: tempfile::TempDir,
    directory: Utf8PathBuf,
}

fn made(language: Language) -> Made {
    let held = tempfile::tempdir().expect("a scaffold that works");
    let directory = Utf8Path::from_path(held.path()).expect("a scaffold that works").join("no-urls");
    scaffold(&directory, language).expect("a scaffold that works");
    Made { _held: held, directory }
}

impl Made {
    /// The plugin, or `None` if the toolchain is missing.
    fn load(&self) -> Option<PluginComponent> {
        let workshop = Workshop { cache: Utf8Path::new(env!("CARGO_TARGET_TMPDIR")), offline: true, jobs: 2 };
        match workshop.load(&self.directory, Limits { timeout_ms: 60_000, ..Limits::DEFAULT }) {
            Err(error) if error.code == "plugin::no_tool" => {
                let _ = writeln!(std::io::stderr(), "skipped: {error} (hint: {})", error.hints.join("; "));
                None
            }
            Err(error) => panic!("{error}\n{:?}", std::error::Error::source(&error)),
            Ok(plugin) => Some(plugin),
        }
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.directory.join(file);
        let text = fs_err::read_to_string(&path).expect("a scaffold that works");
        assert!(text.contains(from), "`{from}` is not in {file}");
        fs_err::write(path, text.replace(from, to)).expect("a scaffold that works");
    }

    /// Runs the scaffold's own tests, where the interpreter is installed.
    fn run_unit_tests(&self, program: &str, arguments: &[&str]) {
        let run = Command::new(program).args(arguments).current_dir(&self.directory).output();
        match run {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let _ = writeln!(std::io::stderr(), "skipped: `{program}` is not installed");
            }
            run => {
                let run = run.expect("a scaffold that works");
                assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            }
        }
    }
}

fn batch(texts: &[String]) -> TextBatch<'static> {
    TextBatch {
        texts: TextColumn::from_texts(texts.iter().map(String::as_str)).expect("a scaffold that works"),
        reads: vec![],
    }
}

/// What every scaffold does.
fn counts_links(made: &Made) -> Option<PluginComponent> {
    let plugin = made.load()?;
    let report = run_cases(&plugin, &made.directory.join("cases.jsonl")).expect("a scaffold that works");
    assert_eq!((report.passed, report.failed), (2, 0), "{report:?}");
    let inspection = inspect(&plugin);
    assert_eq!(inspection.manifest.name, "no-urls");
    assert_eq!(inspection.manifest.about, "Drops texts with many links.");
    let max = &inspection.manifest.config_schema["properties"]["max"];
    assert_eq!((&max["type"], &max["default"], &max["minimum"]), (&json!("integer"), &json!(2), &json!(0)));
    assert_eq!(max["description"], "Most links that a text may have.");

    let texts: Vec<String> = (0..2_000).map(|row| "é http://x ".repeat(row % 5)).collect();
    let mut worker = Worker::open(&plugin, &json!({"max": 1})).expect("a scaffold that works");
    let once = worker.judge(&batch(&texts), OnTrap::Fail).expect("a scaffold that works");
    for row in 0..texts.len() {
        assert_eq!((once.drop[row], once.scores[row]), (u8::from(row % 5 > 1), (row % 5) as f32), "row {row}");
    }
    assert_eq!(
        worker.judge(&batch(&texts), OnTrap::Fail).expect("a scaffold that works"),
        once,
        "a session is used for many batches"
    );
    Some(plugin)
}

/// What is said about a row that makes the plugin fail, and one that makes it look for a file.
fn failures(plugin: &PluginComponent) -> String {
    let mut worker = Worker::open(plugin, &json!({})).expect("a scaffold that works");
    let said = ["bad", "file"].map(|text| {
        let texts: Vec<String> = (0..100).map(|row| if row == 70 { text } else { "no link" }.to_owned()).collect();
        match worker.judge(&batch(&texts), OnTrap::Fail) {
            Err(JudgeError::Row(failed)) => format!("{text}: row {}: {}", failed.row, failed.fault),
            other => panic!("expected a row that fails, got {other:?}"),
        }
    });
    said.join("\n")
}

#[test]
fn python() {
    let made = made(Language::Python);
    made.run_unit_tests("python3", &["-m", "unittest"]);
    made.edit("judge.py", "    return drop", "    if row.text == \"bad\": row.text[9]\n    if row.text == \"file\": open(\"/etc/hostname\")\n    return drop");
    let Some(plugin) = counts_links(&made) else { return };
    insta::assert_snapshot!(failures(&plugin), @"
    bad: row 70: refused the row: IndexError at judge.py:25: string index out of range
    file: row 70: trapped: wasm `unreachable` instruction executed
    ");
}

#[test]
fn javascript() {
    let made = made(Language::JavaScript);
    made.run_unit_tests("node", &["--test"]);
    made.edit("judge.js", "scores.links", "if (row.text === \"bad\") scores.nothing = row.text.at(9).length;\n  if (row.text === \"file\") fetch(\"http://localhost\");\n  scores.links");
    let Some(plugin) = counts_links(&made) else { return };
    insta::assert_snapshot!(failures(&plugin), @r#"
    bad: row 70: refused the row: TypeError: can't access property "length", row.text.at(...) is undefined
    file: row 70: trapped: wasm `unreachable` instruction executed
    "#);
}

#[test]
fn c() {
    let made = made(Language::C);
    fs_err::create_dir(made.directory.join("target")).unwrap();
    made.run_unit_tests("cc", &["test.c", "judge.c", "luthier/luthier.c", "-o", "target/test"]);
    if made.directory.join("target/test").is_file() {
        made.run_unit_tests("./target/test", &[]);
    }
    made.edit("judge.c", "    scores[0]", "    if (row->text.length == 3) __builtin_trap();\n    if (row->text.length == 4) return luthier_refuse(\"no\");\n    scores[0]");
    let Some(plugin) = counts_links(&made) else { return };
    insta::assert_snapshot!(failures(&plugin), @r"
    bad: row 70: trapped: wasm `unreachable` instruction executed
    file: row 70: refused the row: no
    ");

    // There is no file that could be opened, and nobody reads what is printed.
    made.edit(
        "judge.c",
        "return luthier_refuse(\"no\")",
        "return luthier_refuse(fopen(\"/etc/hostname\", \"r\") ? \"open\" : \"no such file\")",
    );
    made.edit("judge.c", "#include <string.h>", "#include <stdio.h>\n#include <string.h>");
    made.edit("judge.c", "__builtin_trap()", "printf(\"%zu\\n\", row->text.length), fflush(stdout)");
    let plugin = made.load().expect("it was built before");
    insta::assert_snapshot!(failures(&plugin), @r"
    bad: row 70: called `wasi:io/streams@0.2.12#[method]output-stream.blocking-write-and-flush`, which filters have no access to
    file: row 70: refused the row: no such file
    ");

    made.edit("judge.c", "static double most;", "static double most = \"\";");
    let workshop = Workshop { cache: Utf8Path::new(env!("CARGO_TARGET_TMPDIR")), offline: true, jobs: 2 };
    let error = workshop.build(&made.directory).unwrap_err();
    assert_eq!(error.message, "plugin `no-urls` does not compile");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("judge.c:17:"), "{cause}");
}
