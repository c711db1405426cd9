//! The next token of each row of logits, chosen on the device.

use luthier_kernels::device::{Slice, SliceMut};

use super::matrix::{start, start_mut};
use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// How a token is drawn; the filters apply in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; above zero.
    pub temperature: f32,
    /// Tokens that stay, the likeliest ones; zero keeps all.
    pub top_k: u32,
    /// The fewest of the likeliest tokens stay whose share of the rest is at least this; one keeps all.
    pub top_p: f32,
}

impl CudaDevice {
    /// The likeliest token of each row of `logits[ids, vocabulary]`; the lowest of equals.
    ///
    /// # Panics
    /// If `logits` has another length.
    pub fn sample_greedy(&self, logits: Slice<'_, f32>, vocabulary: usize, ids: SliceMut<'_, u32>) {
        assert_eq!(logits.len(), ids.len() * vocabulary, "logits must be [{}, {vocabulary}]", ids.len());
        if logits.is_empty() {
            return;
        }
        let mut arguments = Arguments::new();
        arguments.address(start(logits)).int(vocabulary).address(start_mut(&ids));
        self.launch("sample_greedy", [ids.len(), 1, 1], THREADS, arguments);
    }

    /// A token for each row, drawn with `random[row]`, uniform over 64 bits.
    ///
    /// # Panics
    /// If a view has another length, or the temperature is not above zero.
    pub fn sample(
        &self,
        logits: Slice<'_, f32>,
        vocabulary: usize,
        sampling: Sampling,
        random: Slice<'_, u64>,
        ids: SliceMut<'_, u32>,
    ) {
        assert_eq!(logits.len(), ids.len() * vocabulary, "logits must be [{}, {vocabulary}]", ids.len());
        assert_eq!(random.len(), ids.len(), "a random number for each row");
        assert!(sampling.temperature > 0.0, "the temperature must be above zero");
        if logits.is_empty() {
            return;
        }
        let mut arguments = Arguments::new();
        arguments.address(start(logits)).int(vocabulary).float(1.0 / sampling.temperature);
        arguments.int(sampling.top_k as usize).float(sampling.top_p).address(start(random)).address(start_mut(&ids));
        self.launch("sample_tokens", [ids.len(), 1, 1], THREADS, arguments);
    }
}
