//! How long a stage still takes: by its own pace once that is known, by the last run's time before.

use std::time::{Duration, Instant};

use luthier_core::Progress;

/// The pace counts once it was watched for this long.
const WATCHED: Duration = Duration::from_secs(2);

/// Follows one execution.
#[derive(Debug)]
pub struct Eta {
    since: Instant,
    /// What the last execution took, in seconds.
    last: Option<f64>,
    /// Where the present phase was first seen: loading a model or resuming says nothing about the pace after it.
    phase: Option<Phase>,
}

#[derive(Debug)]
struct Phase {
    seen: Instant,
    done: u64,
    total: u64,
    unit: String,
    left: Option<(Instant, f64)>,
}

impl Eta {
    #[must_use]
    pub fn new(now: Instant, last: Option<f64>) -> Self {
        Self { since: now, last, phase: None }
    }

    pub fn progress(&mut self, now: Instant, progress: &Progress) {
        let same = self.phase.as_ref().is_some_and(|phase| {
            phase.total == progress.total && phase.unit == progress.unit && phase.done <= progress.done
        });
        if !same {
            let (done, total, unit) = (progress.done, progress.total, progress.unit.clone());
            self.phase = Some(Phase { seen: now, done, total, unit, left: None });
        }
        let Some(phase) = &mut self.phase else { return };
        let watched = now.duration_since(phase.seen);
        if progress.total > progress.done && progress.done > phase.done && watched >= WATCHED {
            let pace = watched.as_secs_f64() / (progress.done - phase.done) as f64;
            phase.left = Some((now, pace * (progress.total - progress.done) as f64));
        }
    }

    /// Seconds left at `now`; `None` where nothing is known, or what was known is over.
    #[must_use]
    pub fn left(&self, now: Instant) -> Option<f64> {
        let measured = self.phase.as_ref().and_then(|phase| phase.left);
        let left = match measured {
            Some((at, left)) => left - now.duration_since(at).as_secs_f64(),
            None => self.last? - now.duration_since(self.since).as_secs_f64(),
        };
        (left > 0.0).then_some(left)
    }
}

/// `0:42`, `12:05`, `2:10:00`.
#[must_use]
pub fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_of_a_phase_counts_from_where_it_was_first_seen() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let step = |done| Progress { done, total: 100, unit: "steps".to_owned(), ..Progress::default() };
        let mut eta = Eta::new(start, Some(60.0));
        assert_eq!(eta.left(at(20)), Some(40.0), "by the last run");
        assert_eq!(eta.left(at(70)), None);
        // Resumed at 50 after 30 s of loading; then a step per second.
        eta.progress(at(30), &step(50));
        eta.progress(at(40), &step(60));
        assert_eq!(eta.left(at(40)), Some(40.0));
        assert_eq!(eta.left(at(45)), Some(35.0), "it counts down between events");
        eta.progress(at(50), &Progress { done: 1, total: 10, unit: "rows".to_owned(), ..Progress::default() });
        assert_eq!(eta.left(at(51)), Some(9.0), "of another phase nothing is known but the last run's time");
    }

    #[test]
    fn clocks_are_short() {
        assert_eq!([clock(42.2), clock(725.0), clock(7800.0)], ["0:42", "12:05", "2:10:00"]);
    }
}
