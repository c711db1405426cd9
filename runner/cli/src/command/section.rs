//! Sections of a stage's account as plain text; plots are left to the report.

use luthier_core::Section;
use luthier_engine::format;
use owo_colors::OwoColorize;

use crate::histogram;

/// A column is not squeezed below this.
const NARROWEST: usize = 8;
/// Wider cells push what is right of them away, where nothing cuts them.
const WIDEST: usize = 60;

/// `width` is that of the terminal: wider tables are squeezed, long cells cut. Without one everything is shown.
pub fn text(section: &Section, width: Option<usize>) -> String {
    match section {
        Section::Table { title, columns, rows } | Section::Samples { title, columns, rows } => {
            let mut lines = vec![format!("\n{}", title.bold())];
            lines.extend(table(columns, rows, width));
            lines.join("\n")
        }
        Section::Funnel { title, unit, steps } => {
            let mut lines = vec![format!("\n{}", title.bold())];
            lines.extend(
                steps.iter().map(|(label, count)| format!("  {label:<32} {:>12} {unit}", format::count(*count))),
            );
            lines.join("\n")
        }
        Section::Text { title, body } => format!("\n{}\n{body}", title.bold()),
        Section::Histogram { title, bins, .. } => {
            let mut lines = vec![format!("\n{}", title.bold())];
            lines.extend(histogram::draw(bins));
            lines.join("\n")
        }
        Section::Plot { title, series, .. } => {
            let points: usize = series.iter().map(|line| line.points.len()).sum();
            format!("\n{} ({points} points, drawn by `luthier report`)", title.bold())
        }
    }
}

fn table(columns: &[String], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let lines: Vec<Vec<String>> = std::iter::once(columns)
        .chain(rows.iter().map(Vec::as_slice))
        .map(|row| row.iter().map(|cell| shown(cell)).collect())
        .collect();
    let mut widths = vec![0; columns.len()];
    for row in &lines {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    match width {
        Some(most) => squeeze(&mut widths, most.saturating_sub(2 * columns.len())),
        None => widths.iter_mut().for_each(|width| *width = (*width).min(WIDEST)),
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, most)| {
            let cell = if width.is_some() { cut(cell, *most) } else { cell.clone() };
            format!("{cell:<most$}", most = *most)
        });
        format!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

/// Takes from the widest until all fit into `most`.
fn squeeze(widths: &mut [usize], most: usize) {
    while widths.iter().sum::<usize>() > most {
        match widths.iter_mut().max_by_key(|width| **width) {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => return,
        }
    }
}

fn cut(cell: &str, most: usize) -> String {
    match cell.char_indices().nth(most) {
        Some(_) => cell.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        None => cell.to_owned(),
    }
}

/// On one line, and unable to command the terminal.
fn shown(cell: &str) -> String {
    harmless(&cell.replace('\n', "⏎"))
}

/// Text of data, in which control characters other than tabs and line ends are written out.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_fit_the_terminal() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let long = "a long text\nthat \u{1b}[31mgoes on and on, further than any terminal is wide";
        let section = Section::Samples {
            title: "Dropped".to_owned(),
            columns: row(["step", "reason", "text"]),
            rows: vec![row(["length", "short", long]), row(["language-of-a-long-name", "other", "b"])],
        };
        let shown: Vec<String> = text(&section, Some(50)).lines().skip(2).map(str::to_owned).collect();
        assert_eq!(
            shown,
            [
                "  step                 reason  text",
                "  length               short   a long text⏎that \\…",
                "  language-of-a-long…  other   b",
            ]
        );
        assert!(text(&section, Some(40)).lines().all(|line| line.chars().count() <= 40));
        assert!(text(&section, None).contains("than any terminal is wide"));
        assert!(!text(&section, None).contains("\u{1b}[31m"));
    }
}
