//! The schemas that `luthier schema` prints, under a validator that we did not write, and YAML read by a parser of its own.
//!
//! The program is `target/release/luthier`, or what `LUTHIER` names.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn house(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn luthier(directory: &Path, arguments: &[&str]) -> Output {
    let program = std::env::var_os("LUTHIER").map_or_else(|| house("target/release/luthier"), PathBuf::from);
    assert!(program.is_file(), "`{}` is not there; run: cargo build --release", program.display());
    Command::new(program).args(arguments).current_dir(directory).output().expect("the program starts")
}

fn printed(directory: &Path, arguments: &[&str]) -> String {
    String::from_utf8(luthier(directory, arguments).stdout).expect("UTF-8")
}

fn json(arguments: &[&str]) -> Value {
    let text = printed(&house("."), arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

fn yaml(path: &Path) -> Value {
    let text = fs_err::read_to_string(path).expect("a file");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn problems(schema: &Value, value: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(schema).expect("a schema");
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs_err::read_dir(house(directory))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "there are .{extension} files in {directory}");
    found
}

#[test]
fn schemas_are_schemas() {
    for of in ["pipeline", "events"] {
        let schema = json(&["schema", of]);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{of}: {error}"));
    }
    for kind in json(&["stages", "--json"]).as_array().expect("kinds") {
        jsonschema::meta::validate(&kind["with"]).unwrap_or_else(|error| panic!("{}: {error}", kind["kind"]));
    }
}

#[test]
fn every_pipeline_fits() {
    let schema = json(&["schema"]);
    for path in files("pipelines", "yaml").iter().chain(&files("runner/engine/src/spec/templates", "yaml")) {
        assert_eq!(problems(&schema, &yaml(path)), Vec::<String>::new(), "{}", path.display());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let schema = json(&["schema"]);
    for (text, word) in [
        ("luthier: 1\nstages: {raw: {uses: ingest, with: {flies: [x]}}}", "flies"),
        ("luthier: 1\nstages: {t: {uses: train, in: {model: a, data: b}, with: {rank: many}}}", "rank"),
        ("luthier: 1\nstages: {t: {uses: train, with: {rank: 4}}}", "in"),
        ("luthier: 2\nstages: {a: {uses: command}}", "1"),
        ("luthier: 1\nstages: {a: {uses: comand}}", "uses"),
    ] {
        let found = problems(&schema, &serde_saphyr::from_str(text).expect("YAML"));
        assert!(found.iter().any(|problem| problem.contains(word)), "{text}\n{found:#?}");
    }
    let fine = "luthier: 1\nstages: {t: {uses: train, in: {model: a, data: b}, with: {rank: \"${params.rank}\"}}}";
    assert_eq!(problems(&schema, &serde_saphyr::from_str(fine).expect("YAML")), Vec::<String>::new());
}

#[test]
fn examples_of_kinds_fit() {
    for kind in json(&["stages", "--json"]).as_array().expect("kinds") {
        let name = kind["kind"].as_str().expect("a name");
        let examples = yaml(&house(&format!("stages/examples/{name}.yaml")));
        for (index, example) in examples.as_array().expect("a list").iter().enumerate() {
            assert_eq!(problems(&kind["with"], example), Vec::<String>::new(), "stages/examples/{name}.yaml, {index}");
        }
    }
}

#[test]
fn imported_pipelines_fit() {
    let schema = json(&["schema"]);
    let project = tempfile::tempdir().expect("a directory");
    for (from, text) in [
        (
            "axolotl",
            "base_model: o/m\ndatasets: [{path: r.jsonl, type: chat_template, field_messages: t}]\nval_set_size: 0.1\nadapter: qlora\nlora_r: 8\n",
        ),
        (
            "llama-factory",
            "model_name_or_path: o/m\ndataset: r.jsonl\nval_size: 20\nquantization_bit: 4\nlora_target: all\n",
        ),
    ] {
        fs_err::write(project.path().join("peer.yml"), text).expect("written");
        fs_err::write(project.path().join("r.jsonl"), "{}\n").expect("written");
        let made = luthier(project.path(), &["import", from, "peer.yml", "-o", "made.yaml", "--force"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert_eq!(problems(&schema, &yaml(&project.path().join("made.yaml"))), Vec::<String>::new(), "{from}");
    }
}

const YAML: &str = "\
luthier: 1
stages:
  a: {uses: command, with: {run: 'echo a > ${out.file}', outputs: {file: file}}}
  b: {uses: command, in: {from: a}, with: {run: 'cat ${in.from} > ${out.file}', outputs: {file: file}}}
  c: {uses: command, with: {run: 'echo lost >&2; exit 3', outputs: {file: file}}}
  d: {uses: command, in: {from: c}, with: {run: 'cat ${in.from} > ${out.file}', outputs: {file: file}}}
";

#[test]
fn events_are_what_their_schema_says() {
    let schema = json(&["schema", "events"]);
    let project = tempfile::tempdir().expect("a directory");
    fs_err::write(project.path().join("p.yaml"), YAML).expect("written");
    let mut kinds = std::collections::BTreeSet::new();
    let check = |event: &Value| {
        let wrong = problems(&schema, event);
        assert!(wrong.is_empty(), "{event}\n{wrong:#?}");
    };
    for arguments in [["run", "p.yaml", "--json", "--keep-going"], ["run", "p.yaml", "--json", "--until=b"]] {
        for line in printed(project.path(), &arguments).lines() {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            check(&event);
            kinds.insert(event["type"].as_str().expect("a type").to_owned());
        }
    }
    for kind in [
        "run_started",
        "stage_started",
        "stage_event",
        "stage_finished",
        "stage_failed",
        "stage_blocked",
        "stage_reused",
        "run_finished",
    ] {
        assert!(kinds.contains(kind), "{kind} in {kinds:?}");
    }
    let kept: Value = serde_json::from_str(&printed(project.path(), &["log", "last", "--json"])).expect("JSON");
    kept.as_array().expect("a list").iter().for_each(check);
    let lacking = serde_json::json!({"at": 1.0, "type": "stage_blocked", "stage": "d"});
    assert!(!problems(&schema, &lacking).is_empty(), "an event without `by` is refused");
}
