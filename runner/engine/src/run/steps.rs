//! Executing the first steps of a stage again, apart from the store, beside the curves of its stored result.
//!
//! A stage that works in steps, such as a training, emits points while it runs and puts the same points, under the same
//! names, into plots over the step in its outcome. Each point of the new execution is compared with the stored one as it
//! comes, bit for bit; after the last step that was asked for, the stage is told to stop. Its outputs are only made by all
//! steps, so they are compared only if all are executed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use luthier_core::{CancelToken, ErrorClass, EventSink, Section, StageEvent, StageId};
use serde::Serialize;

use super::RunOptions;
use super::again::{Again, CurveDifference, Reexecution};
use crate::error::EngineError;
use crate::lock::Lock;
use crate::pipeline::Pipeline;
use crate::store::Store;

/// How a stage names the axis of a plot whose points it also emits while it runs.
const STEP: &str = "step";

/// What came of it.
#[derive(Debug, Serialize)]
pub struct StepComparison {
    pub stage: StageId,
    /// Steps that were executed and compared: those that were asked for, or up to the first that differs.
    pub steps: u64,
    /// Steps of the stored result.
    pub of: u64,
    /// Points that were compared, by curve.
    pub curves: BTreeMap<String, usize>,
    /// At the first step that differs: each curve that does.
    pub first: Vec<CurveDifference>,
    /// Outputs and metrics, if all steps were executed.
    pub whole: Option<Reexecution>,
}

impl StepComparison {
    #[must_use]
    pub fn equal(&self) -> bool {
        self.first.is_empty() && self.whole.as_ref().is_none_or(Reexecution::equal)
    }
}

type Curves = BTreeMap<String, Vec<(f64, f64)>>;

/// Executes the first `steps` steps of `stage` with the inputs and parameters that the lock names. Nothing of the store
/// changes.
///
/// # Errors
/// As [`super::reexecute`]; the store has no result to compare with, or one of a kind without steps
/// ([`EngineError::NoSteps`]).
#[expect(clippy::too_many_arguments, reason = "those of `reexecute`, and how far")]
pub fn reexecute_steps(
    pipeline: &Pipeline,
    store: &Store,
    lock: &Lock,
    stage: &StageId,
    steps: u64,
    options: &RunOptions,
    sink: &dyn EventSink,
    cancel: &CancelToken,
) -> Result<StepComparison, EngineError> {
    let stop = CancelToken::new();
    let again = Again::prepare(pipeline, store, lock, stage, options, &stop)?;
    let no_steps = || EngineError::NoSteps { stage: stage.clone(), kind: again.job.stage.kind().to_owned() };
    let Some(record) = store.record(&again.locked.key)? else {
        return Err(EngineError::NoRecord { stage: stage.clone() });
    };
    let stored = curves(&record.outcome.sections);
    let of = stored.values().flatten().map(|(x, _)| *x as u64).max().filter(|of| *of > 0).ok_or_else(no_steps)?;
    let steps = steps.min(of);
    let watch = Watch { inner: sink, stored: &stored, steps, of, stop: &stop, cancel, found: Mutex::default() };
    let outcome = again.execute(&watch);
    let found = watch.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let outcome = match outcome {
        Ok(outcome) => Some(outcome),
        Err(EngineError::Failed { failure, .. })
            if failure.class == ErrorClass::Interrupted && stop.is_cancelled() && !cancel.is_cancelled() =>
        {
            None
        }
        Err(error) => return Err(error),
    };
    let compared = found.up_to(steps);
    if !compared.keys().any(|name| stored.contains_key(name)) {
        return Err(no_steps());
    }
    let first = first_difference(&stored, &compared, found.differs.unwrap_or(steps as f64));
    let counted =
        |(name, points): (&String, &Vec<(f64, f64)>)| stored.contains_key(name).then(|| (name.clone(), points.len()));
    let counts = compared.iter().filter_map(counted).collect();
    let executed = first.first().map_or(steps, |difference| difference.x as u64);
    let whole = outcome.filter(|_| steps == of).map(|outcome| again.compare(store, lock, outcome)).transpose()?;
    Ok(StepComparison { stage: stage.clone(), steps: executed, of, curves: counts, first, whole })
}

/// Plots over the step, by the name of the line.
fn curves(sections: &[Section]) -> Curves {
    let lines = sections.iter().filter_map(|section| match section {
        Section::Plot { x_label, series, .. } if x_label == STEP => Some(series),
        _ => None,
    });
    lines.flatten().map(|line| (line.name.clone(), line.points.clone())).collect()
}

#[derive(Default)]
struct Found {
    curves: Curves,
    /// The first step at which a point differs.
    differs: Option<f64>,
}

impl Found {
    fn up_to(&self, steps: u64) -> Curves {
        let within = |points: &[(f64, f64)]| points.iter().copied().filter(|(x, _)| *x <= steps as f64).collect();
        self.curves.iter().map(|(name, points)| (name.clone(), within(points))).collect()
    }
}

/// Compares points as they come and stops the stage when it has gone far enough.
struct Watch<'a> {
    inner: &'a dyn EventSink,
    stored: &'a Curves,
    steps: u64,
    of: u64,
    stop: &'a CancelToken,
    /// The user's.
    cancel: &'a CancelToken,
    found: Mutex<Found>,
}

impl Watch<'_> {
    fn found(&self) -> MutexGuard<'_, Found> {
        // Points are added whole.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for Watch<'_> {
    fn emit(&self, event: StageEvent) {
        if let StageEvent::Point { series, x, y } = &event {
            let mut found = self.found();
            found.curves.entry(series.clone()).or_default().push((*x, *y));
            let differs = self.stored.get(series).is_some_and(|points| !points.iter().any(|at| same(*at, (*x, *y))));
            if differs && found.differs.is_none_or(|first| *x < first) {
                found.differs = Some(*x);
            }
            // A stage that is told to stop ends the step it is in, so the other points of this one still come.
            if found.differs.is_some() || (self.steps < self.of && *x >= self.steps as f64) {
                self.stop.cancel();
            }
        }
        if self.cancel.is_cancelled() {
            self.stop.cancel();
        }
        self.inner.emit(event);
    }
}

fn same(one: (f64, f64), other: (f64, f64)) -> bool {
    one.0.to_bits() == other.0.to_bits() && one.1.to_bits() == other.1.to_bits()
}

/// The curves that differ at the first `x`, at most `until`, at which any does.
fn first_difference(stored: &Curves, found: &Curves, until: f64) -> Vec<CurveDifference> {
    let mut all = Vec::new();
    for (name, new) in found {
        let Some(old) = stored.get(name) else { continue };
        let steps: BTreeSet<u64> = old.iter().chain(new).map(|(x, _)| *x as u64).collect();
        for step in steps.into_iter().filter(|step| *step as f64 <= until) {
            let value = |points: &[(f64, f64)]| points.iter().find(|(x, _)| *x as u64 == step).map(|(_, y)| *y);
            let (before, now) = (value(old), value(new));
            if before.map(f64::to_bits) != now.map(f64::to_bits) {
                all.push(CurveDifference { name: name.clone(), x: step as f64, stored: before, found: now });
                break;
            }
        }
    }
    let first = all.iter().map(|difference| difference.x).fold(f64::INFINITY, f64::min);
    all.retain(|difference| difference.x == first);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl EventSink for Nobody {
        fn emit(&self, _event: StageEvent) {}
    }

    fn curves_of(loss: &[f64], norm: &[f64]) -> Curves {
        let numbered = |values: &[f64]| values.iter().enumerate().map(|(at, y)| ((at + 1) as f64, *y)).collect();
        [("loss".to_owned(), numbered(loss)), ("grad_norm".to_owned(), numbered(norm))].into()
    }

    /// Emits what a training of these values would, until it is told to stop; the steps it made.
    fn emitted(stored: &Curves, steps: u64, loss: &[f64], norm: &[f64]) -> (usize, Vec<CurveDifference>) {
        let (stop, cancel) = (CancelToken::new(), CancelToken::new());
        let watch =
            Watch { inner: &Nobody, stored, steps, of: 4, stop: &stop, cancel: &cancel, found: Mutex::default() };
        let mut made = 0;
        for (at, (loss, norm)) in loss.iter().zip(norm).enumerate() {
            if stop.is_cancelled() {
                break;
            }
            for (series, y) in [("loss", loss), ("grad_norm", norm), ("other", norm)] {
                watch.emit(StageEvent::Point { series: series.to_owned(), x: (at + 1) as f64, y: *y });
            }
            made += 1;
        }
        let found = watch.found.into_inner().unwrap();
        let until = found.differs.unwrap_or(steps as f64);
        (made, first_difference(stored, &found.up_to(steps), until))
    }

    #[test]
    fn points_are_compared_bit_for_bit_and_the_first_step_is_named() {
        let (loss, norm) = ([4.0, 3.0, 0.1 + 0.2, 1.0], [1.0, 2.0, 3.0, 4.0]);
        let stored = curves_of(&loss, &norm);
        assert_eq!(emitted(&stored, 2, &loss, &norm), (2, Vec::new()), "it stops after the steps that were asked for");
        assert_eq!(emitted(&stored, 4, &loss, &norm), (4, Vec::new()));
        let at = |name: &str, x, stored, found| CurveDifference { name: name.to_owned(), x, stored, found };
        let drifted = [4.0, 3.0, 0.3, 9.0];
        assert_eq!(emitted(&stored, 2, &drifted, &norm), (2, Vec::new()), "later than what was asked for");
        assert_eq!(
            emitted(&stored, 4, &drifted, &norm),
            (3, vec![at("loss", 3.0, Some(0.1 + 0.2), Some(0.3))]),
            "by the last bit"
        );
        let both = [at("grad_norm", 2.0, Some(2.0), Some(2.5)), at("loss", 2.0, Some(3.0), Some(3.5))];
        assert_eq!(emitted(&stored, 4, &[4.0, 3.5, 1.0, 1.0], &[1.0, 2.5, 1.0, 1.0]), (2, both.to_vec()));
        let short = curves_of(&loss[..2], &norm);
        assert_eq!(emitted(&short, 4, &loss, &norm), (3, vec![at("loss", 3.0, None, Some(0.1 + 0.2))]));
    }
}
