//! The stage graph as SVG: layers by longest path, stages of a layer in file order, edges as curves.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::ReportStage;

const BOX_WIDTH: usize = 148;
const BOX_HEIGHT: usize = 46;
const GAP_X: usize = 44;
const GAP_Y: usize = 18;
const MARGIN: usize = 10;

/// Draws `stages`, given in topological order.
pub fn draw(stages: &[&ReportStage]) -> Markup {
    let mut layer_of: BTreeMap<&str, usize> = BTreeMap::new();
    for stage in stages {
        let layer =
            stage.reads.iter().filter_map(|id| layer_of.get(id.as_str())).max().map_or(0, |deepest| deepest + 1);
        layer_of.insert(&stage.id, layer);
    }
    let mut filled: BTreeMap<usize, usize> = BTreeMap::new();
    let mut place: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for stage in stages {
        let layer = layer_of[stage.id.as_str()];
        let slot = filled.entry(layer).or_default();
        place.insert(&stage.id, (MARGIN + layer * (BOX_WIDTH + GAP_X), MARGIN + *slot * (BOX_HEIGHT + GAP_Y)));
        *slot += 1;
    }
    let layers = filled.len().max(1);
    let tallest = filled.values().copied().max().unwrap_or(1);
    let width = 2 * MARGIN + layers * BOX_WIDTH + (layers - 1) * GAP_X;
    let height = 2 * MARGIN + tallest * BOX_HEIGHT + (tallest - 1) * GAP_Y;
    html! {
        div class="scroll" {
            svg class="graph" role="img" aria-label="stage graph" viewBox={"0 0 " (width) " " (height)} width=(width) height=(height) {
                defs {
                    marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto" {
                        path d="M0 0.5 L7.5 4 L0 7.5 z" class="head" {}
                    }
                }
                @for stage in stages {
                    @for read in &stage.reads {
                        @if let (Some(from), Some(to)) = (place.get(read.as_str()), place.get(stage.id.as_str())) {
                            path class="edge" d=(curve(*from, *to)) marker-end="url(#arrow)" {}
                        }
                    }
                }
                @for stage in stages {
                    @let (x, y) = place[stage.id.as_str()];
                    a href={"#stage-" (stage.id)} {
                        g class={"node " (stage.status.as_str())} {
                            title { (stage.id) " (" (stage.kind) "): " (stage.status.as_str()) }
                            rect x=(x) y=(y) width=(BOX_WIDTH) height=(BOX_HEIGHT) rx="7" {}
                            text x=(x + 11) y=(y + 20) class="name" { (clip(&stage.id, 18)) }
                            text x=(x + 11) y=(y + 36) class="detail" {
                                (stage.kind)
                                @if super::page::timed(stage) { " · " (crate::format::duration(stage.seconds)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn curve(from: (usize, usize), to: (usize, usize)) -> String {
    let (x1, y1) = (from.0 + BOX_WIDTH, from.1 + BOX_HEIGHT / 2);
    let (x2, y2) = (to.0, to.1 + BOX_HEIGHT / 2);
    let bend = x1.max(x2).abs_diff(x1.min(x2)) / 2;
    format!("M{x1} {y1} C{} {y1} {} {y2} {x2} {y2}", x1 + bend, x2.saturating_sub(bend))
}

fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        text.to_owned()
    } else {
        text.chars().take(most - 1).chain(std::iter::once('…')).collect()
    }
}
