//! Line plots and histograms as SVG: linear axes with round ticks, one colour class per series, a legend.

use luthier_core::Series;
use maud::{Markup, html};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 12.0;

/// Draws finite points only; an empty plot says so.
pub fn draw(x_label: &str, y_label: &str, series: &[Series]) -> Markup {
    let finite = |point: &&(f64, f64)| point.0.is_finite() && point.1.is_finite();
    let points: Vec<(f64, f64)> = series.iter().flat_map(|line| line.points.iter().filter(finite).copied()).collect();
    let Some(first) = points.first() else {
        return html! { p class="quiet" { "no points" } };
    };
    let bounds = points
        .iter()
        .fold((first.0, first.0, first.1, first.1), |b, p| (b.0.min(p.0), b.1.max(p.0), b.2.min(p.1), b.3.max(p.1)));
    let x = Axis::new(bounds.0, bounds.1, LEFT, WIDTH - RIGHT);
    let y = Axis::new(bounds.2, bounds.3, HEIGHT - BOTTOM, TOP);
    let lines = html! {
        @for (index, line) in series.iter().enumerate() {
            polyline class={"line c" (index % 6)} points=(polyline(line, &x, &y)) {}
        }
    };
    html! {
        (framed(x_label, y_label, &x, &y, &lines))
        @if series.len() > 1 {
            p class="legend" {
                @for (index, line) in series.iter().enumerate() {
                    span class={"key c" (index % 6)} {} (line.name) " "
                }
            }
        }
    }
}

/// A bar for each bin, given as middles and heights; what is not finite is left out.
pub fn draw_bars(x_label: &str, y_label: &str, bins: &[(f64, f64)]) -> Markup {
    let bins: Vec<(f64, f64)> = bins.iter().filter(|bin| bin.0.is_finite() && bin.1.is_finite()).copied().collect();
    let [first, .., last] = bins[..] else {
        return match bins[..] {
            [] => html! { p class="quiet" { "no rows" } },
            _ => html! { p class="quiet" { "all at " (crate::format::number(bins[0].0)) } },
        };
    };
    let half = (last.0 - first.0) / (bins.len() - 1) as f64 / 2.0;
    let most = bins.iter().fold(0.0, |most: f64, bin| most.max(bin.1));
    let x = Axis::new(first.0 - half, last.0 + half, LEFT, WIDTH - RIGHT);
    let y = Axis { low: 0.0, high: if most > 0.0 { most } else { 1.0 }, from: HEIGHT - BOTTOM, to: TOP };
    let bars = html! {
        @for (middle, height) in &bins {
            rect class="bin" x=(format!("{:.1}", x.at(middle - half) + 0.5)) y=(format!("{:.1}", y.at(*height)))
                width=(format!("{:.1}", (x.at(middle + half) - x.at(middle - half) - 1.0).max(0.5)))
                height=(format!("{:.1}", y.from - y.at(*height))) {}
        }
    };
    framed(x_label, y_label, &x, &y, &bars)
}

/// `content` between axes with ticks and labels.
fn framed(x_label: &str, y_label: &str, x: &Axis, y: &Axis, content: &Markup) -> Markup {
    html! {
        svg class="plot" role="img" aria-label={(y_label) " over " (x_label)} viewBox={"0 0 " (WIDTH) " " (HEIGHT)} {
            @for tick in y.ticks() {
                line class="grid" x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y.at(tick)) y2=(y.at(tick)) {}
                text class="tick" x=(LEFT - 6.0) y=(y.at(tick) + 4.0) text-anchor="end" { (crate::format::number(tick)) }
            }
            @for tick in x.ticks() {
                text class="tick" x=(x.at(tick)) y=(HEIGHT - BOTTOM + 16.0) text-anchor="middle" { (crate::format::number(tick)) }
            }
            text class="label" x=((LEFT + WIDTH - RIGHT) / 2.0) y=(HEIGHT - 4.0) text-anchor="middle" { (x_label) }
            text class="label" x="12" y=(HEIGHT / 2.0) text-anchor="middle" transform={"rotate(-90 12 " (HEIGHT / 2.0) ")"} { (y_label) }
            (content)
        }
    }
}

fn polyline(line: &Series, x: &Axis, y: &Axis) -> String {
    line.points
        .iter()
        .filter(|point| point.0.is_finite() && point.1.is_finite())
        .map(|point| format!("{:.1},{:.1}", x.at(point.0), y.at(point.1)))
        .collect::<Vec<_>>()
        .join(" ")
}

struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(low: f64, high: f64, from: f64, to: f64) -> Self {
        let pad = if high > low { (high - low) * 0.02 } else { low.abs().max(1.0) * 0.5 };
        Self { low: low - pad, high: high + pad, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Four to eight multiples of 1, 2 or 5 times a power of ten.
    fn ticks(&self) -> Vec<f64> {
        let raw = (self.high - self.low) / 5.0;
        let magnitude = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|s| *s >= raw).unwrap_or(raw);
        let mut ticks = Vec::new();
        let mut index = (self.low / step).ceil();
        while index * step <= self.high && ticks.len() < 12 {
            ticks.push(index * step);
            index += 1.0;
        }
        ticks
    }
}
