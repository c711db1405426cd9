//! How much a merge changed: per tensor and per kind of projection, after the cast to the stored type.

use std::collections::BTreeMap;

use luthier_core::Section;
use rayon::prelude::*;

/// Elements that one task handles; a constant, so that sums do not depend on threads.
const TASK: usize = 1 << 14;

/// Differences between the values before and after.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Difference {
    pub elements: u64,
    pub largest: f64,
    pub sum: f64,
    /// Elements whose stored bits changed.
    pub changed: u64,
}

impl Difference {
    /// Compares stored values, already cast and decoded.
    pub(super) fn between(before: &[f32], after: &[f32]) -> Self {
        let parts: Vec<Self> = before
            .par_chunks(TASK)
            .zip(after.par_chunks(TASK))
            .map(|(before, after)| {
                let mut part = Self { elements: before.len() as u64, ..Self::default() };
                for (before, after) in before.iter().zip(after) {
                    let difference = (f64::from(*after) - f64::from(*before)).abs();
                    part.largest = part.largest.max(difference);
                    part.sum += difference;
                    part.changed += u64::from(before.to_bits() != after.to_bits());
                }
                part
            })
            .collect();
        parts.into_iter().fold(Self::default(), Self::plus)
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            elements: self.elements + other.elements,
            largest: self.largest.max(other.largest),
            sum: self.sum + other.sum,
            changed: self.changed + other.changed,
        }
    }

    pub(super) fn mean(self) -> f64 {
        if self.elements == 0 { 0.0 } else { self.sum / self.elements as f64 }
    }

    pub(super) fn share(self) -> f64 {
        if self.elements == 0 { 0.0 } else { self.changed as f64 / self.elements as f64 }
    }
}

/// The last part of a weight's module: `q_proj`, `embed_tokens`.
fn target_of(name: &str) -> &str {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    module.rsplit('.').next().unwrap_or(module)
}

/// A row per kind of projection.
pub(super) fn table(changed: &[(String, Difference)]) -> Section {
    let mut targets: BTreeMap<&str, (usize, Difference)> = BTreeMap::new();
    for (name, difference) in changed {
        let entry = targets.entry(target_of(name)).or_default();
        *entry = (entry.0 + 1, entry.1.plus(*difference));
    }
    Section::Table {
        title: "Changed weights by target".to_owned(),
        columns: ["target", "tensors", "weights", "changed after the cast", "mean |Δ|", "largest |Δ|"]
            .map(str::to_owned)
            .to_vec(),
        rows: targets
            .into_iter()
            .map(|(target, (tensors, difference))| {
                vec![
                    target.to_owned(),
                    tensors.to_string(),
                    difference.elements.to_string(),
                    format!("{:.2} %", 100.0 * difference.share()),
                    format!("{:.3e}", difference.mean()),
                    format!("{:.3e}", difference.largest),
                ]
            })
            .collect(),
    }
}
