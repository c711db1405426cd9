//! Renders the sections that stages report.

use luthier_core::Section;
use maud::{Markup, html};

use super::plot;

/// One section under its title.
pub fn draw(section: &Section) -> Markup {
    html! {
        @match section {
            Section::Table { title, columns, rows } => {
                h4 { (title) }
                div class="scroll" { (table(columns, rows, "")) }
            }
            Section::Samples { title, columns, rows } => {
                h4 { (title) }
                div class="scroll" { (table(columns, rows, "samples")) }
            }
            Section::Plot { title, x_label, y_label, series } => {
                h4 { (title) }
                (plot::draw(x_label, y_label, series))
            }
            Section::Histogram { title, x_label, bins } => {
                h4 { (title) }
                (plot::draw_bars(x_label, "share", bins))
            }
            Section::Funnel { title, unit, steps } => {
                h4 { (title) }
                (funnel(unit, steps))
            }
            Section::Text { title, body } => {
                h4 { (title) }
                pre { (body) }
            }
        }
    }
}

fn table(columns: &[String], rows: &[Vec<String>], class: &str) -> Markup {
    html! {
        table class=(class) {
            thead { tr { @for column in columns { th { (column) } } } }
            tbody {
                @for row in rows {
                    tr { @for cell in row { td class=[numeric(cell).then_some("number")] { (cell) } } }
                }
            }
        }
    }
}

fn numeric(cell: &str) -> bool {
    cell.chars().next().is_some_and(|first| first.is_ascii_digit() || "+-−".contains(first))
        && cell.chars().all(|c| c.is_ascii_digit() || "+-−.,%±e ()×".contains(c))
}

fn funnel(unit: &str, steps: &[(String, u64)]) -> Markup {
    let most = steps.iter().map(|step| step.1).max().unwrap_or(0).max(1);
    let mut before = None;
    html! {
        table class="funnel" {
            @for (label, count) in steps {
                tr {
                    td { (label) }
                    td class="number" { (crate::format::count(*count)) " " (unit) }
                    td class="bar" {
                        div style={"width:" (format!("{:.2}", *count as f64 / most as f64 * 100.0)) "%"} {}
                    }
                    td class="number quiet" {
                        @if let Some(previous) = before.replace(*count) {
                            "−" (crate::format::count(u64::saturating_sub(previous, *count)))
                        }
                    }
                }
            }
        }
    }
}
