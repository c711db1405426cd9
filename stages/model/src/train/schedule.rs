//! Learning rate by step, as the schedulers of transformers define it.

use serde::{Deserialize, Serialize};

/// The shape of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    Constant,
    /// Falls to zero at the end.
    Linear,
    /// Half a cosine from one to zero.
    Cosine,
}

impl Schedule {
    /// The factor on the learning rate of step `step` (from 0) of `total`, the first `warmup` of which rise linearly
    /// from zero.
    #[must_use]
    pub fn factor(self, step: u64, warmup: u64, total: u64) -> f64 {
        if step < warmup {
            return step as f64 / warmup.max(1) as f64;
        }
        let rest = total.saturating_sub(warmup).max(1) as f64;
        let progress = ((step - warmup) as f64 / rest).min(1.0);
        match self {
            Self::Constant => 1.0,
            Self::Linear => 1.0 - progress,
            Self::Cosine => 0.5 * (1.0 + cos_pi(progress)),
        }
    }
}

/// `cos(π x)` for `x` in `[0, 1]`, within 2⁻⁵⁰, by a series: the platform's cosine may differ between machines.
fn cos_pi(x: f64) -> f64 {
    if x > 0.5 {
        return -cos_pi(1.0 - x);
    }
    let square = (std::f64::consts::PI * x) * (std::f64::consts::PI * x);
    let (mut term, mut sum) = (1.0, 1.0);
    for index in 1..14 {
        let divisor = f64::from((2 * index - 1) * (2 * index));
        term *= -square / divisor;
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::{Schedule, cos_pi};

    #[test]
    fn warms_up_and_decays_like_transformers() {
        let factors = |schedule: Schedule| (0..6).map(|step| schedule.factor(step, 2, 6)).collect::<Vec<_>>();
        assert_eq!(factors(Schedule::Constant), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(factors(Schedule::Linear), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        let cosine = factors(Schedule::Cosine);
        assert!((cosine[3] - 0.853_553_390_593_273_8).abs() < 1e-15 && (cosine[4] - 0.5).abs() < 1e-15);
        assert_eq!(Schedule::Linear.factor(9, 0, 6), 0.0);
    }

    #[test]
    fn cosine_agrees_with_the_platform() {
        for index in 0..=1000 {
            let x = f64::from(index) / 1000.0;
            assert!((cos_pi(x) - (std::f64::consts::PI * x).cos()).abs() < 1e-15, "{x}");
        }
    }
}
