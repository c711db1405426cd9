//! The table of a sweep: a row per combination, the best of each column in bold.

use maud::{Markup, html};

use crate::run::Sweep;

/// The telling columns; the others in a fold below.
pub fn draw(comparison: &Sweep) -> Markup {
    let telling = comparison.telling();
    let rest: Vec<usize> =
        (0..comparison.columns.len()).filter(|at| comparison.columns[*at].varies && !telling.contains(at)).collect();
    html! {
        section {
            h2 { "Compared: " (comparison.title()) }
            (table(comparison, &telling))
            @if !rest.is_empty() {
                details {
                    summary { "other metrics in which they differ" }
                    (table(comparison, &rest))
                }
            }
        }
    }
}

fn table(comparison: &Sweep, columns: &[usize]) -> Markup {
    let (headings, rows) = comparison.table(columns);
    html! {
        div class="scroll" {
            table {
                thead { tr { @for heading in &headings { th { (heading) } } } }
                tbody {
                    @for row in &rows {
                        tr {
                            @for cell in row {
                                td class="number" { @if cell.best { strong { (cell.text) " ★" } } @else { (cell.text) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
