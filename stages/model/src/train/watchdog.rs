//! Stops a run that went wrong while its last good checkpoint is still good.

use luthier_core::{StageError, StageResult, quoted};

use super::StepReport;

/// Steps in a row that a diverging loss is tolerated.
const PATIENCE: u64 = 10;
/// A loss this many times the best smoothed loss, plus as many nats, counts as diverging.
const FACTOR: f64 = 3.0;
/// Weight of the newest loss in the smoothed one.
const SMOOTHING: f64 = 0.1;

/// Watches the losses go by.
#[derive(Debug, Clone, Default)]
pub struct Watchdog {
    smoothed: Option<f64>,
    best: Option<f64>,
    bad: u64,
}

impl Watchdog {
    /// Whether nothing has looked wrong lately: only then is a checkpoint worth keeping.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.bad == 0
    }

    /// Takes note of a step of an earlier attempt.
    pub fn recall(&mut self, loss: f64) {
        self.take(loss);
    }

    /// Returns the best smoothed loss.
    fn take(&mut self, loss: f64) -> f64 {
        let smoothed = self.smoothed.map_or(loss, |old| old + SMOOTHING * (loss - old));
        self.smoothed = Some(smoothed);
        let best = self.best.map_or(smoothed, |best| best.min(smoothed));
        self.best = Some(best);
        self.bad = if loss > FACTOR * best + FACTOR { self.bad + 1 } else { 0 };
        best
    }

    /// Looks at a step that has been computed but not yet applied.
    ///
    /// # Errors
    /// `train::not_finite` for a loss or gradient that is not a number, `train::diverged` for a loss that stays far above
    /// the best; both name the step, its samples and the last good checkpoint.
    pub fn check(&mut self, report: &StepReport, checkpoint: Option<u64>) -> StageResult<()> {
        let kept = match checkpoint {
            Some(step) => format!("the last good checkpoint is that of step {step}"),
            None => "no checkpoint was written yet".to_owned(),
        };
        let samples = shorten(&report.samples);
        if !(report.loss.is_finite() && (report.grad_norm.is_finite() || report.skipped)) {
            return Err(StageError::new(
                "train::not_finite",
                format!(
                    "step {} has loss {} and gradient norm {}, expected finite numbers (samples {samples}); {kept}",
                    report.step, report.loss, report.grad_norm
                ),
            )
            .hint(match report.loss_scale {
                Some(_) if report.loss.is_finite() => {
                    "set `compute_type: f32`: gradients of f16 overflow here however much they are scaled down"
                }
                _ => "lower `learning_rate`, add `warmup: 10`, or look at those samples with `luthier data show`",
            }));
        }
        let best = self.take(report.loss);
        if self.bad >= PATIENCE {
            return Err(StageError::new(
                "train::diverged",
                format!(
                    "the loss was above {:.2} for {PATIENCE} steps, up to step {} with {:.4} (best smoothed {best:.4}, \
                     samples {samples}); {kept}",
                    FACTOR * best + FACTOR,
                    report.step,
                    report.loss
                ),
            )
            .hint("lower `learning_rate`, or add `warmup: 10`"));
        }
        Ok(())
    }
}

fn shorten(samples: &[String]) -> String {
    let more = samples.len().saturating_sub(8);
    let list = quoted(samples.iter().take(8));
    if more > 0 { format!("[{list} and {more} more]") } else { format!("[{list}]") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64, loss: f64) -> StepReport {
        StepReport { step, loss, grad_norm: 1.0, samples: vec!["s1".to_owned()], ..StepReport::default() }
    }

    #[test]
    fn a_nan_names_step_samples_and_checkpoint() {
        let error = Watchdog::default().check(&report(12, f64::NAN), Some(10)).unwrap_err();
        assert_eq!(error.code, "train::not_finite");
        assert_eq!(
            error.message,
            "step 12 has loss NaN and gradient norm 1, expected finite numbers (samples [`s1`]); the last good checkpoint \
             is that of step 10"
        );
    }

    #[test]
    fn a_step_that_is_left_out_is_no_nan_and_one_that_cannot_be_is() {
        let mut left_out = StepReport { skipped: true, grad_norm: f64::INFINITY, ..report(3, 2.0) };
        left_out.loss_scale = Some(65_536.0);
        Watchdog::default().check(&left_out, None).expect("left out");
        let error = Watchdog::default().check(&StepReport { skipped: false, ..left_out }, None).unwrap_err();
        assert!(error.hints.concat().contains("`compute_type: f32`"));
    }

    #[test]
    fn only_a_lasting_rise_is_divergence() {
        let mut watchdog = Watchdog::default();
        for step in 0..20 {
            watchdog.check(&report(step, 2.0), None).expect("calm");
        }
        for step in 20..29 {
            watchdog.check(&report(step, 50.0), None).expect("patient");
        }
        let error = watchdog.check(&report(29, 50.0), None).unwrap_err();
        assert_eq!(error.code, "train::diverged");
        let mut spike = Watchdog::default();
        for step in 0..200 {
            let loss = if step % 9 == 0 { 50.0 } else { 2.0 };
            spike.check(&report(step, loss), None).expect("spikes pass");
        }
    }
}
