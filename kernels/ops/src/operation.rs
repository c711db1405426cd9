//! What an operation is, and how candle calls it.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail,
};
use luthier_kernels::device::{Device, Slice, SliceMut};

use crate::host;

/// An operation on tensors of `f32`, on any device.
pub trait Operation<const INPUTS: usize, const OUTPUTS: usize>: Send + Sync {
    fn name(&self) -> &'static str;

    /// The shapes of what it writes. The first is the result; the others may be memory that it works in.
    ///
    /// # Errors
    /// The inputs do not fit together.
    fn outputs(&self, inputs: [&Shape; INPUTS]) -> Result<[Shape; OUTPUTS]>;

    /// Whole numbers that it reads on the device.
    fn indices(&self) -> Vec<&[u32]> {
        Vec::new()
    }

    /// Writes every element of the outputs.
    ///
    /// # Errors
    /// Something that it needs beside its inputs cannot be brought to the device.
    fn run(
        &self,
        device: &dyn Device,
        inputs: [Slice<'_, f32>; INPUTS],
        indices: &[Slice<'_, u32>],
        outputs: [SliceMut<'_, f32>; OUTPUTS],
    ) -> Result<()>;
}

/// An operation whose first output is the result.
pub trait Differentiable<const INPUTS: usize, const OUTPUTS: usize>: Operation<INPUTS, OUTPUTS> {
    /// What the gradient of the result is for each input.
    ///
    /// # Errors
    /// Those of the operations that compute it.
    fn gradients(&self, inputs: [&Tensor; INPUTS], gradient: &Tensor) -> Result<[Tensor; INPUTS]>;
}

/// As candle's custom operation.
pub struct Custom<T, const OUTPUTS: usize>(pub T);

impl<T, const OUTPUTS: usize> Custom<T, OUTPUTS> {
    fn on_host<const INPUTS: usize>(&self, inputs: [(&CpuStorage, &Layout); INPUTS]) -> Result<(CpuStorage, Shape)>
    where
        T: Operation<INPUTS, OUTPUTS>,
    {
        first(self.0.name(), host::run(&self.0, inputs)?).map(|(data, shape)| (CpuStorage::F32(data), shape))
    }

    #[cfg(feature = "candle-cuda")]
    fn on_cuda<const INPUTS: usize>(&self, inputs: [(&CudaStorage, &Layout); INPUTS]) -> Result<(CudaStorage, Shape)>
    where
        T: Operation<INPUTS, OUTPUTS>,
    {
        first(self.0.name(), crate::cuda::run(&self.0, inputs)?)
    }

    #[cfg(not(feature = "candle-cuda"))]
    fn on_cuda<const INPUTS: usize>(&self, _: [(&CudaStorage, &Layout); INPUTS]) -> Result<(CudaStorage, Shape)>
    where
        T: Operation<INPUTS, OUTPUTS>,
    {
        bail!("{} runs on CUDA with the feature `candle-cuda` of luthier-ops", self.0.name())
    }
}

fn first<D, const OUTPUTS: usize>(name: &str, outputs: [(D, Shape); OUTPUTS]) -> Result<(D, Shape)> {
    match outputs.into_iter().next() {
        Some(output) => Ok(output),
        None => bail!("{name} has no result"),
    }
}

impl<T: Differentiable<1, OUTPUTS>, const OUTPUTS: usize> CustomOp1 for Custom<T, OUTPUTS> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_host([(s1, l1)])
    }

    fn cuda_fwd(&self, s1: &CudaStorage, l1: &Layout) -> Result<(CudaStorage, Shape)> {
        self.on_cuda([(s1, l1)])
    }

    fn bwd(&self, a: &Tensor, _result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let [a] = self.0.gradients([a], gradient)?;
        Ok(Some(a))
    }
}

impl<T: Differentiable<2, OUTPUTS>, const OUTPUTS: usize> CustomOp2 for Custom<T, OUTPUTS> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_host([(s1, l1), (s2, l2)])
    }

    fn cuda_fwd(&self, s1: &CudaStorage, l1: &Layout, s2: &CudaStorage, l2: &Layout) -> Result<(CudaStorage, Shape)> {
        self.on_cuda([(s1, l1), (s2, l2)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.0.gradients([a, b], gradient)?;
        Ok((Some(a), Some(b)))
    }
}

impl<T: Differentiable<3, OUTPUTS>, const OUTPUTS: usize> CustomOp3 for Custom<T, OUTPUTS> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.on_host([(s1, l1), (s2, l2), (s3, l3)])
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.on_cuda([(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.0.gradients([a, b, c], gradient)?;
        Ok((Some(a), Some(b), Some(c)))
    }
}

/// Runs an operation outside the graph, on tensors of one device with any strides.
///
/// # Errors
/// Those of the operation.
pub fn apply<const INPUTS: usize, const OUTPUTS: usize>(
    operation: &impl Operation<INPUTS, OUTPUTS>,
    inputs: [&Tensor; INPUTS],
) -> Result<[Tensor; OUTPUTS]> {
    let contiguous: Vec<Tensor> = inputs.iter().map(|tensor| tensor.contiguous()).collect::<Result<_>>()?;
    let held: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let on_host: Vec<_> = held
        .iter()
        .filter_map(|(storage, layout)| match &**storage {
            Storage::Cpu(storage) => Some((storage, *layout)),
            _ => None,
        })
        .collect();
    if let Ok(inputs) = <[_; INPUTS]>::try_from(on_host) {
        return collect(host::run(operation, inputs)?.map(|(data, shape)| host::tensor(data, shape)));
    }
    #[cfg(feature = "candle-cuda")]
    {
        let on_cuda: Vec<_> = held
            .iter()
            .filter_map(|(storage, layout)| match &**storage {
                Storage::Cuda(storage) => Some((storage, *layout)),
                _ => None,
            })
            .collect();
        if let Ok(inputs) = <[_; INPUTS]>::try_from(on_cuda) {
            return collect(crate::cuda::run(operation, inputs)?.map(|(data, shape)| crate::cuda::tensor(data, shape)));
        }
    }
    bail!("{} has no gradient for tensors of these devices", operation.name())
}

fn collect<const COUNT: usize>(tensors: [Result<Tensor>; COUNT]) -> Result<[Tensor; COUNT]> {
    let tensors: Vec<Tensor> = tensors.into_iter().collect::<Result<_>>()?;
    match <[Tensor; COUNT]>::try_from(tensors) {
        Ok(tensors) => Ok(tensors),
        Err(tensors) => bail!("{} tensors of {COUNT}", tensors.len()),
    }
}

/// Rows and the length of the last dimension.
///
/// # Errors
/// There is no last dimension.
pub fn rows(name: &str, shape: &Shape) -> Result<(usize, usize)> {
    match shape.dims().last() {
        Some(&width) if width > 0 => Ok((shape.elem_count() / width, width)),
        _ => bail!("{name} needs a last dimension, found {shape:?}"),
    }
}
