//! The gated activations.

use candle_core::{Result, Shape, Tensor, bail};
use luthier_kernels::device::{Device, Slice, SliceMut};

use crate::operation::{Custom, Differentiable, Operation, apply};

#[derive(Clone, Copy)]
enum Gate {
    Silu,
    Gelu,
}

impl Gate {
    const fn name(self) -> &'static str {
        match self {
            Self::Silu => "luthier-swiglu",
            Self::Gelu => "luthier-geglu",
        }
    }
}

/// `activation(gate) · up`.
struct Gated(Gate);

impl Operation<2, 1> for Gated {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn outputs(&self, [gate, up]: [&Shape; 2]) -> Result<[Shape; 1]> {
        if gate != up {
            bail!("{} needs equal shapes, found {gate:?} and {up:?}", self.name());
        }
        Ok([gate.clone()])
    }

    fn run(
        &self,
        device: &dyn Device,
        [gate, up]: [Slice<'_, f32>; 2],
        _: &[Slice<'_, u32>],
        [out]: [SliceMut<'_, f32>; 1],
    ) -> Result<()> {
        match self.0 {
            Gate::Silu => device.swiglu(gate.into(), up.into(), out.into()),
            Gate::Gelu => device.geglu(gate, up, out),
        }
        Ok(())
    }
}

/// Of `gate`, `up` and the result's gradient, those of `gate` and `up`.
struct Gradients(Gate);

impl Operation<3, 2> for Gradients {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn outputs(&self, [gate, up, _]: [&Shape; 3]) -> Result<[Shape; 2]> {
        Ok([gate.clone(), up.clone()])
    }

    fn run(
        &self,
        device: &dyn Device,
        [gate, up, dout]: [Slice<'_, f32>; 3],
        _: &[Slice<'_, u32>],
        [mut dgate, mut dup]: [SliceMut<'_, f32>; 2],
    ) -> Result<()> {
        match self.0 {
            Gate::Silu => {
                device.copy(gate.into(), dgate.borrow().into());
                device.copy(dout.into(), dup.borrow().into());
                device.swiglu_backward(dgate.into(), up.into(), dup.into());
            }
            Gate::Gelu => device.geglu_backward(gate, up, dout, dgate, dup),
        }
        Ok(())
    }
}

impl Differentiable<2, 1> for Gated {
    fn gradients(&self, [gate, up]: [&Tensor; 2], gradient: &Tensor) -> Result<[Tensor; 2]> {
        apply(&Gradients(self.0), [gate, up, gradient])
    }
}

/// `silu(gate) · up`.
///
/// # Errors
/// The tensors are not contiguous `f32` of one shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2(up, Custom(Gated(Gate::Silu)))
}

/// `gelu(gate) · up`, with the tanh form of GELU.
///
/// # Errors
/// The tensors are not contiguous `f32` of one shape.
pub fn geglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2(up, Custom(Gated(Gate::Gelu)))
}
