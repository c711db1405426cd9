//! The page around the stages.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{Report, ReportStage, ReportStatus, graph, section};
use crate::format;

/// The whole page.
#[must_use]
pub fn render(report: &Report) -> String {
    let count = |status| report.stages.iter().filter(|stage| stage.status == status).count();
    let (ran, reused) = (count(ReportStatus::Ran), count(ReportStatus::Reused));
    let (failed, blocked) = (count(ReportStatus::Failed), count(ReportStatus::Blocked));
    let drawn = drawn(&report.stages);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (report.pipeline) " · luthier" }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header {
                    h1 { (report.pipeline) }
                    p class={"verdict " @if report.succeeded { "ok" } @else { "bad" }} {
                        @if report.succeeded { "succeeded" } @else { "failed" }
                        " in " (format::duration(report.seconds)) " · "
                        (ran) " ran, " (reused) " reused"
                        @if failed > 0 { ", " (failed) " failed" }
                        @if blocked > 0 { ", " (blocked) " blocked" }
                    }
                    p class="quiet" {
                        "run " code { (report.run_id) }
                        @if !report.started.is_empty() { " · " (report.started) }
                        @if !report.host.is_empty() { " · " (report.host) }
                        " · luthier " (report.version)
                    }
                }
                main {
                    section {
                        h2 { "Graph" }
                        @if drawn.len() < report.stages.len() {
                            p class="quiet" {
                                (format::count(drawn.len() as u64)) " of " (format::count(report.stages.len() as u64))
                                " stages are drawn: those that did not merely have their results reused come first"
                            }
                        }
                        (graph::draw(&drawn))
                    }
                    section {
                        h2 { "What ran, and why" }
                        (overview(&report.stages))
                    }
                    @for comparison in &report.comparisons { (super::comparison::draw(comparison)) }
                    @for stage in &drawn { (detail(stage)) }
                }
            }
        }
    };
    markup.into_string()
}

/// Stages that are drawn and told in detail. A page of thousands opens in no browser.
const DRAWN: usize = 200;

/// All stages, or of very many those that something happened to, filled up with others, in order.
fn drawn(stages: &[ReportStage]) -> Vec<&ReportStage> {
    let mut room = DRAWN.saturating_sub(stages.iter().filter(|stage| stage.status != ReportStatus::Reused).count());
    let mut fits = |stage: &ReportStage| {
        if stage.status != ReportStatus::Reused {
            return true;
        }
        let fits = room > 0;
        room = room.saturating_sub(1);
        fits
    };
    stages.iter().filter(|stage| fits(stage)).take(DRAWN).collect()
}

fn overview(stages: &[ReportStage]) -> Markup {
    html! {
        div class="scroll" {
            table {
                thead { tr { th { "stage" } th { "kind" } th { "this run" } th { "time" } th { "why" } th { "output" } } }
                tbody {
                    @for stage in stages {
                        tr {
                            td { a href={"#stage-" (stage.id)} { (stage.id) } }
                            td { (stage.kind) }
                            td { span class={"badge " (stage.status.as_str())} { (stage.status.as_str()) } }
                            td class="number" { @if timed(stage) { (format::duration(stage.seconds)) } @else { "–" } }
                            td { @for why in &stage.why { div { (why) } } }
                            td {
                                @for (name, artifact) in &stage.outputs {
                                    div { (name) " " code { (artifact.digest.short()) } " " span class="quiet" { (format::bytes(artifact.size)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Whether the stage's time says anything.
pub(super) fn timed(stage: &ReportStage) -> bool {
    matches!(stage.status, ReportStatus::Ran | ReportStatus::Reused) || stage.seconds > 0.0
}

fn detail(stage: &ReportStage) -> Markup {
    html! {
        section id={"stage-" (stage.id)} {
            h2 {
                (stage.id) " " span class="quiet" { (stage.kind) } " "
                span class={"badge " (stage.status.as_str())} { (stage.status.as_str()) }
            }
            @for warning in &stage.warnings { p class="warning" { (warning) } }
            @if !stage.metrics.is_empty() {
                div class="metrics" {
                    @for (name, metric) in &stage.metrics {
                        div class="metric" {
                            div class="value" { (format::metric(metric)) }
                            div class="quiet" { (name) }
                        }
                    }
                }
            }
            @if !stage.error.is_empty() { pre class="error" { (stage.error) } }
            @if stage.status == ReportStatus::Blocked { @for why in &stage.why { p { (why) } } }
            @for part in &stage.sections { (section::draw(part)) }
            @if !stage.key.is_empty() { (record(stage)) }
        }
    }
}

fn record(stage: &ReportStage) -> Markup {
    html! {
            details {
                summary { "key, parameters, outputs" }
                table {
                    tr { td { "key" } td { code { (stage.key) } } }
                    @if stage.peak_memory > 0 {
                        tr { td { "peak resident memory" } td { (format::bytes(stage.peak_memory)) } }
                    }
                    @for (name, artifact) in &stage.outputs {
                        tr {
                            td { (name) " (" (artifact.kind) ")" }
                            td { code { (artifact.digest) } " · " (format::bytes(artifact.size)) }
                        }
                    }
                }
                pre { (serde_json::to_string_pretty(&stage.config).unwrap_or_default()) }
            }
    }
}
