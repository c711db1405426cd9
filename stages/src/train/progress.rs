//! Curves, rates and what is said about them.

use std::time::Instant;

use luthier_core::{Section, Series, StageContext, StageEvent};
use luthier_model::train::{StepRecord, StepReport};

/// Speed since the start of this process, for the eye.
pub(super) struct Meter {
    started: Instant,
    tokens: u64,
    trained: u64,
    best: f64,
    last: Instant,
}

impl Meter {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { started: now, tokens: 0, trained: 0, best: 0.0, last: now }
    }

    /// Counts a step and reports it.
    pub fn step(&mut self, context: &StageContext<'_>, report: &StepReport, total: u64) {
        self.tokens += report.tokens as u64;
        self.trained += report.trained as u64;
        let now = Instant::now();
        let seconds = now.duration_since(self.last).as_secs_f64().max(1e-9);
        self.last = now;
        self.best = self.best.max(report.tokens as f64 / seconds);
        let left_out = if report.skipped { " · left out: gradients overflowed" } else { "" };
        let note = format!("loss {:.3} · {:.0} tokens/s{left_out}", report.loss, report.tokens as f64 / seconds);
        context.progress(report.step, total, "steps", note);
        let x = report.step as f64;
        let emit = |series: &str, y: f64| context.emit(StageEvent::Point { series: series.to_owned(), x, y });
        emit("loss", report.loss);
        emit("learning_rate", report.learning_rate);
        if report.skipped {
            let scale = report.loss_scale.unwrap_or(1.0);
            context.log(format!(
                "step {} was left out: at a loss scale of {scale} its gradients overflow f16; the scale is halved",
                report.step
            ));
        } else {
            emit("grad_norm", report.grad_norm);
        }
        if let Some(scale) = report.loss_scale {
            emit("loss_scale", scale);
        }
    }

    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    pub fn trained_per_second(&self) -> f64 {
        self.trained as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Tokens per second of the fastest step.
    pub fn best(&self) -> f64 {
        self.best
    }

    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// Loss, validation loss, learning rate and gradient norm over the steps, each named as its points were while it ran.
pub(super) fn curves(history: &[StepRecord], validation: &[(u64, f64)]) -> Vec<Section> {
    let points = |value: fn(&StepRecord) -> Option<f64>| {
        let points = history.iter().enumerate();
        points.filter_map(|(index, record)| Some(((index + 1) as f64, value(record)?))).collect()
    };
    let series = |name: &str, points: Vec<(f64, f64)>| Series { name: name.to_owned(), points };
    let plot = |title: &str, y_label: &str, series: Vec<Series>| Section::Plot {
        title: title.to_owned(),
        x_label: "step".to_owned(),
        y_label: y_label.to_owned(),
        series,
    };
    let mut losses = vec![series("loss", points(|record| Some(record.loss)))];
    if !validation.is_empty() {
        losses.push(series("validation_loss", validation.iter().map(|(step, loss)| (*step as f64, *loss)).collect()));
    }
    vec![
        plot("Loss", "nats per trained token", losses),
        plot("Learning rate", "", vec![series("learning_rate", points(|record| Some(record.learning_rate)))]),
        plot(
            "Gradient norm",
            "before clipping",
            vec![series("grad_norm", points(|record| (!record.skipped).then_some(record.grad_norm)))],
        ),
    ]
}
