use luthier_core::{ArtifactKind, Digest, Series};

use super::*;

fn sample() -> Report {
    let mut train = ReportStage {
        id: "adapter".to_owned(),
        kind: "train".to_owned(),
        status: ReportStatus::Ran,
        why: vec!["rank 8 → 16".to_owned()],
        seconds: 93.2,
        reads: vec!["tokens".to_owned()],
        ..ReportStage::default()
    };
    train.outputs.insert(
        "adapter".to_owned(),
        Artifact { kind: ArtifactKind::Adapter, digest: Digest::of(b"x"), size: 19_537_920, tree: true },
    );
    train.sections.push(Section::Plot {
        title: "Loss".to_owned(),
        x_label: "step".to_owned(),
        y_label: "loss".to_owned(),
        series: vec![Series { name: "train".to_owned(), points: vec![(1.0, 3.2), (2.0, f64::NAN), (3.0, 0.9)] }],
    });
    train.sections.push(Section::Samples {
        title: "Samples".to_owned(),
        columns: vec!["word".to_owned(), "<b>tuned</b>".to_owned()],
        rows: vec![vec!["luthier".to_owned(), "L UW1 <script>alert(1)</script>".to_owned()]],
    });
    train.sections.push(Section::Histogram {
        title: "Scores".to_owned(),
        x_label: "score".to_owned(),
        bins: vec![(0.0, 0.25), (1.0, 0.75), (2.0, f64::NAN)],
    });
    train.sections.push(Section::Funnel {
        title: "Rows".to_owned(),
        unit: "rows".to_owned(),
        steps: vec![("in".to_owned(), 135_000), ("word-shape".to_owned(), 90_000), ("dedup".to_owned(), 0)],
    });
    let tokens = ReportStage { id: "tokens".to_owned(), kind: "tokenize".to_owned(), ..ReportStage::default() };
    Report {
        pipeline: "quickstart".to_owned(),
        run_id: "20261124-000000".to_owned(),
        seconds: 94.0,
        succeeded: true,
        stages: vec![tokens, train],
        ..Report::default()
    }
}

#[test]
fn page_is_self_contained_and_escaped() {
    let page = render(&sample());
    assert!(page.starts_with("<!DOCTYPE html>"));
    assert!(!page.contains("<script"), "foreign text must be escaped");
    assert!(page.contains("&lt;script&gt;"));
    assert!(!page.contains("http://") && !page.contains("https://"), "no network references");
    assert!(page.contains("1 ran, 1 reused"));
    assert!(page.contains("−45,000"));
}

#[test]
fn a_histogram_is_a_bar_for_each_bin() {
    let page = render(&sample());
    let heights: Vec<f64> = page
        .split("<rect class=\"bin\"")
        .skip(1)
        .filter_map(|bar| bar.split("height=\"").nth(1)?.split('"').next()?.parse().ok())
        .collect();
    let [low, high] = heights[..] else { panic!("two bars, {heights:?}") };
    assert!((high / low - 3.0).abs() < 0.01, "{low} {high}");
}

#[test]
fn plots_skip_points_that_are_not_finite() {
    let page = render(&sample());
    assert!(!page.contains("NaN"));
}

#[test]
fn an_empty_run_renders() {
    let page = render(&Report { pipeline: "empty".to_owned(), ..Report::default() });
    assert!(page.contains("empty"));
}

#[test]
fn a_page_of_thousands_draws_what_happened() {
    let stage = |at: usize| ReportStage {
        id: format!("s{at}"),
        status: if at == 1_999 { ReportStatus::Failed } else { ReportStatus::Reused },
        error: if at == 1_999 { "error: out of luck".to_owned() } else { String::new() },
        ..ReportStage::default()
    };
    let page = render(&Report { stages: (0..2_000).map(stage).collect(), ..Report::default() });
    assert!(page.contains("200 of 2,000 stages are drawn"));
    assert_eq!(page.matches("<rect").count(), 200);
    assert!(page.contains("id=\"stage-s1999\"") && page.contains("error: out of luck"));
    assert!(page.contains("href=\"#stage-s1500\""), "the table has all stages");
}
