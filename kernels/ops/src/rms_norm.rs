//! Root-mean-square normalisation with gradients to the input and to the weight.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use luthier_kernels::rms_norm as kernel;

use crate::tensors::{result, rows, slice, tensor, values};

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "luthier-rms-norm"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (slice(self.name(), s1, l1)?, slice(self.name(), s2, l2)?);
        let (count, width) = rows(self.name(), l1.shape())?;
        if w.len() != width {
            bail!("{} needs a weight of {width}, found {}", self.name(), w.len());
        }
        let (mut out, mut inverse) = (vec![0.0; x.len()], vec![0.0; count]);
        kernel::forward(x, w, self.eps, width, &mut out, &mut inverse);
        Ok(result(out, l1.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (count, width) = rows(self.name(), x.shape())?;
        let (data, weight, dy) = (values(x)?, values(w)?, values(gradient)?);
        let (mut scratch, mut inverse) = (vec![0.0; data.len()], vec![0.0; count]);
        kernel::forward(&data, &weight, self.eps, width, &mut scratch, &mut inverse);
        let (mut dx, mut dw) = (scratch, vec![0.0; width]);
        kernel::backward(&data, &weight, &inverse, &dy, width, &mut dx, false);
        kernel::backward_weight(&data, &inverse, &dy, width, &mut dw);
        Ok((Some(tensor(dx, x)?), Some(tensor(dw, w)?)))
    }
}

/// `w · x / sqrt(mean(x²) + eps)` over the last dimension.
///
/// # Errors
/// The tensors are not contiguous `f32`, or `w` is not a row of `x`.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    x.apply_op2(w, RmsNorm { eps })
}
