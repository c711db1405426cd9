//! The factor on the loss where activations are f16: gradients, most of which are smaller than any half, are computed that
//! many times larger and divided before anything looks at them.
//!
//! As of `torch.amp.GradScaler`: it starts at 2¹⁶; a step whose gradients overflow is left out and halves it, and 2,000
//! good steps in a row double it. Powers of two, so that neither direction rounds. A step that is left out has seen its
//! samples, but counts neither for the schedule nor for AdamW's bias, as in transformers, where optimiser and scheduler then
//! do not step.

use serde::{Deserialize, Serialize};

/// Good steps in a row before it doubles.
const GROWTH: u32 = 2000;
const FIRST: i32 = 16;
/// Below 2⁻¹⁴, the smallest normal half, gradients do not overflow by their size.
const LEAST: i32 = -14;
/// Its inverse is a normal number.
const MOST: i32 = 126;

/// Its state, which a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossScale {
    /// Of two.
    pub exponent: i32,
    /// Good steps since it last changed.
    pub good: u32,
    /// Steps that were left out.
    pub skipped: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { exponent: FIRST, good: 0, skipped: 0 }
    }
}

impl LossScale {
    #[must_use]
    pub fn factor(&self) -> f32 {
        power(self.exponent)
    }

    #[must_use]
    pub fn inverse(&self) -> f32 {
        power(-self.exponent)
    }

    /// After a step that was applied.
    pub(super) fn grow(&mut self) {
        self.good += 1;
        if self.good == GROWTH {
            self.good = 0;
            self.exponent = (self.exponent + 1).min(MOST);
        }
    }

    /// After a step whose gradients overflowed.
    pub(super) fn shrink(&mut self) {
        (self.exponent, self.good) = (self.exponent - 1, 0);
        self.skipped += 1;
    }

    /// Whether gradients that overflow even now do so for another reason than their size.
    pub(super) fn is_least(&self) -> bool {
        self.exponent <= LEAST
    }
}

/// 2^`exponent`, within the normal numbers.
fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127).clamp(1, 254) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_on_overflow_and_doubles_after_two_thousand_good_steps() {
        let mut scale = LossScale::default();
        assert_eq!(scale.factor(), 65_536.0);
        (0..1999).for_each(|_| scale.grow());
        scale.shrink();
        assert_eq!((scale.factor(), scale.good, scale.skipped), (32_768.0, 0, 1));
        (0..1999).for_each(|_| scale.grow());
        assert_eq!((scale.factor(), scale.good), (32_768.0, 1999));
        scale.grow();
        assert_eq!((scale.factor(), scale.good, scale.skipped), (65_536.0, 0, 1));
        for exponent in [LEAST, 0, FIRST, MOST] {
            let scale = LossScale { exponent, good: 0, skipped: 0 };
            assert_eq!(scale.factor() * scale.inverse(), 1.0);
            assert!(scale.inverse().is_normal());
        }
    }
}
