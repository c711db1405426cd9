//! A matrix in a run: what is shared, what runs at once, what is compared.

use crate::run::{self, RunOptions, Sweep};
use crate::testkit::Bench;

const SWEEP: &str = r#"luthier: 1
stages:
  raw: {uses: work, with: {text: rows}}
  tokens: {uses: work, in: raw, with: {text: tokens}}
  adapter:
    uses: work
    in: tokens
    with: {text: "${matrix.rank}/${matrix.rate}", loss: "${matrix.rate}"}
    matrix: {rank: [8, 16], rate: [1e-3, 2e-4]}
  scores:
    uses: work
    in: adapter
    with: {accuracy: "${matrix.rank}"}
    matrix: {rate: [1e-3, 2e-4], rank: [8, 16]}
  best: {uses: work, in: {more: scores}}
"#;

fn text(comparison: &Sweep) -> String {
    let (headings, rows) = comparison.table(&comparison.telling());
    let mut lines = vec![comparison.title(), headings.join(" | ")];
    lines.extend(rows.iter().map(|row| {
        let cells: Vec<String> =
            row.iter().map(|cell| format!("{}{}", cell.text, if cell.best { "*" } else { "" })).collect();
        cells.join(" | ")
    }));
    lines.join("\n")
}

#[test]
fn a_sweep_shares_what_is_before_it_and_ends_in_one_table() {
    let bench = Bench::new(SWEEP);
    let summary = bench.run();
    assert!(summary.succeeded());
    let executed = bench.executed();
    assert_eq!(executed.iter().filter(|stage| ["raw", "tokens", "best"].contains(&stage.as_str())).count(), 3);
    assert_eq!(executed.len(), 11);
    let [comparison] = summary.comparisons.as_slice() else { panic!("one table: {:?}", summary.comparisons) };
    insta::assert_snapshot!(text(comparison), @r"
    adapter, scores by rank × rate
    rank | rate | loss | accuracy
    8 | 0.001 | 0.001 | 8
    8 | 0.0002 | 0.0002* | 8
    16 | 0.001 | 0.001 | 16*
    16 | 0.0002 | 0.0002* | 16*
    ");
    // A metric that is the same everywhere and one without a better end are there for programs.
    let metrics: Vec<(&str, bool)> =
        comparison.columns.iter().map(|column| (column.metric.as_str(), column.varies)).collect();
    assert!(metrics.contains(&("speed", false)) && metrics.contains(&("bytes", true)), "{metrics:?}");
    let kept = run::journal::load(&bench.workspace(), None).expect("the last run");
    assert_eq!(kept.comparisons, summary.comparisons);

    // A further value runs its members alone, and the table has all.
    bench.edit("rank: [8, 16], rate", "rank: [8, 16, 32], rate");
    let summary = bench.run();
    assert_eq!(bench.executed(), ["adapter@rank=32,rate=0.0002", "adapter@rank=32,rate=0.001"]);
    assert_eq!(summary.comparisons[0].rows.len(), 6);
    assert!(text(&summary.comparisons[0]).ends_with("32 | 0.0002 | 0.0002* | –"), "{}", text(&summary.comparisons[0]));
    assert_eq!(bench.run().comparisons, [], "a run that did nothing compares nothing");
    let asked = run::compare(&bench.pipeline(), &bench.store()).expect("records");
    assert_eq!(asked, summary.comparisons);
}

#[test]
fn a_member_that_fails_leaves_its_row_empty() {
    let bench = Bench::new(
        "luthier: 1\nstages:\n  a:\n    uses: work\n    with: {mode: \"${matrix.mode}\", loss: 0.5}\n    matrix: {mode: [fail, none, other]}\n",
    );
    let options = RunOptions { keep_going: true, ..bench.options() };
    let summary = bench.try_run(&options).expect("a summary");
    let cells: Vec<Vec<Option<f64>>> = summary.comparisons[0].rows.iter().map(|row| row.cells.clone()).collect();
    assert!(cells[0].iter().all(Option::is_none) && cells[1].iter().all(Option::is_some), "{cells:?}");
}

#[test]
fn members_run_at_once_within_their_resources() {
    let yaml = "luthier: 1\nstages:\n  a:\n    uses: work\n    with: {mode: wait, text: \"n${matrix.n}\"}\n    matrix: {n: [1, 2, 3, 4]}\n    resources: {threads: 1, memory: 1GB}\n";
    for (memory, at_once) in [(4_000_000_000, 4), (2_500_000_000, 2)] {
        let bench = Bench::new(yaml);
        let options = RunOptions { threads: 8, memory: Some(memory), ..RunOptions::default() };
        bench.runs_at_once(&options, at_once);
    }
}
