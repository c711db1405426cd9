//! Size of work, not of time: a timing would decide by the machine. `--nocapture` prints what was measured.

use std::fmt::Write;
use std::time::Instant;

use super::Bench;

fn fan(stages: usize) -> String {
    let mut text = "luthier: 1\nstages:\n  raw: {uses: ingest, with: {files: [train.jsonl]}}\n".to_owned();
    for index in 0..stages - 1 {
        writeln!(text, "  s{index}:\n    uses: filter\n    in: raw\n    with:\n      steps:\n        - plugin: ./p\n          config: {{max: {}}}", index % 90).expect("a string");
    }
    text
}

fn chain(stages: usize) -> String {
    let mut text = "luthier: 1\nstages:\n  s0: {uses: ingest, with: {files: [train.jsonl]}}\n".to_owned();
    for index in 1..stages {
        writeln!(text, "  s{index}: {{uses: filter, in: s{}, with: {{steps: []}}}}", index - 1).expect("a string");
    }
    text
}

#[test]
fn ten_thousand_stages_load_in_order() {
    let bench = Bench::new();
    for (name, make) in [("fan", fan as fn(usize) -> String), ("chain", chain)] {
        for stages in [1_000, 10_000] {
            let text = make(stages);
            let start = Instant::now();
            let root = crate::spec::parse(&crate::spec::SourceText::new("", text.as_str())).expect("valid YAML");
            println!("{name} {stages}: parsed in {:?}", start.elapsed());
            assert_eq!(root.entries().map(<[_]>::len), Some(2));
            let start = Instant::now();
            for _ in 0..stages {
                assert!(luthier_core::config_schema::<super::kinds::FilterConfig>().is_object());
            }
            println!("{name} {stages}: schemas made in {:?}", start.elapsed());
            let start = Instant::now();
            let pipeline = bench.load(&text);
            println!("{name} {stages}: {:?}", start.elapsed());
            assert_eq!(pipeline.stages.len(), stages);
            assert!(
                pipeline
                    .stages
                    .iter()
                    .enumerate()
                    .all(|(index, stage)| pipeline.graph.position(&stage.id) == Some(index))
            );
            let start = Instant::now();
            let drawn =
                pipeline.graph.to_text().len() + pipeline.graph.to_dot().len() + pipeline.graph.to_mermaid().len();
            println!("{name} {stages}: drawn as {drawn} bytes in {:?}", start.elapsed());
            assert!(drawn < stages * 400, "drawings are linear in stages");
        }
    }
}

#[test]
fn ten_thousand_errors_are_answered() {
    let bench = Bench::new();
    let mut text = "luthier: 1\nstages:\n".to_owned();
    for index in 0..10_000 {
        writeln!(text, "  s{index}: {{uses: filter, in: t{index}, with: {{steps: []}}}}").expect("a string");
    }
    let start = Instant::now();
    let errors = bench.load_with(&text, &[]).expect_err("no stage is there");
    println!("10,000 errors: {:?}", start.elapsed());
    assert_eq!(errors.items().len(), 10_000);
}

#[test]
fn a_ring_of_ten_thousand_is_found() {
    let bench = Bench::new();
    let mut text = "luthier: 1\nstages:\n".to_owned();
    for index in 0..10_000 {
        writeln!(text, "  s{index}: {{uses: filter, in: s{}, with: {{steps: []}}}}", (index + 9_999) % 10_000)
            .expect("a string");
    }
    let errors = bench.load_with(&text, &[]).expect_err("a ring");
    assert_eq!(errors.items().len(), 1);
    assert_eq!(errors.items()[0].labels.len(), 10_000);
}
