//! A sweep over rank and learning rate: one base, one data set, four trainings, four scores, one table.

use luthier_formats::quant::TensorType;
use luthier_test::{TestProject, TinyModel};

const SWEEP: &str = r#"luthier: 1
stages:
  base: {uses: fetch, with: {from: base.gguf}}
  raw: {uses: ingest, with: {files: [chats.jsonl]}}
  split: {uses: split, in: raw, with: {seed: 3, parts: {test: 4, train: rest}}}
  tokens: {uses: tokenize, in: {model: base, data: split.train}, with: {max_length: 128}}
  adapter:
    uses: train
    in: {model: base, data: tokens}
    with: {method: lora, rank: "${matrix.rank}", learning_rate: "${matrix.rate}", batch: 4, steps: 4, seed: 5}
    matrix: {rank: [2, 4], rate: [1e-3, 1e-2]}
    resources: {threads: 1}
  scores:
    uses: eval
    in: {model: base, adapter: adapter, data: split.test}
    with: {perplexity: {}}
    matrix: {rank: [2, 4], rate: [1e-3, 1e-2]}
    resources: {threads: 1}
  table:
    uses: command
    in: {scores: scores}
    with: {run: "ls ${in.scores} > ${out.lines}", outputs: {lines: file}}
"#;

#[test]
fn a_sweep_shares_its_upstream_and_ends_in_one_table() {
    let project = TestProject::new(env!("CARGO_BIN_EXE_luthier"));
    TinyModel::new(11).write_gguf(&project.path().join("base.gguf"), TensorType::F32);
    let row = |number: u32| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "{number}?"}}, {{"role": "assistant", "content": "{}"}}]}}"#,
            number * 7 % 10
        )
    };
    project.file("p.yaml", SWEEP).file("chats.jsonl", (0..24).map(row).collect::<Vec<_>>().join("\n"));
    let ran = project.run(&["run", "p.yaml"]).success();
    // base, raw, split, tokens and table once; four trainings and four evaluations.
    assert!(ran.stderr.contains("13 ran, 0 reused"), "{}", ran.stderr);
    assert!(ran.stderr.contains("adapter, scores by rank × rate"), "{}", ran.stderr);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let heading = ran.stderr.lines().map(words).find(|words| words.starts_with(&["rank".into(), "rate".into()]));
    let heading = heading.expect("a heading").join(" ");
    assert!(heading.contains("loss") && heading.contains("tuned.bits_per_byte"), "{heading}");

    // The best is the least of the perplexities that the evaluations themselves report.
    let shown = project.run(&["show", "p.yaml", "scores", "--json"]).success().json();
    let columns = shown[0]["columns"].as_array().expect("columns");
    let at = columns.iter().position(|column| column["metric"] == "tuned.perplexity").expect("the score");
    assert_eq!(columns[at]["better"], "lower");
    let rows = shown[0]["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 4);
    let mut least = f64::INFINITY;
    for row in rows {
        let name = format!("scores@rank={},rate={}", row["values"][0], row["values"][1]);
        let record = project.run(&["show", "p.yaml", &name, "--json"]).success().json();
        let value = record["outcome"]["metrics"]["tuned.perplexity"]["value"].as_f64().expect("a perplexity");
        assert_eq!(row["cells"][at].as_f64(), Some(value), "{name}");
        least = least.min(value);
    }
    for row in rows {
        assert_eq!(row["best"][at], row["cells"][at].as_f64() == Some(least), "{row}");
    }

    let again = project.run(&["run", "p.yaml", "--json", "--force", "table"]).success();
    let last: serde_json::Value = serde_json::from_str(again.stdout.lines().last().expect("events")).expect("JSON");
    assert_eq!(last["summary"]["comparisons"], shown);
    let _ = project.run(&["report", "-o", "report.html"]).success();
    let page = fs_err::read_to_string(project.path().join("report.html")).expect("the report");
    assert!(page.contains("Compared: adapter, scores by rank × rate") && page.contains("★"));

    // Groups, members and patterns are names everywhere.
    for (name, count) in [("adapter", 4), ("adapter@rank=2", 2), ("adapter@rank=4,rate=1e-2", 1), ("*@rate=0.01", 4)] {
        let planned = project.run(&["plan", "p.yaml", "--json", "--only", name, "--force", name]).success().json();
        assert_eq!(planned["stages"].as_array().map(Vec::len), Some(count), "{name}");
    }
    let drawn = project.run(&["show", "p.yaml", "adapter@rate=0.01"]).success();
    assert!(drawn.stdout.contains("loss"), "{}", drawn.stdout);
}
