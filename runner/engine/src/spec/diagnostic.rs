//! What is wrong with a pipeline file: every error at once, each with its source line.

use std::fmt;
use std::sync::Arc;

use luthier_core::{ConfigIssue, ErrorClass};
use serde_json::{Value, json};

use super::render;
use super::source::{SourceText, Span};

/// A marked place with a few words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// `area::what`.
    pub code: &'static str,
    /// Lowercase fragment: what was found and what was expected.
    pub message: String,
    /// The first is where the error is; the others explain it. Empty only if the file could not be read.
    pub labels: Vec<Label>,
    /// Each a sentence with an edit or a command that works.
    pub hints: Vec<String>,
}

impl Diagnostic {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), labels: Vec::new(), hints: Vec::new() }
    }

    #[must_use]
    pub fn at(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    #[must_use]
    pub fn hint_if(mut self, hint: Option<String>) -> Self {
        self.hints.extend(hint);
        self
    }

    /// An issue of a `with` block, at the place it is about.
    #[must_use]
    pub fn of_config(stage: &str, kind: &str, issue: &ConfigIssue, span: Span) -> Self {
        let help = issue.help.clone().unwrap_or_else(|| format!("`luthier stages {kind}` documents what it takes"));
        Self::new("spec::config", format!("stage `{stage}`: {}", issue.message)).at(span, issue.path.clone()).hint(help)
    }

    fn sort_key(&self) -> (Span, &'static str, &str) {
        (self.labels.first().map(|label| label.span).unwrap_or_default(), self.code, &self.message)
    }
}

/// All errors of one file, in the order of their places. Never empty.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    source: Arc<SourceText>,
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Sorts, and drops what is said twice (the members of a matrix share their text).
    #[must_use]
    pub fn new(source: Arc<SourceText>, mut items: Vec<Diagnostic>) -> Self {
        items.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
        items.dedup_by(|a, b| a.sort_key() == b.sort_key());
        Self { source, items }
    }

    #[must_use]
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    #[must_use]
    pub fn source(&self) -> &Arc<SourceText> {
        &self.source
    }

    /// Always the user's input.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Input
    }

    /// All errors as text with source lines, without a final line break. `width` is the terminal's, in columns; longer
    /// source lines are cut around what is marked.
    #[must_use]
    pub fn render(&self, color: bool, width: usize) -> String {
        render::diagnostics(&self.source, &self.items, color, width)
    }

    /// `{"file", "errors": [{code, message, hints, labels: [{line, column, end_line, end_column, offset, length, text}]}]}`
    #[must_use]
    pub fn to_json(&self) -> Value {
        let label = |label: &Label| {
            let (line, column) = self.source.line_column(label.span.start);
            let (end_line, end_column) = self.source.line_column(label.span.end);
            json!({
                "line": line, "column": column, "end_line": end_line, "end_column": end_column,
                "offset": label.span.start, "length": label.span.end.saturating_sub(label.span.start),
                "text": label.text,
            })
        };
        let errors: Vec<Value> = self
            .items
            .iter()
            .map(|item| {
                json!({
                    "code": item.code,
                    "message": item.message,
                    "hints": item.hints,
                    "labels": item.labels.iter().map(label).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({"file": self.source.file(), "errors": errors})
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false, 120))
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(format!("luthier::{}", self.code)))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.hints.is_empty()).then(|| Box::new(self.hints.join("\n")) as Box<dyn fmt::Display + 'a>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().map(|label| {
            let length = label.span.end.saturating_sub(label.span.start);
            miette::LabeledSpan::new(Some(label.text.clone()), label.span.start, length)
        })))
    }
}

impl miette::Diagnostic for Diagnostics {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new("luthier::spec::invalid"))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&*self.source)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(self.items.iter().map(|item| item as &dyn miette::Diagnostic)))
    }
}

impl miette::SourceCode for SourceText {
    fn read_span<'a>(
        &'a self,
        span: &miette::SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        let contents = self.text().read_span(span, before, after)?;
        Ok(Box::new(miette::MietteSpanContents::new_named(
            self.file().to_string(),
            contents.data(),
            *contents.span(),
            contents.line(),
            contents.column(),
            contents.line_count(),
        )))
    }
}
