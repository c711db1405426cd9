//! The part of a run that its memory depends on.

use luthier_formats::tokens::TokenSet;

use crate::decoder::Capacity;
use crate::train::{TrainSpec, micro_batch_capacity};

/// How large the largest micro-batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunShape {
    pub capacity: Capacity,
    /// Tokens of the longest sequence.
    pub longest: usize,
}

impl RunShape {
    /// Of a run over `data`, as the trainer will see it: exact.
    #[must_use]
    pub fn of_data(data: &TokenSet, spec: &TrainSpec) -> Self {
        Self { capacity: micro_batch_capacity(data, spec), longest: data.meta.longest }
    }

    /// As it is when it also measures the loss of sequences up to `longest` tokens.
    #[must_use]
    pub fn validated(self, longest: usize) -> Self {
        let one = Capacity { tokens: longest, trained: 1, sequences: 1, whole: 0 };
        Self { capacity: self.capacity.max(one), longest: self.longest.max(longest) }
    }

    /// Of `batch` full sequences of `length` tokens, every token trained: an upper bound.
    #[must_use]
    pub fn of_length(batch: usize, length: usize) -> Self {
        let tokens = batch * length;
        Self { capacity: Capacity { tokens, trained: tokens, sequences: batch, whole: 0 }, longest: length }
    }
}
