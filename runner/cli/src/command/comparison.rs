//! The table of a sweep in a terminal.

use luthier_engine::run::Sweep;
use owo_colors::OwoColorize;

/// The table in at most `width` columns of text; what does not fit is counted.
pub fn text(comparison: &Sweep, width: usize) -> String {
    let telling = comparison.telling();
    let (headings, rows) = comparison.table(&telling);
    let widths: Vec<usize> = (0..headings.len())
        .map(|at| {
            // One more for the mark of the best.
            let cells = rows.iter().map(|row| row[at].text.chars().count() + usize::from(row[at].best));
            cells.chain([headings[at].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut shown = comparison.axes.len();
    let mut used: usize = widths[..shown].iter().map(|width| width + 2).sum();
    while shown < widths.len() && used + widths[shown] + 2 <= width {
        used += widths[shown] + 2;
        shown += 1;
    }
    let mut lines = vec![comparison.title().bold().to_string()];
    let heading = headings[..shown].iter().zip(&widths).map(|(text, width)| format!("{text:>width$}"));
    lines.push(format!("  {}", heading.collect::<Vec<_>>().join("  ")).dimmed().to_string());
    for row in &rows {
        let cells = row[..shown].iter().zip(&widths).map(|(cell, width)| {
            let text = if cell.best { format!("{}★", cell.text) } else { cell.text.clone() };
            let padded = format!("{text:>width$}");
            if cell.best { padded.green().to_string() } else { padded }
        });
        lines.push(format!("  {}", cells.collect::<Vec<_>>().join("  ")));
    }
    let more = headings.len() - shown;
    if more > 0 {
        lines.push(format!("  {more} more in the report and in `--json`").dimmed().to_string());
    }
    lines.join("\n")
}
