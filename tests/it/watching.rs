//! What can be seen of a run: events, logs, traces, and the manual.

use luthier_test::TestProject;
use serde_json::Value;

const YAML: &str = "\
luthier: 1
stages:
  a: {uses: command, with: {run: 'echo a > ${out.file}', outputs: {file: file}}}
  b: {uses: command, in: {from: a}, with: {run: 'cat ${in.from} > ${out.file}', outputs: {file: file}}}
  c: {uses: command, with: {run: 'echo lost >&2; exit 3', outputs: {file: file}}}
  d: {uses: command, in: {from: c}, with: {run: 'cat ${in.from} > ${out.file}', outputs: {file: file}}}
";

fn project() -> TestProject {
    let project = TestProject::new(env!("CARGO_BIN_EXE_luthier"));
    project.file("p.yaml", YAML);
    project
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn events_come_as_lines_with_their_times() {
    let project = project();
    let failed = project.run(&["run", "p.yaml", "--json", "--keep-going"]).failure(1);
    let events = lines(&failed.stdout);
    let times: Vec<f64> = events.iter().map(|event| event["at"].as_f64().expect("a time")).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{times:?}");
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"run_started"), Some(&"run_finished")));
    let schema = project.run(&["schema", "events"]).success().json();
    for kind in kinds {
        assert!(schema.to_string().contains(&format!("\"{kind}\"")), "{kind} is in the schema");
    }
}

#[test]
fn logs_and_traces_are_written_where_asked() {
    let project = project();
    let _ =
        project.run(&["run", "p.yaml", "--until", "b", "--log", "logs/run.jsonl", "--trace", "trace.json"]).success();
    let log = fs_err::read_to_string(project.path().join("logs/run.jsonl")).expect("a log");
    let messages: Vec<String> =
        lines(&log).iter().filter_map(|line| line["message"].as_str().map(str::to_owned)).collect();
    for message in ["run started", "stage started", "stage finished", "run finished"] {
        assert!(messages.iter().any(|found| found == message), "{message} in {messages:?}");
    }
    let trace: Value =
        serde_json::from_str(&fs_err::read_to_string(project.path().join("trace.json")).expect("a trace"))
            .expect("JSON");
    let later = project.run(&["log", "--chrome-trace"]).success().json();
    for trace in [trace, later] {
        let stages: Vec<&str> = trace["traceEvents"]
            .as_array()
            .expect("events")
            .iter()
            .filter(|event| event["cat"] == "stage" && event["ph"] == "X")
            .filter_map(|event| event["name"].as_str())
            .collect();
        assert_eq!(stages, ["a", "b"]);
    }
    let mut wrong = self::project();
    wrong.env("LUTHIER_LOG", "loud=very=much");
    let failed = wrong.run(&["status", "p.yaml", "--log", "x.log"]).failure(2);
    assert!(failed.stderr.contains("LUTHIER_LOG") && failed.stderr.contains("hint:"), "{}", failed.stderr);
}

#[test]
fn the_manual_and_completions_come_from_the_commands() {
    let project = project();
    let page = project.run(&["man"]).success().stdout;
    assert!(page.contains(".TH luthier 1"), "{page}");
    let _ = project.run(&["man", "pages"]).success();
    let run = fs_err::read_to_string(project.path().join("pages/luthier-run.1")).expect("a page");
    assert!(run.contains("keep\\-going"), "{run}");
    assert!(luthier_test::exists(project.path().join("pages/luthier-plugin-new.1")));
    assert!(!luthier_test::exists(project.path().join("pages/luthier-exec-stage.1")), "hidden commands have no page");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(project.run(&["completions", shell]).success().stdout.contains("luthier"), "{shell}");
    }
}

/// A person's terminal is asked for nothing and shown no escapes where there is none.
#[test]
fn pipes_get_plain_lines() {
    let project = project();
    let run = project.run(&["run", "p.yaml", "--keep-going"]).failure(1);
    assert!(!run.stderr.contains('\u{1b}') && !run.stdout.contains('\u{1b}'), "{}", run.stderr);
    assert!(run.stderr.lines().any(|line| line.starts_with("✓ a ")), "{}", run.stderr);
    assert!(run.stderr.contains("lost"), "the last words of a failed command are shown:\n{}", run.stderr);
    let status = project.run(&["status", "p.yaml"]).success();
    assert!(status.stdout.contains("up to date"), "{}", status.stdout);
}

#[test]
fn the_doctor_says_what_each_thing_is_for() {
    let project = project();
    let checks = project.run(&["doctor", "--json"]).success().json();
    let names: Vec<&str> =
        checks.as_array().expect("checks").iter().filter_map(|check| check["name"].as_str()).collect();
    assert_eq!(
        names,
        [
            "processor",
            "memory",
            "disk",
            "gpu driver",
            "cublas",
            "cargo",
            "wasm32-wasip2",
            "pip or uv",
            "npm",
            "python",
            "git"
        ]
    );
    for check in checks.as_array().expect("checks") {
        assert!(check["purpose"].as_str().is_some_and(|text| !text.is_empty()), "{check}");
        assert_eq!(check["ok"] == true, check.get("hint").is_none(), "{check}");
    }
    let mut bare = self::project();
    bare.env("PATH", "");
    let told = bare.run(&["doctor"]).success().stdout;
    assert!(told.contains("hint: `rustup target add wasm32-wasip2`"), "{told}");
}

/// The same changes as a person reads them, from `status` down to the pull request.
#[test]
fn a_change_is_told_from_the_field_to_the_pull_request() {
    let project = project();
    let git = |arguments: &[&str]| {
        let done = std::process::Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(arguments)
            .current_dir(project.path())
            .output()
            .expect("git");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    project.file("q.yaml", YAML.split("  c:").next().expect("two stages"));
    let _ = project.run(&["run", "q.yaml"]).success();
    git(&["init", "-q"]);
    git(&["add", "q.yaml", "q.lock"]);
    git(&["commit", "-q", "-m", "one"]);
    project.edit("q.yaml", "echo a >", "echo b >");
    let status = project.run(&["status", "q.yaml"]).success();
    insta::assert_snapshot!("status_after_a_change", project.filtered(&status.stdout));
    let explained = project.run(&["explain", "q.yaml", "b"]).success();
    insta::assert_snapshot!("explain_after_a_change", project.filtered(&explained.stdout));
    let _ = project.run(&["run", "q.yaml"]).success();
    let diff = project.run(&["diff", "HEAD", "-f", "q.yaml"]).success();
    insta::assert_snapshot!("diff_to_head", project.filtered(&diff.stdout));
    let markdown = project.run(&["diff", "HEAD", "-f", "q.yaml", "--markdown"]).success();
    insta::assert_snapshot!("diff_as_markdown", project.filtered(&markdown.stdout));
}

/// A filter that only moves a threshold reads its scores again, and everybody says so before it does.
#[test]
fn a_moved_threshold_is_told_to_select_again() {
    let project = TestProject::new(env!("CARGO_BIN_EXE_luthier"));
    project.file(
        "f.yaml",
        "luthier: 1\n\
         stages:\n  \
           raw: {uses: ingest, with: {files: rows.jsonl}}\n  \
           clean:\n    \
             uses: filter\n    \
             in: raw\n    \
             with: {steps: [{plugin: 'builtin:length', config: {min_chars: 3}}, {dedup: exact}]}\n",
    );
    let rows: String = (1..40).map(|row| format!("{{\"text\": \"{}\"}}\n", "x".repeat(row))).collect();
    project.file("rows.jsonl", &rows);
    let _ = project.run(&["run", "f.yaml"]).success();
    project.edit("f.yaml", "min_chars: 3", "min_chars: 5");
    let told = |arguments: &[&str]| project.filtered(&project.run(arguments).success().stdout);
    insta::assert_snapshot!(told(&["status", "f.yaml"]), @r"
    ✓ raw       up to date  [DIGEST]
    ▸ clean     steps[0].config.min_chars 3 → 5 (f.yaml:7); selects again by stored scores, judging only rows that now get further  (less than [TIME])
    1 of 2 stages would run, about [TIME] by the last times
    ");
    insta::assert_snapshot!(told(&["explain", "f.yaml", "clean"]), @r"
    clean selects again by stored scores, judging only rows that now get further: steps[0].config.min_chars 3 → 5 (f.yaml:7)
    cost by the last times: at most [TIME] for 1 stage
    ");
    let how = "selects again by stored scores, judging only rows that now get further";
    let plan = project.run(&["plan", "f.yaml", "--json"]).success().json();
    assert_eq!(plan["stages"][1]["action"]["how"], how);
    let explained = project.run(&["explain", "f.yaml", "clean", "--json"]).success().json();
    assert_eq!(explained["action"]["how"], how);
    let forced = project.run(&["plan", "f.yaml", "--force", "clean", "--json"]).success().json();
    assert_eq!(forced["stages"][1]["action"].get("how"), None);
}
