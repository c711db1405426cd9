//! Cross-entropy through the output head, in chunks of rows: the logits of a whole batch never exist.

use luthier_kernels::device::{Device, FloatType, Head, Slice, SliceMut, Values};

use super::matmul;
use super::matrix::{start, start_mut};
use crate::{Arguments, CudaDevice};

const THREADS: usize = 512;

/// The loss of each row and, over `dhidden`, the gradient of `scale[0] · Σ losses`. A target outside the vocabulary makes
/// both NaN.
///
/// # Panics
/// If a view does not have the length that its shape says.
#[expect(clippy::too_many_arguments, reason = "the operands of the operation")]
pub fn forward_backward(
    device: &CudaDevice,
    hidden: Values<'_>,
    targets: Slice<'_, u32>,
    head: Head<'_>,
    scale: Slice<'_, f32>,
    mut dhidden: Option<SliceMut<'_, f32>>,
    mut scratch: SliceMut<'_, f32>,
    losses: SliceMut<'_, f32>,
) {
    let (rows, width, vocabulary) = (targets.len(), head.hidden, head.vocabulary);
    assert!(width > 0 && vocabulary > 0 && head.chunk_rows > 0, "rows and chunks must not be empty");
    assert_eq!(hidden.len(), rows * width, "hidden must be [{rows}, {width}]");
    assert!(!scale.is_empty(), "a loss has a scale");
    assert_eq!(losses.len(), rows, "losses must be [{rows}]");
    assert!(
        scratch.len() >= head.chunk_rows.min(rows) * vocabulary,
        "scratch must hold chunk_rows * vocabulary floats"
    );
    if let Some(dhidden) = &dhidden {
        assert_eq!(dhidden.len(), hidden.len(), "dhidden must have the shape of hidden");
    }
    // Whoever keeps activations in f16 scales the loss to the gradient's size; nobody else does.
    let narrow = match device.activation_type() {
        FloatType::F16 => hidden.kind(),
        kind => kind,
    };
    for first in (0..rows).step_by(head.chunk_rows) {
        let count = head.chunk_rows.min(rows - first);
        let mut logits = scratch.borrow().slice(..count * vocabulary);
        let chunk = hidden.slice(first * width..(first + count) * width);
        matmul::nt(device, chunk, head.weight, [count, vocabulary, width], 1.0, false, logits.borrow().into());
        let mut arguments = Arguments::new();
        arguments.address(start_mut(&logits)).address(start(targets.slice(first..)));
        arguments
            .int(vocabulary)
            .address(start(scale))
            .flag(dhidden.is_some())
            .address(start(losses.freeze().slice(first..)));
        device.launch(&format!("softmax_loss_{}", narrow.name()), [count, 1, 1], THREADS, arguments);
        if let Some(dhidden) = &mut dhidden {
            let dhidden = dhidden.borrow().slice(first * width..(first + count) * width);
            // In sixteen bits a row's gradient is the first half of where its logits were.
            let bytes = logits.freeze().as_bytes();
            let pitch = 4 / narrow.bytes() * vocabulary;
            let shape = [count, vocabulary, width];
            matmul::nn_rows(device, Values::new(bytes, narrow), pitch, head.weight, shape, dhidden.into());
        }
    }
}
