//! Cross-entropy through a frozen output head, in chunks of rows.

use std::sync::Arc;

use candle_core::{Result, Shape, Tensor, bail};
use luthier_kernels::cross_entropy::forward_backward;
use luthier_kernels::device::{Device, Head, Slice, SliceMut};

use crate::linear::{FrozenWeight, Held};
use crate::operation::{Custom, Differentiable, Operation, apply, rows};

const NAME: &str = "luthier-cross-entropy";
/// The bits of the scale of the losses, which the device reads.
const SCALE: [u32; 1] = [1f32.to_bits()];

#[derive(Clone)]
struct CrossEntropy {
    head: Arc<FrozenWeight>,
    targets: Arc<[u32]>,
    chunk_rows: usize,
}

impl CrossEntropy {
    /// The shapes of the losses and of the logits that exist at once.
    fn shapes(&self, hidden: &Shape) -> Result<[Shape; 2]> {
        let (count, width) = rows(NAME, hidden)?;
        let (vocabulary, inputs) = self.head.sides();
        if width != inputs || count != self.targets.len() {
            bail!("{NAME} needs [{}, {inputs}], found {hidden:?}", self.targets.len());
        }
        if let Some(target) = self.targets.iter().find(|target| **target as usize >= vocabulary) {
            bail!("target {target} is outside the vocabulary of {vocabulary}");
        }
        Ok([count.into(), (self.chunk_rows.min(count), vocabulary).into()])
    }

    fn compute(
        &self,
        device: &dyn Device,
        hidden: Slice<'_, f32>,
        numbers: &[Slice<'_, u32>],
        dhidden: Option<SliceMut<'_, f32>>,
        scratch: SliceMut<'_, f32>,
        losses: SliceMut<'_, f32>,
    ) -> Result<()> {
        let (targets, scale) = (numbers[0], numbers[1].cast());
        let (vocabulary, width) = self.head.sides();
        let chunk_rows = self.chunk_rows.min(self.targets.len());
        let held = self.head.beside(device, hidden.space())?;
        let weight = match &held {
            Held::Host(operand) => *operand,
            Held::Device(matrix) => matrix.operand(),
            Held::Plain(weight) => {
                let (dhidden, scratch) = (dhidden.map(SliceMut::host), scratch.host());
                let (hidden, targets) = (hidden.host(), targets.host());
                let found = forward_backward(hidden, targets, width, weight, chunk_rows, 1.0, dhidden, scratch);
                losses.host().copy_from_slice(&found);
                return Ok(());
            }
        };
        let head = Head { weight, vocabulary, hidden: width, chunk_rows };
        device.cross_entropy(hidden.into(), targets, head, scale, dhidden, scratch, losses);
        Ok(())
    }
}

impl Operation<1, 2> for CrossEntropy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn outputs(&self, [hidden]: [&Shape; 1]) -> Result<[Shape; 2]> {
        self.shapes(hidden)
    }

    fn indices(&self) -> Vec<&[u32]> {
        vec![&self.targets, &SCALE]
    }

    fn run(
        &self,
        device: &dyn Device,
        [hidden]: [Slice<'_, f32>; 1],
        indices: &[Slice<'_, u32>],
        [losses, scratch]: [SliceMut<'_, f32>; 2],
    ) -> Result<()> {
        self.compute(device, hidden, indices, None, scratch, losses)
    }
}

/// What each row of the hidden state adds to its own loss.
struct Slopes(CrossEntropy);

impl Operation<1, 3> for Slopes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn outputs(&self, [hidden]: [&Shape; 1]) -> Result<[Shape; 3]> {
        let [losses, scratch] = self.0.shapes(hidden)?;
        Ok([hidden.clone(), losses, scratch])
    }

    fn indices(&self) -> Vec<&[u32]> {
        self.0.indices()
    }

    fn run(
        &self,
        device: &dyn Device,
        [hidden]: [Slice<'_, f32>; 1],
        indices: &[Slice<'_, u32>],
        [dhidden, losses, scratch]: [SliceMut<'_, f32>; 3],
    ) -> Result<()> {
        self.0.compute(device, hidden, indices, Some(dhidden), scratch, losses)
    }
}

impl Differentiable<1, 2> for CrossEntropy {
    fn gradients(&self, [hidden]: [&Tensor; 1], gradient: &Tensor) -> Result<[Tensor; 1]> {
        let [slopes, ..] = apply(&Slopes(self.clone()), [hidden])?;
        let (count, width) = rows(NAME, hidden.shape())?;
        let scaled = slopes.reshape((count, width))?.broadcast_mul(&gradient.reshape((count, 1))?)?;
        Ok([scaled.reshape(hidden.shape())?])
    }
}

/// Cross-entropy of each row of `hidden[rows, d]` against its target through `head[vocabulary, d]`. Logits exist for
/// `chunk_rows` rows at a time.
///
/// # Errors
/// `hidden` is not contiguous `f32` of that shape, or a target is outside the vocabulary.
pub fn cross_entropy_rows(
    hidden: &Tensor,
    head: &Arc<FrozenWeight>,
    targets: &Arc<[u32]>,
    chunk_rows: usize,
) -> Result<Tensor> {
    if targets.is_empty() || chunk_rows == 0 {
        bail!("cross-entropy needs at least one row and chunks of at least one");
    }
    hidden.apply_op1(Custom(CrossEntropy { head: Arc::clone(head), targets: Arc::clone(targets), chunk_rows }))
}

/// The mean of [`cross_entropy_rows`].
///
/// # Errors
/// Those of [`cross_entropy_rows`].
pub fn cross_entropy(
    hidden: &Tensor,
    head: &Arc<FrozenWeight>,
    targets: &Arc<[u32]>,
    chunk_rows: usize,
) -> Result<Tensor> {
    cross_entropy_rows(hidden, head, targets, chunk_rows)?.mean_all()
}
