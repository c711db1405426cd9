//! A linear layer whose weight is frozen, in `f32` or NF4.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use luthier_kernels::nf4::{Nf4Tensor, quantize};
use luthier_kernels::{Weight, matmul};

use crate::tensors::{result, rows, slice, tensor, values};

/// `[out, in]`, never trained.
#[derive(Debug, Clone, PartialEq)]
pub enum FrozenWeight {
    F32 { data: Vec<f32>, outputs: usize, inputs: usize },
    Nf4(Nf4Tensor),
}

impl FrozenWeight {
    /// Copies a matrix.
    ///
    /// # Errors
    /// It is not a matrix of `f32`.
    pub fn f32(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        Ok(Self::F32 { data: values(weight)?, outputs, inputs })
    }

    /// Quantises a matrix, with double quantisation if `double`.
    ///
    /// # Errors
    /// It is not a matrix of `f32`.
    pub fn nf4(weight: &Tensor, double: bool) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        Ok(Self::Nf4(quantize(&values(weight)?, outputs, inputs, double)))
    }

    pub(crate) fn sides(&self) -> (usize, usize) {
        match self {
            Self::F32 { outputs, inputs, .. } => (*outputs, *inputs),
            Self::Nf4(tensor) => (tensor.rows, tensor.cols),
        }
    }

    pub(crate) fn view(&self) -> Weight<'_> {
        match self {
            Self::F32 { data, .. } => Weight::F32(data),
            Self::Nf4(tensor) => Weight::Nf4(tensor.view()),
        }
    }
}

struct Linear(Arc<FrozenWeight>);

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "luthier-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(self.name(), storage, layout)?;
        let (count, width) = rows(self.name(), layout.shape())?;
        let (outputs, inputs) = self.0.sides();
        if width != inputs {
            bail!("{} takes rows of {inputs}, found {width}", self.name());
        }
        let mut out = vec![0.0; count * outputs];
        matmul::nt(x, count, inputs, &self.0.view(), outputs, &mut out, 1.0, false);
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        Ok(result(out, dims))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (outputs, inputs) = self.0.sides();
        let dy = values(gradient)?;
        let mut dx = vec![0.0; x.elem_count()];
        matmul::nn(&dy, dy.len() / outputs.max(1), outputs, &self.0.view(), inputs, &mut dx, 1.0, false);
        tensor(dx, x).map(Some)
    }
}

/// `x · weightᵀ` over the last dimension; the gradient goes to `x`.
///
/// # Errors
/// `x` is not contiguous `f32` with rows of the weight's inputs.
pub fn linear(x: &Tensor, weight: &Arc<FrozenWeight>) -> Result<Tensor> {
    x.apply_op1(Linear(Arc::clone(weight)))
}
