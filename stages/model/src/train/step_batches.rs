//! The micro-batches of a step, on the host.

use luthier_formats::tokens::TokenSet;

use super::order::DataOrder;
use super::spec::TrainSpec;
use crate::decoder::Batch;

/// The micro-batches of one step and what there is to say about them; the memory is used again by later steps.
#[derive(Default)]
pub(super) struct StepBatches {
    /// From 0; none were made yet if there is none.
    step: Option<u64>,
    batches: Vec<Batch>,
    used: usize,
    /// Of the data, in order.
    pub samples: Vec<u32>,
    pub tokens: usize,
    /// Tokens that go through the blocks: fewer where a prefix is shared.
    pub computed: usize,
    pub trained: usize,
}

impl StepBatches {
    /// Makes those of `step`, unless they are there; `units` are the bins that `order` chooses from.
    pub fn make(&mut self, step: u64, data: &TokenSet, spec: &TrainSpec, units: &[u32], order: &mut DataOrder) {
        if self.step.replace(step) == Some(step) {
            return;
        }
        let first = step * spec.per_step();
        let last = (first + spec.per_step()).min(spec.last_position(units.len()));
        let (mut next, mut end) = (first, first);
        (self.used, self.tokens, self.computed, self.trained) = (0, 0, 0, 0);
        self.samples.clear();
        while next < last {
            end = (end + spec.batch as u64).min(last);
            if self.used == self.batches.len() {
                self.batches.push(Batch::new());
            }
            let batch = &mut self.batches[self.used];
            batch.clear();
            for position in next..end {
                for index in &data.bins[units[order.at(position)] as usize] {
                    let sample = &data.samples[*index as usize];
                    batch.push(&sample.ids, &sample.mask);
                    self.samples.push(*index);
                    self.trained += sample.trained();
                }
            }
            self.tokens += batch.tokens();
            if spec.shares_prefix() {
                batch.share_prefix();
            }
            self.computed += batch.tokens();
            self.used += 1;
            next = end;
        }
    }

    pub fn is_of(&self, step: u64) -> bool {
        self.step == Some(step)
    }

    pub fn batches(&self) -> &[Batch] {
        &self.batches[..self.used]
    }
}
