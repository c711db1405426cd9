//! A linear layer whose weight is frozen, in `f32` or NF4.

use std::sync::Arc;

use candle_core::{Result, Shape, Tensor, bail};
use luthier_kernels::device::{Component, Device, DeviceResult, Matrix, Operand, Slice, SliceMut, Space, Storage};
use luthier_kernels::nf4::{AbsMax, Nf4Tensor, quantize};
use luthier_kernels::{Weight, matmul};

use crate::operation::{Custom, Differentiable, Operation, apply, rows};
use crate::placed::Placed;

const NAME: &str = "luthier-linear";

/// `[out, in]`, never trained; on the host, and on every other device that asked for it.
pub struct FrozenWeight {
    host: HostWeight,
    placed: Placed<Matrix>,
}

enum HostWeight {
    F32 { data: Vec<f32>, outputs: usize, inputs: usize },
    Nf4(Nf4Tensor),
}

/// A weight where an operation runs.
pub enum Held<'a> {
    /// NF4 whose scales are not quantised, which only the CPU multiplies with.
    Plain(Weight<'a>),
    Host(Operand<'a>),
    Device(Arc<Matrix>),
}

impl FrozenWeight {
    /// Copies a matrix.
    ///
    /// # Errors
    /// It is not a matrix of `f32`.
    pub fn f32(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        Ok(Self::new(HostWeight::F32 { data: values(weight)?, outputs, inputs }))
    }

    /// Quantises a matrix, with double quantisation if `double`.
    ///
    /// # Errors
    /// It is not a matrix of `f32`.
    pub fn nf4(weight: &Tensor, double: bool) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        Ok(Self::of_nf4(quantize(&values(weight)?, outputs, inputs, double)))
    }

    /// A matrix that is quantised already.
    #[must_use]
    pub fn of_nf4(weight: Nf4Tensor) -> Self {
        Self::new(HostWeight::Nf4(weight))
    }

    fn new(host: HostWeight) -> Self {
        Self { host, placed: Placed::default() }
    }

    /// Outputs and inputs.
    #[must_use]
    pub fn sides(&self) -> (usize, usize) {
        match &self.host {
            HostWeight::F32 { outputs, inputs, .. } => (*outputs, *inputs),
            HostWeight::Nf4(tensor) => (tensor.rows, tensor.cols),
        }
    }

    /// The weight beside a view.
    ///
    /// # Errors
    /// It cannot be brought there.
    pub(crate) fn beside(&self, device: &dyn Device, space: Space) -> Result<Held<'_>> {
        match (space, &self.host) {
            (Space::Host, HostWeight::F32 { data, .. }) => Ok(Held::Host(Operand::F32(Slice::from(data.as_slice())))),
            (Space::Host, HostWeight::Nf4(tensor)) => {
                let view = tensor.view();
                let AbsMax::Nested { codes, scales, offset } = view.absmax else {
                    return Ok(Held::Plain(Weight::Nf4(view)));
                };
                let (rows, cols) = (view.rows, view.cols);
                let (packed, codes, scales) = (Slice::from(view.packed), Slice::from(codes), Slice::from(scales));
                Ok(Held::Host(Operand::Nf4 { packed, codes, scales, offset, rows, cols }))
            }
            (_, HostWeight::Nf4(tensor)) if matches!(tensor.view().absmax, AbsMax::Plain(_)) => {
                bail!("NF4 with plain scales runs on the CPU; quantise twice: `FrozenWeight::nf4(weight, true)`")
            }
            _ => self.placed.on(device, |device| self.upload(device)).map(Held::Device),
        }
    }

    fn upload(&self, device: &dyn Device) -> DeviceResult<Matrix> {
        match &self.host {
            HostWeight::Nf4(tensor) => Matrix::of_nf4(device, Component::Weights, &tensor.view()),
            HostWeight::F32 { data, outputs, inputs } => {
                let mut read = |rows: std::ops::Range<usize>, out: &mut [f32]| {
                    out.copy_from_slice(&data[rows.start * inputs..rows.end * inputs]);
                    Ok(())
                };
                let sides = [*outputs, *inputs];
                Matrix::load(device, Component::Weights, sides, Storage::F32, &mut read, std::convert::identity)
            }
        }
    }
}

/// All elements in row-major order, whatever the strides and the device.
fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// `x · wᵀ`, or with `backward` `x · w`.
struct Linear {
    weight: Arc<FrozenWeight>,
    backward: bool,
}

impl Operation<1, 1> for Linear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn outputs(&self, [x]: [&Shape; 1]) -> Result<[Shape; 1]> {
        let (_, width) = rows(NAME, x)?;
        let (outputs, inputs) = self.weight.sides();
        let (from, to) = if self.backward { (outputs, inputs) } else { (inputs, outputs) };
        if width != from {
            bail!("{NAME} takes rows of {from}, found {width}");
        }
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = to;
        }
        Ok([dims.into()])
    }

    fn run(
        &self,
        device: &dyn Device,
        [x]: [Slice<'_, f32>; 1],
        _: &[Slice<'_, u32>],
        [out]: [SliceMut<'_, f32>; 1],
    ) -> Result<()> {
        let (n, k) = self.weight.sides();
        let m = x.len() / if self.backward { n } else { k };
        let held = self.weight.beside(device, x.space())?;
        let operand = match &held {
            Held::Host(operand) => *operand,
            Held::Device(matrix) => matrix.operand(),
            Held::Plain(weight) if self.backward => {
                matmul::nn(x.host(), m, n, weight, k, out.host(), 1.0, false);
                return Ok(());
            }
            Held::Plain(weight) => {
                matmul::nt(x.host(), m, k, weight, n, out.host(), 1.0, false);
                return Ok(());
            }
        };
        if self.backward {
            device.matmul_nn(x.into(), operand, [m, n, k], 1.0, false, out.into());
        } else {
            device.matmul_nt(x.into(), operand, [m, n, k], 1.0, false, out.into());
        }
        Ok(())
    }
}

impl Differentiable<1, 1> for Linear {
    fn gradients(&self, _: [&Tensor; 1], gradient: &Tensor) -> Result<[Tensor; 1]> {
        apply(&Self { weight: Arc::clone(&self.weight), backward: !self.backward }, [gradient])
    }
}

/// `x · weightᵀ` over the last dimension; the gradient goes to `x`.
///
/// # Errors
/// `x` is not contiguous `f32` with rows of the weight's inputs.
pub fn linear(x: &Tensor, weight: &Arc<FrozenWeight>) -> Result<Tensor> {
    x.apply_op1(Custom(Linear { weight: Arc::clone(weight), backward: false }))
}
