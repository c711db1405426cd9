//! The evaluation rows, by their runs of words.
//!
//! Memory is about 12 bytes per different run of a row and a bit table, for the evaluation sets only; training rows pass
//! one by one. Two different runs are taken for one with a chance of 2^-64 per pair.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Serialize;

use super::DecontaminateConfig;
use super::words::HashedWords;

/// An evaluation row.
#[derive(Debug, Clone)]
struct EvalRow {
    /// Which of the evaluation sets.
    set: u32,
    id: String,
    /// Different runs that count towards the share.
    runs: u32,
}

/// Which rows have a run: sorted, behind a sieve of bits.
#[derive(Debug, Default)]
struct Runs {
    entries: Vec<(u64, u32)>,
    sieve: Vec<u64>,
}

impl Runs {
    /// Leaves out runs of more than `most` rows.
    fn new(mut entries: Vec<(u64, u32)>, most: u32) -> Self {
        entries.sort_unstable();
        entries.dedup();
        let mut kept = Vec::with_capacity(entries.len());
        for run in entries.chunk_by(|a, b| a.0 == b.0) {
            if run.len() <= most as usize {
                kept.extend_from_slice(run);
            }
        }
        // Sixteen bits for each, so that most runs of training rows end at one look.
        let words = (kept.len() / 4).next_power_of_two().max(16);
        let mut runs = Self { entries: kept, sieve: vec![0; words] };
        for at in 0..runs.entries.len() {
            let (word, bit) = runs.bit(runs.entries[at].0);
            runs.sieve[word] |= bit;
        }
        runs
    }

    fn bit(&self, run: u64) -> (usize, u64) {
        ((run >> 6) as usize & (self.sieve.len() - 1), 1 << (run & 63))
    }

    /// The rows that have this run.
    fn rows(&self, run: u64) -> impl Iterator<Item = u32> + '_ {
        let (word, bit) = self.bit(run);
        let found = if self.sieve[word] & bit == 0 {
            &[][..]
        } else {
            let start = self.entries.partition_point(|(entry, _)| *entry < run);
            let end = start + self.entries[start..].partition_point(|(entry, _)| *entry == run);
            &self.entries[start..end]
        };
        found.iter().map(|(_, row)| *row)
    }
}

/// Takes in the rows of evaluation sets.
pub(super) struct IndexBuilder {
    config: DecontaminateConfig,
    rows: Vec<EvalRow>,
    long: Vec<(u64, u32)>,
    short: Vec<(u64, u32)>,
    whole: Vec<(u64, u32)>,
}

/// All evaluation rows.
pub(super) struct EvalIndex {
    config: DecontaminateConfig,
    rows: Vec<EvalRow>,
    long: Runs,
    short: Runs,
    whole: Runs,
}

/// Why a training row is dropped.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Finding {
    #[serde(skip)]
    pub reason: &'static str,
    /// The evaluation set: its number among the inputs.
    #[serde(skip)]
    pub set: u32,
    /// Id of the evaluation row that it has most in common with.
    pub row: String,
    /// Share of that row's runs of words found here.
    pub share: f64,
    /// What matches, in bytes of the compared text, and its words.
    pub spans: Vec<Span>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
    pub text: String,
}

/// Reasons in `filter_reason`.
const SAME: &str = "equal-to-eval";
const NGRAM: &str = "ngram-of-eval";
const CONTAINED: &str = "contains-eval";

impl IndexBuilder {
    pub fn new(config: DecontaminateConfig) -> Self {
        Self { config, rows: Vec::new(), long: Vec::new(), short: Vec::new(), whole: Vec::new() }
    }

    pub fn add(&mut self, set: u32, id: &str, text: &str) {
        let words = HashedWords::of(text);
        if words.len() == 0 {
            return;
        }
        let row = self.rows.len() as u32;
        self.long.extend(words.runs(self.config.ngram).map(|run| (run, row)));
        self.short.extend(words.runs(self.config.contained_ngram).map(|run| (run, row)));
        self.whole.push((words.whole(), row));
        self.rows.push(EvalRow { set, id: id.to_owned(), runs: 0 });
    }

    pub fn finish(self) -> EvalIndex {
        let most = self.config.template_rows;
        let (long, short) = (Runs::new(self.long, most), Runs::new(self.short, most));
        let mut rows = self.rows;
        for (_, row) in &short.entries {
            rows[*row as usize].runs += 1;
        }
        EvalIndex { config: self.config, rows, long, short, whole: Runs::new(self.whole, u32::MAX) }
    }
}

impl EvalIndex {
    /// Rows that can be found, by evaluation set.
    pub fn rows_of(&self, set: u32) -> usize {
        self.rows.iter().filter(|row| row.set == set).count()
    }

    /// What a training text has in common with an evaluation row, if that is too much.
    pub fn find(&self, text: &str) -> Option<Finding> {
        let words = HashedWords::of(text);
        if words.len() == 0 {
            return None;
        }
        if let Some(row) = self.whole.rows(words.whole()).next() {
            let all = words.place(0, words.len() - 1);
            return Some(self.finding(SAME, row, 1.0, text, vec![all]));
        }
        // How many different runs of each evaluation row stand here, and where.
        let mut shared: BTreeMap<u32, Vec<(u64, usize)>> = BTreeMap::new();
        for (at, run) in words.runs(self.config.contained_ngram).enumerate() {
            for row in self.short.rows(run) {
                shared.entry(row).or_default().push((run, at));
            }
        }
        let share = |row: u32| {
            let mut runs: Vec<u64> =
                shared.get(&row).map(|places| places.iter().map(|(run, _)| *run).collect()).unwrap_or_default();
            runs.sort_unstable();
            runs.dedup();
            let all = self.rows[row as usize].runs;
            if all == 0 { 0.0 } else { runs.len() as f64 / f64::from(all) }
        };
        let mut hits: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, run) in words.runs(self.config.ngram).enumerate() {
            for row in self.long.rows(run) {
                hits.entry(row).or_default().push(at);
            }
        }
        if let Some((row, places)) = hits.iter().max_by_key(|(row, places)| (places.len(), std::cmp::Reverse(**row))) {
            let spans = merge(places.iter().copied(), self.config.ngram);
            let spans = spans.into_iter().map(|span| words.place(span.start, span.end - 1)).collect();
            return Some(self.finding(NGRAM, *row, share(*row), text, spans));
        }
        let (row, share) = shared
            .keys()
            .map(|row| (*row, share(*row)))
            .max_by(|a, b| a.1.total_cmp(&b.1).then_with(|| b.0.cmp(&a.0)))?;
        if share < self.config.contained {
            return None;
        }
        let places = shared.get(&row).into_iter().flatten().map(|(_, at)| *at);
        let spans = merge(places, self.config.contained_ngram);
        let spans = spans.into_iter().map(|span| words.place(span.start, span.end - 1)).collect();
        Some(self.finding(CONTAINED, row, share, text, spans))
    }

    fn finding(&self, reason: &'static str, row: u32, share: f64, text: &str, spans: Vec<Range<usize>>) -> Finding {
        let row = &self.rows[row as usize];
        let spans =
            spans.into_iter().map(|span| Span { start: span.start, end: span.end, text: text[span].to_owned() });
        Finding { reason, set: row.set, row: row.id.clone(), share, spans: spans.collect() }
    }
}

/// Runs of `n` words that start at ascending places, as spans of words; what overlaps or touches is one.
fn merge(places: impl Iterator<Item = usize>, n: usize) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for at in places {
        match spans.last_mut() {
            Some(last) if at <= last.end => last.end = last.end.max(at + n),
            _ => spans.push(at..at + n),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &str = "A luthier sells four violins for 1,200 dollars each and two cellos for 3,000 dollars each. \
                            How much does she earn in all?";

    fn index(config: DecontaminateConfig, rows: &[&str]) -> EvalIndex {
        let mut builder = IndexBuilder::new(config);
        rows.iter().enumerate().for_each(|(at, row)| builder.add(at as u32 % 2, &format!("eval-{at}"), row));
        builder.finish()
    }

    #[test]
    fn a_shared_run_of_thirteen_words_is_found_with_its_span() {
        let index = index(DecontaminateConfig::default(), &["Short question?", QUESTION]);
        let train = "Here is one: a LUTHIER sells four violins for 1200 dollars; no. It says \
                     “for 1,200 dollars each, and two cellos for 3,000 dollars each” and stops.";
        let finding = index.find(train).unwrap();
        assert_eq!((finding.reason, finding.set, finding.row.as_str()), (NGRAM, 1, "eval-1"));
        assert_eq!(finding.spans.len(), 1);
        let span = &finding.spans[0];
        assert_eq!(span.text, "for 1,200 dollars each, and two cellos for 3,000 dollars each");
        assert_eq!(&train[span.start..span.end], span.text);
        // One word less is not enough.
        assert_eq!(index.find(&train.replace("each” and", "” and")), None);
    }

    #[test]
    fn most_of_a_row_is_found_without_a_long_run() {
        let config = DecontaminateConfig { ngram: 40, contained: 0.6, ..DecontaminateConfig::default() };
        let index = index(config, &[QUESTION]);
        let finding = index.find(&QUESTION.replace("in all", "then")).unwrap();
        assert_eq!(finding.reason, CONTAINED);
        assert!((0.6..1.0).contains(&finding.share), "{}", finding.share);
        assert!(finding.spans[0].text.starts_with("A luthier sells") && finding.spans[0].text.ends_with("she earn"));
        assert_eq!(index.find("A luthier sells four violins for 1,200 dollars each and goes home."), None);
    }

    #[test]
    fn short_rows_are_found_when_they_are_equal() {
        let index = index(DecontaminateConfig::default(), &["How is 'tomato' pronounced?\nT AH0 M EY1 T OW2"]);
        let finding = index.find("how is TOMATO pronounced: t ah0 m ey1 t ow2").unwrap();
        assert_eq!((finding.reason, finding.share), (SAME, 1.0));
        assert_eq!(index.find("How is 'potato' pronounced?\nP AH0 T EY1 T OW2"), None);
        assert_eq!(index.find(""), None);
    }

    #[test]
    fn templates_do_not_count() {
        let row = |name: &str| {
            format!(
                "Please answer the following question about the instrument with one word and nothing else: what is {name}?"
            )
        };
        let names: Vec<String> = (0..20).map(|at| row(&format!("number {at}"))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(index(DecontaminateConfig::default(), &names).find(&row("a lute")), None);
        // With few rows the same run is no template.
        assert_eq!(index(DecontaminateConfig::default(), &names[..5]).find(&row("a lute")).unwrap().reason, NGRAM);
    }

    #[test]
    fn spans_that_touch_are_one() {
        assert_eq!(merge([0, 1, 2, 9, 12].into_iter(), 3), [0..5, 9..15]);
    }
}
