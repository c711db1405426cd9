//! The component's side of the boundary: batches in, verdicts out, for any [`Filter`].

use std::cell::RefCell;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bindings::exports::luthier::filter::filter as exported;
use crate::bindings::luthier::filter::host;
use crate::bindings::luthier::filter::types::{
    Column, ConfigIssue, Edits, Manifest, OpenError, Refusal, Score, ScoreKind as WireKind, Verdicts,
};
use crate::config::ConfigValue;
use crate::filter::{Filter, Row, ScoreKind, Scores, Verdict};
use crate::json::Json;

/// The row being judged, for the panic message; `u32::MAX` between rows.
static ROW: AtomicU32 = AtomicU32::new(u32::MAX);

/// Adapts a [`Filter`] to the exported interface.
pub struct Exported<F>(std::marker::PhantomData<F>);

/// A configured filter.
pub struct Session<F>(RefCell<F>);

impl<F: Filter> exported::Guest for Exported<F> {
    type Session = Session<F>;

    fn describe() -> Manifest {
        hook_panics();
        let about = F::ABOUT;
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Manifest {
            name: about.name.to_owned(),
            version: about.version.to_owned(),
            about: about.about.to_owned(),
            text: about.text.to_owned(),
            reads: owned(about.reads),
            scores: about
                .scores
                .iter()
                .map(|(name, kind)| Score { name: (*name).to_owned(), kind: wire_kind(*kind) })
                .collect(),
            reasons: owned(about.reasons),
            edits_text: about.edits,
            config_schema: F::Config::schema(),
        }
    }
}

fn wire_kind(kind: ScoreKind) -> WireKind {
    match kind {
        ScoreKind::Real => WireKind::Real,
        ScoreKind::Count => WireKind::Count,
        ScoreKind::Flag => WireKind::Flag,
    }
}

fn hook_panics() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let what = info.payload_as_str().unwrap_or("panicked");
            let place = info.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default();
            let row = ROW.load(Ordering::Relaxed);
            host::panic((row != u32::MAX).then_some(row), &place, what);
        }));
    });
}

impl<F: Filter> exported::GuestSession for Session<F> {
    fn open(config: String) -> Result<exported::Session, OpenError> {
        hook_panics();
        let json = Json::parse(&config).map_err(|error| issue(format!("the configuration is not JSON: {error}")))?;
        let mut issues = Vec::new();
        let parsed = F::Config::parse(&json, "", &mut issues);
        let Some(config) = parsed.filter(|_| issues.is_empty()) else {
            let issues = issues.into_iter().map(|issue| ConfigIssue { path: issue.path, message: issue.message });
            return Err(OpenError::Config(issues.collect()));
        };
        let filter = F::open(config).map_err(issue)?;
        Ok(exported::Session::new(Self(RefCell::new(filter))))
    }

    fn process(&self, rows: u32, texts: Column, reads: Vec<Column>) -> Result<Verdicts, String> {
        let about = F::ABOUT;
        let mut filter = self.0.borrow_mut();
        let rows = rows as usize;
        let texts = View::new(&texts);
        let reads: Vec<View<'_>> = reads.iter().map(View::new).collect();
        let mut drop = Vec::new();
        let mut values = vec![0.0f32; about.scores.len() * rows];
        let mut edits = Edits { rows: Vec::new(), offsets: vec![0], data: Vec::new() };
        let mut refusals = Vec::new();
        let mut columns = vec![""; reads.len()];
        for row in 0..rows {
            ROW.store(row as u32, Ordering::Relaxed);
            for (slot, view) in columns.iter_mut().zip(&reads) {
                *slot = view.get(row);
            }
            let seen = Row { index: row, text: texts.get(row), names: about.reads, columns: &columns };
            let mut scores = Scores { names: about.scores, values: &mut values, rows, row };
            match filter.judge(&seen, &mut scores) {
                Verdict::Keep => {}
                Verdict::Drop(reason) => match about.reasons.iter().position(|known| *known == reason) {
                    Some(at) => {
                        if drop.is_empty() {
                            drop = vec![0u8; rows];
                        }
                        drop[row] = 1 + at as u8;
                    }
                    None => refusals.push(Refusal {
                        row: row as u32,
                        why: format!(
                            "dropped for `{reason}`, which is not a declared reason (`{}`)",
                            about.reasons.join("`, `")
                        ),
                    }),
                },
                Verdict::Edit(text) => {
                    edits.rows.push(row as u32);
                    edits.data.extend_from_slice(text.as_bytes());
                    edits.offsets.push(edits.data.len() as u32);
                }
                Verdict::Refuse(why) => refusals.push(Refusal { row: row as u32, why }),
            }
        }
        ROW.store(u32::MAX, Ordering::Relaxed);
        let edits = (!edits.rows.is_empty()).then_some(edits);
        Ok(Verdicts { drop, scores: values, edits, refusals })
    }
}

fn issue(message: String) -> OpenError {
    OpenError::Config(vec![ConfigIssue { path: String::new(), message }])
}

/// A column as texts.
struct View<'a> {
    offsets: &'a [u32],
    data: &'a str,
}

impl<'a> View<'a> {
    fn new(column: &'a Column) -> Self {
        // SAFETY: the world promises UTF-8, which the host holds as a `str` and cuts at character boundaries; a host
        // that lies could write to this memory as well.
        let data = unsafe { std::str::from_utf8_unchecked(&column.data) };
        Self { offsets: &column.offsets, data }
    }

    fn get(&self, row: usize) -> &'a str {
        &self.data[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }
}
