//! The next token of each row of logits, chosen on the device.

use luthier_kernels::device::{Draw, Slice, SliceMut};

use super::matrix::{start, start_mut};
use crate::{Arguments, CudaDevice};

const THREADS: usize = 256;

/// # Panics
/// If a view has another length, or the temperature is not above zero.
pub fn choose(
    device: &CudaDevice,
    logits: Slice<'_, f32>,
    vocabulary: usize,
    draw: Option<Draw<'_>>,
    ids: SliceMut<'_, u32>,
) {
    assert_eq!(logits.len(), ids.len() * vocabulary, "logits must be [{}, {vocabulary}]", ids.len());
    if logits.is_empty() {
        return;
    }
    let mut arguments = Arguments::new();
    arguments.address(start(logits)).int(vocabulary);
    let Some(Draw { sampling, random }) = draw else {
        arguments.address(start_mut(&ids));
        return device.launch("sample_greedy", [ids.len(), 1, 1], THREADS, arguments);
    };
    assert_eq!(random.len(), ids.len(), "a random number for each row");
    assert!(sampling.temperature > 0.0, "the temperature must be above zero");
    arguments.float(1.0 / sampling.temperature).int(sampling.top_k as usize).float(sampling.top_p);
    arguments.address(start(random)).address(start_mut(&ids));
    device.launch("sample_tokens", [ids.len(), 1, 1], THREADS, arguments);
}
