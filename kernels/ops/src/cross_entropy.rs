//! Cross-entropy through a frozen output head, in chunks of rows.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use luthier_kernels::cross_entropy::forward_backward;

use crate::linear::FrozenWeight;
use crate::tensors::{result, rows, slice, tensor, values};

struct CrossEntropy {
    head: Arc<FrozenWeight>,
    targets: Arc<[u32]>,
    chunk_rows: usize,
}

impl CrossEntropy {
    /// Mean loss, and its gradient times `scale` in `dhidden`.
    fn compute(&self, hidden: &[f32], width: usize, scale: f32, dhidden: Option<&mut [f32]>) -> f32 {
        let (vocabulary, _) = self.head.sides();
        let count = self.targets.len();
        let mut scratch = vec![0.0; self.chunk_rows.min(count) * vocabulary];
        let factor = scale / count as f32;
        let losses = forward_backward(
            hidden,
            &self.targets,
            width,
            &self.head.view(),
            self.chunk_rows,
            factor,
            dhidden,
            &mut scratch,
        );
        (losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / count as f64) as f32
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "luthier-cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let hidden = slice(self.name(), storage, layout)?;
        let (count, width) = rows(self.name(), layout.shape())?;
        let (vocabulary, inputs) = self.head.sides();
        if width != inputs || count != self.targets.len() {
            bail!("{} needs [{}, {inputs}], found {:?}", self.name(), self.targets.len(), layout.shape());
        }
        if let Some(target) = self.targets.iter().find(|target| **target as usize >= vocabulary) {
            bail!("target {target} is outside the vocabulary of {vocabulary}");
        }
        Ok(result(vec![self.compute(hidden, width, 1.0, None)], ()))
    }

    fn bwd(&self, hidden: &Tensor, _loss: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = rows(self.name(), hidden.shape())?;
        let data = values(hidden)?;
        let mut dhidden = vec![0.0; data.len()];
        self.compute(&data, width, gradient.to_scalar()?, Some(&mut dhidden));
        tensor(dhidden, hidden).map(Some)
    }
}

/// Mean cross-entropy of `hidden[rows, d]` against `targets` through `head[vocabulary, d]`. Logits exist for
/// `chunk_rows` rows at a time.
///
/// # Errors
/// `hidden` is not contiguous `f32` of that shape, or a target is outside the vocabulary.
pub fn cross_entropy(
    hidden: &Tensor,
    head: &Arc<FrozenWeight>,
    targets: &Arc<[u32]>,
    chunk_rows: usize,
) -> Result<Tensor> {
    if targets.is_empty() || chunk_rows == 0 {
        bail!("cross-entropy needs at least one row and chunks of at least one");
    }
    hidden.apply_op1(CrossEntropy { head: Arc::clone(head), targets: Arc::clone(targets), chunk_rows })
}
