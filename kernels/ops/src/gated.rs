//! The gated activations.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use luthier_kernels::{geglu as gelu, swiglu as silu};

use crate::tensors::{result, slice, tensor, values};

/// `activation(gate) · up`, by its kernels.
struct Gated {
    name: &'static str,
    forward: fn(&[f32], &[f32], &mut [f32]),
    backward: fn(&[f32], &[f32], &[f32], &mut [f32], &mut [f32]),
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        if l1.shape() != l2.shape() {
            bail!("{} needs equal shapes, found {:?} and {:?}", self.name(), l1.shape(), l2.shape());
        }
        let (gate, up) = (slice(self.name(), s1, l1)?, slice(self.name(), s2, l2)?);
        let mut out = vec![0.0; gate.len()];
        (self.forward)(gate, up, &mut out);
        Ok(result(out, l1.shape()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut dgate, mut dup) = (vec![0.0; gate.elem_count()], vec![0.0; up.elem_count()]);
        (self.backward)(&values(gate)?, &values(up)?, &values(gradient)?, &mut dgate, &mut dup);
        Ok((Some(tensor(dgate, gate)?), Some(tensor(dup, up)?)))
    }
}

/// `silu(gate) · up`.
///
/// # Errors
/// The tensors are not contiguous `f32` of one shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2(up, Gated { name: "luthier-swiglu", forward: silu::forward, backward: silu::backward })
}

/// `gelu(gate) · up`, with the tanh form of GELU.
///
/// # Errors
/// The tensors are not contiguous `f32` of one shape.
pub fn geglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2(up, Gated { name: "luthier-geglu", forward: gelu::forward, backward: gelu::backward })
}
