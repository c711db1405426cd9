//! Floating-point operations that a step's mathematics asks for; recomputation is not counted.

use luthier_formats::model_files::ModelConfig;

use crate::adapter::Slot;
use crate::projection::Projection;

/// Operations of one step, a multiply-add counted as two.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct StepFlops {
    /// Frozen projections: two per weight and token forward, two back to the inputs.
    pub linear: f64,
    /// The head, for trained tokens alone.
    pub head: f64,
    /// Adapters: forward, to the inputs, to the factors.
    pub adapters: f64,
    /// Scores and weighted values under the causal mask, forward and backward.
    pub attention: f64,
}

impl StepFlops {
    /// Of sequences of these lengths, `trained` of whose tokens have a loss. Nothing is counted backward below the
    /// lowest adapted block.
    #[must_use]
    pub fn new(config: &ModelConfig, slots: &[Slot], lengths: &[usize], trained: usize) -> Self {
        let tokens: usize = lengths.iter().sum();
        let weights: usize = Projection::ALL
            .into_iter()
            .map(|projection| {
                let (rows, cols) = projection.shape(config);
                rows * cols
            })
            .sum();
        let lowest = slots.iter().map(|slot| slot.layer).min().unwrap_or(config.layers);
        let (layers, above) = (config.layers as f64, (config.layers - lowest) as f64);
        let parameters = crate::adapter::parameters(slots) as f64;
        let reach = config.sliding_window.unwrap_or(usize::MAX);
        let pairs: f64 = lengths
            .iter()
            .map(|length| {
                let full = reach.min(*length);
                full as f64 * (full + 1) as f64 / 2.0 + (length - full) as f64 * reach as f64
            })
            .sum();
        let tokens = tokens as f64;
        Self {
            linear: 2.0 * weights as f64 * tokens * (layers + above),
            head: 4.0 * (config.vocab_size * config.hidden_size * trained) as f64,
            adapters: 6.0 * parameters * tokens,
            attention: config.query_size() as f64 * pairs * (4.0 * layers + 8.0 * above),
        }
    }

    #[must_use]
    pub fn total(&self) -> f64 {
        self.linear + self.head + self.adapters + self.attention
    }
}
