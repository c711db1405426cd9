//! What editors get: a schema that says something of every key, beside every pipeline that is made. That it is a schema, and
//! fits the pipelines, is checked by another program's validator in `tests/schemas`.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_engine::spec::{SCHEMA_FILE, SourceText, parse};
use luthier_test::TestProject;
use serde_json::Value;

fn project() -> TestProject {
    TestProject::new(env!("CARGO_BIN_EXE_luthier"))
}

fn house(path: &str) -> Utf8PathBuf {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn schema() -> Value {
    luthier_engine::spec::schema(&luthier_stages::registry())
}

#[test]
fn every_kind_has_examples() {
    for stage in luthier_stages::registry().stages() {
        let source = SourceText::new(format!("stages/examples/{}.yaml", stage.kind()), stage.examples());
        let examples = parse(&source).unwrap_or_else(|problems| panic!("{}: {problems:?}", source.file())).to_value();
        assert!(examples.as_array().is_some_and(|list| !list.is_empty()), "{} has an example", source.file());
    }
}

/// Walks the properties below a schema.
fn walk(path: &str, schema: &Value, found: &mut dyn FnMut(&str, &Value, bool)) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        found(&path, property, required.contains(&name.as_str()));
        walk(&path, property, found);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            walk(&format!("{path}[]"), &schema[key], found);
        }
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for option in schema[key].as_array().into_iter().flatten() {
            walk(path, option, found);
        }
    }
}

#[test]
fn every_parameter_has_description_default_and_example() {
    let schema = schema();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for rule in schema["$defs"]["stage"]["allOf"].as_array().expect("a rule per kind") {
        let kind = rule["if"]["properties"]["uses"]["const"].as_str().expect("a kind").to_owned();
        walk(&kind, &rule["then"]["properties"]["with"], &mut |path, property, required| {
            count += 1;
            if property["description"].as_str().is_none_or(str::is_empty) {
                wrong.push(format!("{path}: a `///` comment on the field is its description"));
            }
            if !required && property.get("default").is_none() {
                wrong.push(format!(
                    "{path}: `#[serde(default)]`, or `#[schemars(extend(\"default\" = …))]` where it is not serialized"
                ));
            }
            if property["examples"].as_array().is_none_or(Vec::is_empty) {
                wrong.push(format!("{path}: use it in stages/examples/{kind}.yaml"));
            }
        });
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 150, "{count} parameters were looked at");
}

#[test]
fn init_writes_what_an_editor_needs() {
    let project = project();
    let _ = project.run(&["init"]).success();
    let text = fs_err::read_to_string(project.path().join("luthier.yaml")).expect("a pipeline");
    let first = text.lines().next().unwrap_or_default();
    assert_eq!(first, format!("# yaml-language-server: $schema={SCHEMA_FILE}"));
    let written = fs_err::read_to_string(project.path().join(SCHEMA_FILE)).expect("a schema");
    assert_eq!(written, project.run(&["schema"]).success().stdout);
    let plan = project.run(&["plan"]).success();
    assert!(plan.stdout.contains("11 of 11 stages would run"), "{}", plan.stdout);
    // One's own data stays.
    project.file("data/chats.jsonl", "{}\n");
    let _ = project.run(&["init", "--force"]).success();
    assert_eq!(fs_err::read_to_string(project.path().join("data/chats.jsonl")).expect("data"), "{}\n");
}

#[test]
fn pipelines_here_name_the_schema_beside_them() {
    for name in ["instruct.yaml", "llama-8b-24gb.yaml"] {
        let text = fs_err::read_to_string(house("pipelines").join(name)).expect("a pipeline");
        assert!(text.starts_with("# yaml-language-server: $schema=schema.json\n"), "{name}");
    }
}

const AXOLOTL: &str = "\
base_model: org/model
datasets: [{path: rows.jsonl, type: alpaca}]
val_set_size: 0.1
adapter: qlora
load_in_4bit: true
sequence_len: 512
sample_packing: true
lora_r: 8
lora_target_linear: true
micro_batch_size: 2
num_epochs: 1
learning_rate: 2e-4
lr_scheduler: cosine
";

const LLAMA_FACTORY: &str = "\
model_name_or_path: org/model
stage: sft
finetuning_type: lora
lora_target: all
dataset: rows.jsonl
cutoff_len: 512
val_size: 20
learning_rate: 1.0e-4
num_train_epochs: 3.0
optim: adamw_torch
";

#[test]
fn imported_pipelines_load_and_plan() {
    for (from, text) in [("axolotl", AXOLOTL), ("llama-factory", LLAMA_FACTORY)] {
        let project = project();
        project
            .file("peer.yml", text)
            .file("rows.jsonl", "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"}\n");
        let imported = project.run(&["import", from, "peer.yml", "-o", "tuned.yaml"]).success();
        assert!(imported.stderr.contains("keys carried over"), "{}", imported.stderr);
        let plan = project.run(&["plan", "tuned.yaml"]).success();
        assert!(plan.stdout.contains("stages would run"), "{}", plan.stdout);
        let written = fs_err::read_to_string(project.path().join("tuned.yaml")).expect("a pipeline");
        assert!(written.starts_with(&format!("# yaml-language-server: $schema={SCHEMA_FILE}\n")), "{written}");
        let again = project.run(&["import", from, "peer.yml", "-o", "tuned.yaml"]).failure(2);
        assert!(again.stderr.contains("--force"), "{}", again.stderr);
    }
    let project = project();
    project.file("peer.yml", "lora_r: many\n");
    let wrong = project.run(&["import", "axolotl", "peer.yml"]).failure(2);
    assert!(wrong.stderr.contains("peer.yml:1:9") && wrong.stderr.contains("hint:"), "{}", wrong.stderr);
    let missing = project.run(&["import", "axolotl", "pear.yml"]).failure(2);
    assert!(missing.stderr.contains("pear.yml") && missing.stderr.contains("hint:"), "{}", missing.stderr);
}
