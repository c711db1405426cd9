use serde_json::json;

use super::Bench;
use super::pipeline::{id, stage};

const SWEEP: &str = r#"luthier: 1
stages:
  base: {uses: fetch, with: {from: x}}
  raw: {uses: ingest}
  tokens: {uses: tokenize, in: {model: base, data: raw}}
  adapter:
    uses: train
    in: {model: base, data: tokens}
    with: {rank: "${matrix.rank}", learning_rate: "${matrix.lr}"}
    matrix: {rank: [8, 16], lr: [1e-3, 2e-4]}
  all: {uses: merge, in: {model: base, adapters: adapter}}
  eights: {uses: merge, in: {model: base, adapters: "adapter@rank=8"}}
  one: {uses: merge, in: {model: base, adapters: ["adapter@lr=0.001,rank=16.adapter"]}}
  glob: {uses: merge, in: {model: base, adapters: "adapt*@lr=*2"}}
  pair:
    uses: merge
    in: {model: base, adapters: adapter}
    matrix: {lr: [2e-4, 1e-3], rank: [16]}
  ranks:
    uses: merge
    in: {model: base, adapters: adapter}
    matrix: {rank: [8]}
"#;

#[test]
fn members_have_the_values_in_written_order() {
    let pipeline = Bench::new().load(SWEEP);
    let ids: Vec<&str> =
        pipeline.stages.iter().filter(|stage| stage.group == id("adapter")).map(|stage| stage.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "adapter@rank=8,lr=0.001",
            "adapter@rank=8,lr=0.0002",
            "adapter@rank=16,lr=0.001",
            "adapter@rank=16,lr=0.0002"
        ]
    );
    let last = stage(&pipeline, "adapter@rank=16,lr=0.0002");
    assert_eq!(last.prepared.config["rank"], json!(16));
    assert_eq!(last.prepared.config["learning_rate"], json!(0.0002));
    assert_eq!(last.matrix, [("rank".to_owned(), json!(16)), ("lr".to_owned(), json!(0.0002))]);
}

#[test]
fn readers_gather_pick_and_pair() {
    let pipeline = Bench::new().load(SWEEP);
    let adapters = |name: &str| {
        stage(&pipeline, name).inputs["adapters"].iter().map(|input| input.stage.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(adapters("all").len(), 4);
    assert_eq!(adapters("eights"), ["adapter@rank=8,lr=0.001", "adapter@rank=8,lr=0.0002"]);
    assert_eq!(adapters("one"), ["adapter@rank=16,lr=0.001"]);
    assert_eq!(adapters("glob"), ["adapter@rank=8,lr=0.0002", "adapter@rank=16,lr=0.0002"]);
    assert_eq!(adapters("pair@lr=0.001,rank=16"), ["adapter@rank=16,lr=0.001"], "equal keys pair, in any order");
    assert_eq!(adapters("ranks@rank=8"), ["adapter@rank=8,lr=0.001", "adapter@rank=8,lr=0.0002"]);
}

#[test]
fn selection_takes_groups_members_and_patterns() {
    let pipeline = Bench::new().load(SWEEP);
    let select = |pattern: &str| pipeline.select(pattern).map(|found| found.len());
    assert_eq!(select("base"), Ok(1));
    assert_eq!(select("adapter"), Ok(4));
    assert_eq!(select("adapter@rank=8"), Ok(2));
    assert_eq!(select("adapter@lr=1e-3,rank=8"), Ok(1));
    assert_eq!(select("adapter@rank=8,lr=0.001"), Ok(1));
    assert_eq!(select("adapter@*"), Ok(4));
    assert_eq!(select("*"), Ok(pipeline.stages.len()));
    assert_eq!(select("?ase"), Ok(1));
    let unknown = pipeline.select("adaptor").expect_err("misspelt");
    assert_eq!(
        format!("{unknown}; {}", unknown.hint()),
        "the pipeline has no stage `adaptor`; did you mean `adapter`?"
    );
    let far = pipeline.select("zebra").expect_err("unknown");
    assert_eq!(
        far.hint(),
        "stages are `base`, `raw`, `tokens`, `adapter`, `all`, `eights`, `one`, `glob`, `pair`, `ranks`"
    );
    assert!(pipeline.select("adapter@rank=32").is_err());
    assert!(pipeline.select("base@*").is_err());
}

#[test]
fn values_may_come_from_params_and_hold_text() {
    let pipeline = Bench::new().load(
        "luthier: 1\nparams: {names: [a/b, c d]}\nstages:\n  raw:\n    uses: ingest\n    with: {map: {x: \"${matrix.name}\"}}\n    matrix: {name: \"${params.names}\"}\n",
    );
    let ids: Vec<&str> = pipeline.stages.iter().map(|stage| stage.id.as_str()).collect();
    assert_eq!(ids, ["raw@name=a-b", "raw@name=c-d"]);
    assert_eq!(pipeline.stages[0].prepared.config["map"]["x"], json!("a/b"));
}
