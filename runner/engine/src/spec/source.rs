//! The text of a pipeline file, and places in it.

use camino::{Utf8Path, Utf8PathBuf};
use luthier_core::Location;

/// Bytes `start..end` of a [`SourceText`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    #[must_use]
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

/// A pipeline file as it was read, with the start of each line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceText {
    file: Utf8PathBuf,
    text: String,
    line_starts: Vec<usize>,
}

impl SourceText {
    #[must_use]
    pub fn new(file: impl Into<Utf8PathBuf>, text: impl Into<String>) -> Self {
        let text = text.into();
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(index, _)| index + 1)).collect();
        Self { file: file.into(), text, line_starts }
    }

    /// The path as the user named it.
    #[must_use]
    pub fn file(&self) -> &Utf8Path {
        &self.file
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The bytes of a span; empty if it does not lie in the text.
    #[must_use]
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    /// 1-based line and column (in characters) of a byte offset; an offset past the end counts as the end.
    #[must_use]
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..offset).map_or(offset - start, |before| before.chars().count());
        (line, column + 1)
    }

    /// The text of a 1-based line without its line break, and its first byte.
    #[must_use]
    pub fn line(&self, line: usize) -> (usize, &str) {
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let end = self.line_starts.get(line).copied().unwrap_or(self.text.len());
        (start, self.text[start..end].trim_end_matches(['\n', '\r']))
    }

    /// Where a span begins, for a person to open.
    #[must_use]
    pub fn location(&self, span: Span) -> Location {
        let (line, column) = self.line_column(span.start);
        Location { file: self.file.clone(), line: line as u64, column: column as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let source = SourceText::new("a.yaml", "é: 1\r\nb: 2");
        assert_eq!(source.line_column(0), (1, 1));
        assert_eq!(source.line_column(2), (1, 2));
        assert_eq!(source.line(1), (0, "é: 1"));
        assert_eq!(source.line(2), (7, "b: 2"));
        assert_eq!(source.line_column(7), (2, 1));
        assert_eq!(source.line_column(1000), (2, 5));
        assert_eq!(source.location(Span::new(10, 11)).to_string(), "a.yaml:2:4");
    }
}
