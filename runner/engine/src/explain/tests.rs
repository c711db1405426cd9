use crate::explain::{diff, explain};
use crate::lock::Lock;
use crate::testkit::{Bench, id};

const YAML: &str = "\
luthier: 1
stages:
  raw: {uses: work, with: {text: rows}}
  clean:
    uses: work
    in: raw
    with:
      steps: [{config: {max: 0.1}}]
  tokens: {uses: work, in: clean, with: {text: t}}
  train: {uses: work, in: tokens, with: {text: w}}
  scores: {uses: work, in: {data: train, more: [clean]}}
";

fn text(bench: &Bench, stage: &str) -> String {
    let explanation = explain(&bench.pipeline(), &bench.store(), &bench.options(), &id(stage)).expect("explained");
    let text = explanation.to_string();
    assert!(serde_json::to_string(&explanation).is_ok());
    // Times of this machine.
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = match line.split_once(": ") {
            Some(("cost by the last times", _)) => "cost by the last times: [TIME]".to_owned(),
            _ => line.to_owned(),
        };
        lines.push(line.split_once("; last ran").map_or(line.clone(), |(head, _)| format!("{head}; last ran [TIME]")));
    }
    lines.join("\n")
}

#[test]
fn the_chain_ends_at_the_field() {
    let bench = Bench::new(YAML);
    assert_eq!(
        text(&bench, "tokens"),
        "tokens runs: never run before\n\
         cost unknown: not every stage that runs has run before"
    );
    bench.run();
    assert_eq!(text(&bench, "train"), "train is up to date; last ran [TIME]\ntrain ran: never run before");
    bench.edit("max: 0.1", "max: 0.12");
    assert_eq!(
        text(&bench, "train"),
        "train reruns ← tokens reruns ← clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)\n\
         where an upstream stage makes the same output again, nothing after it runs\n\
         cost by the last times: [TIME]"
    );
    assert_eq!(
        text(&bench, "scores").lines().next(),
        Some("scores reruns ← clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)"),
        "read in two ways, told once"
    );
    bench.edit("text: rows", "text: lines");
    bench.run();
    assert_eq!(
        text(&bench, "train"),
        "train is up to date; last ran [TIME]\n\
         train ran ← tokens changed ← clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)\n\
         train ran ← tokens changed ← clean changed ← raw: text rows → lines (p.yaml:3)"
    );
}

#[test]
fn locks_are_compared_for_a_pull_request() {
    let bench = Bench::new(YAML);
    bench.run();
    let old = Lock::parse(&bench.read("p.lock"), "p.lock".into()).expect("a lock");
    assert_eq!(diff(&old, &old).to_string(), "no differences\n");
    bench.edit("max: 0.1", "max: 0.12");
    bench.edit("text: rows", "text: lines");
    bench.edit("  train: ", "  fit: ");
    bench.edit("data: train", "data: fit");
    bench.run();
    let new = Lock::parse(&bench.read("p.lock"), "p.lock".into()).expect("a lock");
    let found = diff(&old, &new);
    assert!(serde_json::to_string(&found).is_ok());
    insta::assert_snapshot!(found.to_string(), @r#"
    | stage | field | old | new | change |
    |---|---|---|---|---|
    | clean | parameter steps[0].config.max | 0.1 | 0.12 | |
    | clean | input data | 33978d32b54a | 9f43f16a0ecd | |
    | clean | output out | 33978d32b54a | 9f43f16a0ecd | |
    | clean | metric bytes | 4 | 5 | +25.0 % |
    | fit | *added* | | | |
    | fit | output out | – | 4969125809bb | |
    | fit | metric bytes | – | 7 | |
    | raw | parameter text | "rows" | "lines" | |
    | raw | output out | 33978d32b54a | 9f43f16a0ecd | |
    | raw | metric bytes | 4 | 5 | +25.0 % |
    | scores | input data | c1bae05aae1f | 4969125809bb | |
    | scores | input more | 33978d32b54a | 9f43f16a0ecd | |
    | scores | output out | b49f083e0336 | 38573dcea73d | |
    | scores | metric bytes | 10 | 12 | +20.0 % |
    | tokens | input data | 33978d32b54a | 9f43f16a0ecd | |
    | tokens | output out | 8c768a1fc742 | 1155d243bc38 | |
    | tokens | metric bytes | 5 | 6 | +20.0 % |
    | train | *removed* | | | |
    | train | output out | c1bae05aae1f | – | |
    | train | metric bytes | 6 | – | |
    "#);
}
