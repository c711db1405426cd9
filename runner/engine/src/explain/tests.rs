use crate::explain::{diff, explain, of_run, overview};
use crate::lock::Lock;
use crate::run::{Action, RunOptions};
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
    text
}

/// As a person reads it, with the times of this machine taken out.
macro_rules! reads {
    ($bench:expr, $stage:expr, @$expected:literal) => {
        insta::with_settings!({filters => vec![
            (r"\d+ ms for", "[TIME] for"),
            (r"; last ran .*", "; last ran [TIME]"),
        ]}, { insta::assert_snapshot!(text(&$bench, $stage), @$expected) });
    };
}

#[test]
fn the_chain_ends_at_the_field() {
    let bench = Bench::new(YAML);
    reads!(bench, "tokens", @r"
    tokens runs: never run before
    cost by the last times: unknown: 3 stages never ran
    and after it: unknown: 2 stages never ran
    less where a stage makes the same output again: nothing that reads it runs
    ");
    bench.run();
    reads!(bench, "train", @r"
    train is up to date; last ran [TIME]
    train ran: never run before
    ");
    bench.edit("max: 0.1", "max: 0.12");
    reads!(bench, "train", @r"
    train reruns ← tokens changed ← clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)
    cost by the last times: [TIME] for 3 stages
    and after it: [TIME] for 1 stage
    less where a stage makes the same output again: nothing that reads it runs
    ");
    // Read in two ways, told once.
    reads!(bench, "scores", @r"
    scores reruns ← clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)
    cost by the last times: [TIME] for 4 stages
    less where a stage makes the same output again: nothing that reads it runs
    ");
    bench.edit("text: rows", "text: lines");
    let summary = bench.run();
    let told = of_run(&summary);
    assert_eq!(told[&id("raw")], ["text rows → lines (p.yaml:3)"]);
    assert_eq!(told[&id("train")], ["← tokens changed ← clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)"]);
    reads!(bench, "train", @r"
    train is up to date; last ran [TIME]
    train ran ← tokens changed ← clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)
    train ran ← tokens changed ← clean changed ← raw: text rows → lines (p.yaml:3)
    ");
}

#[test]
fn what_a_rerun_spares_is_told_where_it_is_known() {
    let bench = Bench::new(&YAML.replace("steps:", "mode: select\n      steps:"));
    bench.run();
    bench.edit("max: 0.1", "max: 0.12");
    reads!(bench, "clean", @r"
    clean reruns: steps[0].config.max 0.1 → 0.12 (p.yaml:9)
    cost by the last times: [TIME] for 1 stage
    and after it: [TIME] for 3 stages
    less where a stage makes the same output again: nothing that reads it runs
    ");
    // Nothing is kept, so there is nothing to select by; and after this there is.
    let cache = bench.store().workspace().cache_dir();
    fs_err::create_dir_all(luthier_core::ShardCache::directory(&cache)).expect("a directory");
    reads!(bench, "clean", @r"
    clean selects again by stored scores: steps[0].config.max 0.1 → 0.12 (p.yaml:9)
    cost by the last times: at most [TIME] for 1 stage
    and after it: [TIME] for 3 stages
    less where a stage makes the same output again: nothing that reads it runs
    ");
    let (plan, _) = overview(&bench.pipeline(), &bench.store(), &bench.options()).expect("an overview");
    let how = |stage: &str| match plan.action(&id(stage)) {
        Some(action @ Action::Run { how, .. }) => {
            let json = serde_json::to_value(action).expect("JSON");
            assert_eq!(json.get("how").and_then(|how| how.as_str()), how.as_deref());
            how.clone()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!((how("clean").as_deref(), how("tokens")), (Some("selects again by stored scores"), None));
    let forced = RunOptions { force: vec![id("clean")], ..bench.options() };
    let (plan, _) = overview(&bench.pipeline(), &bench.store(), &forced).expect("an overview");
    assert!(matches!(plan.action(&id("clean")), Some(Action::Run { how: None, .. })), "{plan:?}");
    bench.edit("text: rows", "text: lines");
    reads!(bench, "clean", @r"
    clean reruns: steps[0].config.max 0.1 → 0.12 (p.yaml:9)
    clean reruns ← raw: text rows → lines (p.yaml:3)
    cost by the last times: [TIME] for 2 stages
    and after it: [TIME] for 3 stages
    less where a stage makes the same output again: nothing that reads it runs
    ");
}

#[test]
fn the_chain_goes_on_through_stages_that_ran_since() {
    let bench = Bench::new(YAML);
    bench.run();
    bench.edit("max: 0.1", "max: 0.12");
    bench.edit("text: rows", "text: lines");
    let until = RunOptions { until: vec![id("tokens")], ..bench.options() };
    bench.try_run(&until).expect("the run starts");
    reads!(bench, "train", @r"
    train reruns ← tokens changed ← clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)
    train reruns ← tokens changed ← clean changed ← raw: text rows → lines (p.yaml:3)
    cost by the last times: [TIME] for 1 stage
    and after it: [TIME] for 1 stage
    less where a stage makes the same output again: nothing that reads it runs
    ");
}

#[test]
fn another_edge_is_the_readers_own_change() {
    let bench = Bench::new(YAML);
    bench.run();
    bench.edit("in: tokens, with: {text: w}", "in: clean, with: {text: w}");
    let found = explain(&bench.pipeline(), &bench.store(), &bench.options(), &id("train")).expect("explained");
    let [cause] = found.causes.as_slice() else { panic!("{found:?}") };
    assert_eq!(cause.path, [id("train")]);
    assert!(cause.to_string().starts_with("input data changed: clean.out "), "{cause}");
}

#[test]
fn every_stage_of_the_overview_has_its_nearest_cause() {
    let bench = Bench::new(YAML);
    bench.run();
    bench.edit("max: 0.1", "max: 0.12");
    let (plan, causes) = overview(&bench.pipeline(), &bench.store(), &bench.options()).expect("an overview");
    let lines: Vec<String> = plan.running().map(|stage| format!("{stage}: {}", causes[stage])).collect();
    assert_eq!(
        lines,
        [
            "clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)",
            "tokens: clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)",
            "train: tokens changed ← clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)",
            "scores: clean: steps[0].config.max 0.1 → 0.12 (p.yaml:8)",
        ]
    );
}

/// A way of a thousand stages neither overflows the stack nor fills the screen.
#[test]
fn long_chains_are_cut_in_the_middle() {
    let mut yaml = String::from("luthier: 1\nstages:\n  s0: {uses: work, with: {text: x}}\n");
    for at in 1..1000 {
        yaml.push_str(&format!("  s{at}: {{uses: work, in: s{}, with: {{keep: 9}}}}\n", at - 1));
    }
    let bench = Bench::new(&yaml);
    bench.run();
    bench.edit("text: x", "text: y");
    let (_, causes) = overview(&bench.pipeline(), &bench.store(), &bench.options()).expect("an overview");
    let expected = "s998 changed ← s997 changed ← s996 changed ← s995 changed ← s994 changed ← s993 changed ← \
                    … 992 more … ← s0: text x → y (p.yaml:3)";
    assert_eq!(causes[&id("s999")].to_string(), expected);
    assert_eq!(causes[&id("s2")].to_string(), "s1 changed ← s0: text x → y (p.yaml:3)");
    let one = explain(&bench.pipeline(), &bench.store(), &bench.options(), &id("s999")).expect("explained");
    assert_eq!(one.causes[0].to_string(), expected);
    assert_eq!((one.cost.stages, one.downstream.stages), (1000, 0));
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
    clean
      parameter steps[0].config.max  0.1 → 0.12
      input data                     33978d32b54a → 9f43f16a0ecd
      output out                     33978d32b54a → 9f43f16a0ecd
      metric bytes                   4 → 5  +25.0 %
    fit (added)
      output out    4969125809bb
      metric bytes  7
    raw
      parameter text  "rows" → "lines"
      output out      33978d32b54a → 9f43f16a0ecd
      metric bytes    4 → 5  +25.0 %
    scores
      input data    c1bae05aae1f → 4969125809bb
      input more    33978d32b54a → 9f43f16a0ecd
      output out    b49f083e0336 → 38573dcea73d
      metric bytes  10 → 12  +20.0 %
    tokens
      input data    33978d32b54a → 9f43f16a0ecd
      output out    8c768a1fc742 → 1155d243bc38
      metric bytes  5 → 6  +20.0 %
    train (removed)
      output out    c1bae05aae1f
      metric bytes  6
    4 stages changed, 1 added, 1 removed
    "#);
    insta::assert_snapshot!(found.markdown(), @r#"
    **4 stages changed, 1 added, 1 removed**

    added: `fit`

    removed: `train`

    | stage | parameter | old | new |
    |---|---|---|---|
    | clean | steps[0].config.max | 0.1 | 0.12 |
    | raw | text | "rows" | "lines" |

    | stage | metric | old | new | change |
    |---|---|--:|--:|--:|
    | clean | bytes | 4 | 5 | +25.0 % |
    | fit | bytes | – | 7 |  |
    | raw | bytes | 4 | 5 | +25.0 % |
    | scores | bytes | 10 | 12 | +20.0 % |
    | tokens | bytes | 5 | 6 | +20.0 % |
    | train | bytes | 6 | – |  |

    <details><summary>digests</summary>

    | stage | artifact | old | new |
    |---|---|---|---|
    | clean | input data | 33978d32b54a | 9f43f16a0ecd |
    | clean | output out | 33978d32b54a | 9f43f16a0ecd |
    | fit | output out | – | 4969125809bb |
    | raw | output out | 33978d32b54a | 9f43f16a0ecd |
    | scores | input data | c1bae05aae1f | 4969125809bb |
    | scores | input more | 33978d32b54a | 9f43f16a0ecd |
    | scores | output out | b49f083e0336 | 38573dcea73d |
    | tokens | input data | 33978d32b54a | 9f43f16a0ecd |
    | tokens | output out | 8c768a1fc742 | 1155d243bc38 |
    | train | output out | c1bae05aae1f | – |

    </details>
    "#);
}
