//! The trait behind `#[filter]`, and what it sees and says.

use crate::config::ConfigValue;

/// What a score column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreKind {
    Real,
    /// A whole number up to 2^24.
    Count,
    /// 0 or 1.
    Flag,
}

/// What a filter says about itself.
#[derive(Debug, Clone, Copy)]
pub struct About {
    pub name: &'static str,
    pub version: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// The column to judge when the pipeline does not say; empty for the text of the dataset.
    pub text: &'static str,
    /// Further columns to see.
    pub reads: &'static [&'static str],
    pub scores: &'static [(&'static str, ScoreKind)],
    /// Every reason that a [`Verdict::Drop`] may give.
    pub reasons: &'static [&'static str],
    /// May return [`Verdict::Edit`].
    pub edits: bool,
}

/// A filter: opened once per worker thread with its configuration, then asked row by row.
pub trait Filter: Sized + 'static {
    type Config: ConfigValue;

    const ABOUT: About;

    /// Builds whatever the rows need.
    ///
    /// # Errors
    /// A message about the configuration.
    fn open(config: Self::Config) -> Result<Self, String>;

    /// Judges one row. Must not depend on the rows before it.
    fn judge(&mut self, row: &Row<'_>, scores: &mut Scores<'_>) -> Verdict;

    /// Keys of the configuration that no score depends on, for [`Filter::select`].
    const THRESHOLDS: &'static [&'static str] = &[];

    /// How many scores, from the first on, [`Filter::judge`] sets of a row that it drops for this reason; the rest are 0.
    fn measured(_reason: &str) -> usize {
        Self::ABOUT.scores.len()
    }

    /// What [`Filter::judge`] would say of a row with these scores; `None` if that does not follow from them. `before` is why
    /// the row went under the thresholds under which it was judged. One that stayed keeps the text it was given then.
    fn select(&self, _scores: &[f32], _before: Option<&str>) -> Option<Verdict> {
        None
    }
}

/// What happens to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// For one of the reasons that the filter declares.
    Drop(&'static str),
    /// Keep the row with this text in place of the judged column.
    Edit(String),
    /// The row cannot be judged: an error that names the row, with this message.
    Refuse(String),
}

/// One row of the dataset, as text.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub(crate) index: usize,
    pub(crate) text: &'a str,
    pub(crate) names: &'static [&'static str],
    pub(crate) columns: &'a [&'a str],
}

impl<'a> Row<'a> {
    /// A row for code that drives a filter itself: `columns` are the values of `names`, in that order.
    #[must_use]
    pub fn new(index: usize, text: &'a str, names: &'static [&'static str], columns: &'a [&'a str]) -> Self {
        Self { index, text, names, columns }
    }

    /// The judged column.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// A column named in `reads`; empty where the row has none.
    ///
    /// # Panics
    /// If `name` is not in `reads`.
    #[must_use]
    pub fn column(&self, name: &str) -> &'a str {
        match self.names.iter().position(|known| *known == name) {
            Some(at) => self.columns[at],
            None => panic!("column `{name}` is not in reads = {:?}", self.names),
        }
    }

    /// The position in this batch; says nothing about the dataset.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }
}

/// Where a filter writes the scores of one row; what it does not set is 0.
#[derive(Debug)]
pub struct Scores<'a> {
    pub(crate) names: &'static [(&'static str, ScoreKind)],
    /// Column-major: `values[score * rows + row]`.
    pub(crate) values: &'a mut [f32],
    pub(crate) rows: usize,
    pub(crate) row: usize,
}

impl<'a> Scores<'a> {
    /// Scores of row `row` of `rows`, for code that drives a filter itself. `values` is column-major:
    /// `values[score * rows + row]`.
    #[must_use]
    pub fn new(names: &'static [(&'static str, ScoreKind)], values: &'a mut [f32], rows: usize, row: usize) -> Self {
        Self { names, values, rows, row }
    }

    /// Sets a declared score.
    ///
    /// # Panics
    /// If `name` is not declared.
    pub fn set(&mut self, name: &str, value: f32) {
        match self.names.iter().position(|(known, _)| *known == name) {
            Some(at) => self.values[at * self.rows + self.row] = value,
            None => panic!("score `{name}` is not in scores = {:?}", self.names),
        }
    }

    /// Sets the scores from the declared one at `first` on, in the order declared.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn set_from(&mut self, first: usize, values: &[f64]) {
        for (at, value) in (first..).zip(values) {
            self.values[at * self.rows + self.row] = *value as f32;
        }
    }
}
