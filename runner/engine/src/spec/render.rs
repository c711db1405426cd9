//! Errors as a person reads them: code, message, the source line with what is meant underlined, and hints.
//!
//! Plain ASCII marks carry the meaning; colour only repeats it. The shape is miette's narrow one, written here because
//! the workspace builds miette without its renderer.

use super::diagnostic::{Diagnostic, Label};
use super::source::SourceText;

/// More than this many errors are counted, not shown: the first ones are mended first.
const SHOWN: usize = 50;
/// Labels of one error that are shown; a ring of a thousand stages is not read.
const LABELS_SHOWN: usize = 12;

struct Paint(bool);

impl Paint {
    fn wrap(&self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn red(&self, text: &str) -> String {
        self.wrap("31;1", text)
    }

    fn cyan(&self, text: &str) -> String {
        self.wrap("36;1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.wrap("2", text)
    }
}

/// All errors, a blank line between two, and a closing count.
pub(super) fn diagnostics(source: &SourceText, items: &[Diagnostic], color: bool, width: usize) -> String {
    let paint = Paint(color);
    let mut blocks: Vec<String> = items.iter().take(SHOWN).map(|item| one(source, item, &paint, width)).collect();
    if items.len() > SHOWN {
        blocks.push(format!("and {}", crate::format::plural(items.len() - SHOWN, "more error", "more errors")));
    }
    if items.len() > 1 {
        blocks.push(format!("{}: {} errors", source.file(), crate::format::count(items.len() as u64)));
    }
    blocks.join("\n\n")
}

fn one(source: &SourceText, item: &Diagnostic, paint: &Paint, width: usize) -> String {
    let mut text = format!("{}\n  {} {}", paint.dim(&format!("luthier::{}", item.code)), paint.red("x"), item.message);
    if let Some(first) = item.labels.first() {
        let shown = &item.labels[..item.labels.len().min(LABELS_SHOWN)];
        let last_line = shown.iter().map(|label| source.line_column(label.span.start).0).max().unwrap_or(1);
        let gutter = last_line.to_string().len().max(2);
        let place = paint.cyan(&source.location(first.span).to_string());
        text.push_str(&format!("\n{:gutter$} {}{place}{}", "", paint.dim(",-["), paint.dim("]")));
        let mut previous = None;
        for (line, labels) in by_line(source, shown) {
            if previous.is_some_and(|previous: usize| line != previous + 1) {
                text.push_str(&format!("\n{:gutter$} {}", "", paint.dim("...")));
            }
            text.push_str(&snippet(source, line, &labels, gutter, paint, width));
            previous = Some(line);
        }
        if item.labels.len() > shown.len() {
            text.push_str(&format!("\n{:gutter$} {}", "", paint.dim("...")));
        }
    } else {
        text.push_str(&format!("\n   {}{}{}", paint.dim(",-["), paint.cyan(source.file().as_str()), paint.dim("]")));
    }
    for hint in &item.hints {
        text.push_str(&format!("\n{} {hint}", paint.cyan("hint:")));
    }
    text
}

/// Labels grouped by line, in the order of the file.
fn by_line<'a>(source: &SourceText, labels: &'a [Label]) -> Vec<(usize, Vec<&'a Label>)> {
    let mut grouped: Vec<(usize, Vec<&Label>)> = Vec::new();
    let mut sorted: Vec<(usize, &Label)> =
        labels.iter().map(|label| (source.line_column(label.span.start).0, label)).collect();
    sorted.sort_by_key(|(line, label)| (*line, label.span.start));
    for (line, label) in sorted {
        match grouped.last_mut() {
            Some((last, group)) if *last == line => group.push(label),
            _ => grouped.push((line, vec![label])),
        }
    }
    grouped
}

fn snippet(source: &SourceText, line: usize, labels: &[&Label], gutter: usize, paint: &Paint, width: usize) -> String {
    let (line_start, content) = source.line(line);
    let chars: Vec<char> = content.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let column = |offset: usize| {
        let end = offset.clamp(line_start, line_start + content.len());
        source.text().get(line_start..end).map_or(0, |before| before.chars().count())
    };
    let room = width.saturating_sub(gutter + 3).max(24);
    let focus = labels.first().map_or(0, |label| column(label.span.start));
    // A long line is cut so that what is marked stands in its first half.
    let from = if chars.len() > room && focus > room / 2 { (focus - room / 2).min(chars.len() - room) } else { 0 };
    let to = chars.len().min(from + room);
    let mut shown: String = chars[from..to].iter().collect();
    if from > 0 {
        shown.replace_range(..shown.chars().next().map_or(0, char::len_utf8), "…");
    }
    if to < chars.len() {
        shown.pop();
        shown.push('…');
    }
    let mut text = format!("\n{} {} {}", paint.dim(&format!("{line:>gutter$}")), paint.dim("|"), shown.trim_end());
    for label in labels {
        let start = column(label.span.start).clamp(from, to.min(from + room - 1));
        let end = column(label.span.end).clamp(start, to).max(start + 1);
        let pad: usize = chars.get(from..start.min(chars.len())).unwrap_or_default().iter().map(|c| columns(*c)).sum();
        let marked: usize =
            chars.get(start..end.min(chars.len())).unwrap_or_default().iter().map(|c| columns(*c)).sum();
        let mut row = |pad: usize, marks: &str| {
            text.push_str(&format!("\n{:gutter$} {} {}{}", "", paint.dim(":"), " ".repeat(pad), paint.red(marks)));
        };
        let marks = "^".repeat(marked.max(1));
        let note: usize = label.text.chars().map(columns).sum();
        if label.text.is_empty() {
            row(pad, &marks);
        } else if pad + marks.len() + 2 + note <= room {
            row(pad, &format!("{marks}  {}", label.text));
        } else {
            row(pad, &marks);
            let lines = broken(&label.text, room);
            let widest = lines.iter().map(|line| line.chars().map(columns).sum()).max().unwrap_or(0);
            lines.iter().for_each(|line| row(pad.min(room.saturating_sub(widest)), line));
        }
    }
    text
}

/// Lines of at most `room` columns, broken between words; a longer word is left whole.
fn broken(text: &str, room: usize) -> Vec<String> {
    let width = |text: &str| text.chars().map(columns).sum::<usize>();
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Terminal columns of a character: two for the East Asian wide blocks and emoji.
fn columns(c: char) -> usize {
    match c as u32 {
        0x0300..=0x036f => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f => 2,
        0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}
