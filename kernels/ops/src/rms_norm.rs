//! Root-mean-square normalisation with gradients to the input and to the weight.

use candle_core::{Result, Shape, Tensor, bail};
use luthier_kernels::device::{Device, Slice, SliceMut};

use crate::operation::{Custom, Differentiable, Operation, apply, rows};

const NAME: &str = "luthier-rms-norm";

struct RmsNorm {
    eps: f32,
}

impl Operation<2, 2> for RmsNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn outputs(&self, [x, w]: [&Shape; 2]) -> Result<[Shape; 2]> {
        let (count, width) = rows(NAME, x)?;
        if w.elem_count() != width {
            bail!("{NAME} needs a weight of {width}, found {}", w.elem_count());
        }
        Ok([x.clone(), count.into()])
    }

    fn run(
        &self,
        device: &dyn Device,
        [x, w]: [Slice<'_, f32>; 2],
        _: &[Slice<'_, u32>],
        [out, inverse]: [SliceMut<'_, f32>; 2],
    ) -> Result<()> {
        device.rms_norm(x.into(), w, self.eps, out.into(), inverse);
        Ok(())
    }
}

/// Of the input, the weight, the result's gradient and a row of ones, the gradients of the input and of the weight.
struct Gradients {
    eps: f32,
}

impl Operation<4, 4> for Gradients {
    fn name(&self) -> &'static str {
        NAME
    }

    fn outputs(&self, [x, w, ..]: [&Shape; 4]) -> Result<[Shape; 4]> {
        let (count, _) = rows(NAME, x)?;
        Ok([x.clone(), w.clone(), x.clone(), count.into()])
    }

    fn run(
        &self,
        device: &dyn Device,
        [x, w, dy, ones]: [Slice<'_, f32>; 4],
        _: &[Slice<'_, u32>],
        [dx, dw, mut normed, mut inverse]: [SliceMut<'_, f32>; 4],
    ) -> Result<()> {
        device.rms_norm(x.into(), ones, self.eps, normed.borrow().into(), inverse.borrow());
        device.rms_norm_backward(x.into(), w, inverse.freeze(), dy.into(), false, dx.into());
        device.column_dots(dy.into(), normed.freeze().into(), ones, false, dw);
        Ok(())
    }
}

impl Differentiable<2, 2> for RmsNorm {
    fn gradients(&self, [x, w]: [&Tensor; 2], gradient: &Tensor) -> Result<[Tensor; 2]> {
        let [dx, dw, ..] = apply(&Gradients { eps: self.eps }, [x, w, gradient, &w.ones_like()?])?;
        Ok([dx, dw])
    }
}

/// `w · x / sqrt(mean(x²) + eps)` over the last dimension.
///
/// # Errors
/// The tensors are not contiguous `f32`, or `w` is not a row of `x`.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    x.apply_op2(w, Custom(RmsNorm { eps }))
}
