use luthier_core::{ArtifactKind, StageId};
use serde_json::json;

use super::Bench;
use crate::pipeline::Pipeline;

pub(super) const WORDS: &str = r#"luthier: 1
name: words
params: {rank: 16, seed: 7, data: train.jsonl}
stages:
  gguf:                                   # the order of the file means nothing
    uses: command
    in: {model: merged}
    with: {run: "convert ${in.model} > ${out.gguf}", outputs: {gguf: gguf}}
  base: {uses: fetch, with: {from: "pkg:pypi/x"}}
  raw:
    uses: ingest
    with: {files: [${params.data}], map: {prompt: "{{ row.a }}"}}
  clean: {uses: filter, in: raw, with: {steps: [{plugin: ./a, config: {max: 2}}]}}
  split: {uses: split, in: clean, with: {seed: "${params.seed}", parts: {test: 10, train: rest}}}
  tokens: {uses: tokenize, in: {model: base, data: split.train}}
  adapter:
    uses: train
    in: {model: base, data: tokens}
    with:
      rank: ${params.rank}
      learning_rate: 1e-3
    resources: {threads: 2, memory: 4GB}
    retries: 2
  merged: {uses: merge, in: {model: base, adapters: adapter}}
"#;

pub(super) fn id(text: &str) -> StageId {
    StageId::new(text).expect("a valid name")
}

pub(super) fn stage<'a>(pipeline: &'a Pipeline, name: &str) -> &'a crate::pipeline::PlannedStage {
    pipeline.stage(&id(name)).unwrap_or_else(|| panic!("no stage {name}"))
}

fn names(stages: impl IntoIterator<Item = StageId>) -> Vec<String> {
    stages.into_iter().map(|stage| stage.to_string()).collect()
}

#[test]
fn loads_a_pipeline_in_topological_order() {
    let pipeline = Bench::new().load(WORDS);
    assert_eq!(pipeline.name, "words");
    let order: Vec<&str> = pipeline.stages.iter().map(|stage| stage.id.as_str()).collect();
    assert_eq!(order, ["base", "raw", "clean", "split", "tokens", "adapter", "merged", "gguf"]);
    assert_eq!(pipeline.params["rank"], json!(16));
    let adapter = stage(&pipeline, "adapter");
    assert_eq!(adapter.prepared.config["rank"], json!(16));
    assert_eq!(adapter.prepared.config["learning_rate"], json!(0.001));
    assert_eq!((adapter.prepared.resources.threads, adapter.prepared.resources.memory), (2, 4_000_000_000));
    assert_eq!(adapter.retries, Some(2));
    assert_eq!(adapter.location.to_string().rsplit('/').next(), Some("pipeline.yaml:16:3"));
    assert_eq!(adapter.dependencies().map(StageId::as_str).collect::<Vec<_>>(), ["base", "tokens"]);
    let inputs = |name: &str| {
        let inputs = &stage(&pipeline, name).inputs;
        inputs.iter().map(|(port, from)| format!("{port}: {}", from[0])).collect::<Vec<_>>()
    };
    assert_eq!(inputs("tokens"), ["data: split.train", "model: base.model"]);
    assert_eq!(inputs("split"), ["data: clean.kept"], "a filter's name alone means what it keeps");
    assert_eq!(inputs("merged"), ["adapters: adapter.adapter", "model: base.model"]);
    assert_eq!(stage(&pipeline, "gguf").prepared.outputs[0].kind, ArtifactKind::Gguf);
    assert_eq!(stage(&pipeline, "gguf").prepared.config["run"], json!("convert ${in.model} > ${out.gguf}"));
}

#[test]
fn knows_where_each_value_is_written() {
    let pipeline = Bench::new().load(WORDS);
    let place = |name: &str, path: &str| {
        let location = stage(&pipeline, name).location_of(path);
        format!("{}:{}", location.line, location.column)
    };
    assert_eq!(place("clean", "steps[0].config.max"), "13:77");
    assert_eq!(place("clean", "steps[0].config"), "13:63", "a block is shown at its key");
    assert_eq!(place("clean", "steps[3]"), "13:41", "what is not written, at the block around it");
    assert_eq!(place("adapter", "rank"), "20:13", "a parameter where it is used");
    assert_eq!(place("adapter", "targets[0]"), "19:5", "a default at the whole `with`");
    assert_eq!(place("merged", "anything"), "24:3", "no `with` at all: the stage");
    assert_eq!(place("raw", "map.prompt"), "12:51");
    assert_eq!(place("raw", "map[\"prompt\"]"), "12:51");
}

#[test]
fn walks_the_graph() {
    let pipeline = Bench::new().load(WORDS);
    let graph = &pipeline.graph;
    assert_eq!(names(graph.cone_down(&id("split"))), ["adapter", "gguf", "merged", "split", "tokens"]);
    assert_eq!(names(graph.cone_up(&id("tokens"))), ["base", "clean", "raw", "split", "tokens"]);
    assert_eq!(names(graph.dependents(&id("base"))), ["adapter", "merged", "tokens"]);
    assert_eq!(names(graph.dependencies(&id("adapter"))), ["base", "tokens"]);
    assert!(graph.cone_down(&id("nowhere")).is_empty());
    insta::assert_snapshot!("graph_text", graph.to_text());
    insta::assert_snapshot!("graph_dot", graph.to_dot());
    insta::assert_snapshot!("graph_mermaid", graph.to_mermaid());
    insta::assert_snapshot!("graph_json", serde_json::to_string_pretty(&graph.to_json()).expect("JSON"));
}

#[test]
fn overrides_are_yaml_scalars() {
    let bench = Bench::new();
    let load = |overrides: &[(&str, &str)]| bench.load_with(WORDS, overrides).expect("valid");
    assert_eq!(stage(&load(&[("rank", "32")]), "adapter").prepared.config["rank"], json!(32));
    assert_eq!(load(&[("data", "more.jsonl")]).params["data"], json!("more.jsonl"));
    assert_eq!(load(&[("seed", "1"), ("seed", "2")]).params["seed"], json!(2), "the last one counts");
    for (text, value) in [
        ("0x10", json!(16)),
        ("1e-3", json!(0.001)),
        ("no", json!("no")),
        ("'12'", json!("12")),
        ("a: b # c", json!("a: b # c")),
        ("[1, two]", json!([1, "two"])),
        ("", json!(null)),
    ] {
        let text_pipeline = "luthier: 1\nparams: {x: 1}\nstages: {raw: {uses: ingest}}\n";
        assert_eq!(bench.load_with(text_pipeline, &[("x", text)]).expect("valid").params["x"], value, "{text:?}");
    }
}

#[test]
fn replaces_references_with_their_type_or_as_text() {
    let bench = Bench::new();
    let pipeline = bench.load(
        r#"luthier: 1
params: {dir: data, n: 3, files: [train.jsonl], half: "${params.n}.5", corpus: "${env.CORPUS}"}
stages:
  raw:
    uses: ingest
    with:
      files: ${params.files}
      map: {a: "${params.dir}/${params.n}", b: "$${params.n}", c: "x$${", d: "${params.half}", e: "100 $", f: "${params.corpus}"}
    env: {LEVEL: "${params.n}"}
  sorted:
    uses: command
    in: raw
    with: {run: "echo ${env.CORPUS} $${HOME} $${in.raw} ${in.raw} > ${out.sorted}", outputs: {sorted: file}}
"#,
    );
    let raw = stage(&pipeline, "raw");
    assert_eq!(
        raw.prepared.config,
        json!({"files": ["train.jsonl"],
            "map": {"a": "data/3", "b": "${params.n}", "c": "x${", "d": "3.5", "e": "100 $", "f": "wiki"}})
    );
    assert_eq!(raw.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["CORPUS=wiki", "LEVEL=3"]);
    let sorted = stage(&pipeline, "sorted");
    assert_eq!(sorted.prepared.config["run"], json!("echo wiki ${HOME} $${in.raw} ${in.raw} > ${out.sorted}"));
    assert_eq!(sorted.env["CORPUS"], "wiki");
    assert_eq!(sorted.inputs["raw"][0].to_string(), "raw.dataset", "a free port is named after its stage");
}

#[test]
fn anchors_and_merge_keys_work() {
    let pipeline = Bench::new().load(
        "luthier: 1\nstages:\n  a: &common\n    uses: ingest\n    with: {files: &files [train.jsonl]}\n  b:\n    <<: *common\n    about: again\n  c: {uses: ingest, with: {files: *files, map: {no: \"1\"}}}\n",
    );
    assert_eq!(stage(&pipeline, "b").prepared.config["files"], json!(["train.jsonl"]));
    assert_eq!(stage(&pipeline, "b").about.as_deref(), Some("again"));
    assert_eq!(stage(&pipeline, "c").prepared.config, json!({"files": ["train.jsonl"], "map": {"no": "1"}}));
}

#[test]
fn the_file_names_a_pipeline_without_a_name() {
    assert_eq!(Bench::new().load("luthier: 1\nstages: {raw: {uses: ingest}}\n").name, "pipeline");
}
