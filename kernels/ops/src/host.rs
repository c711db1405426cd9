//! Operations on host memory.

use std::sync::OnceLock;

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Tensor, bail};
use luthier_kernels::device::{CpuDevice, DeviceResult, Slice, SliceMut};

use crate::operation::Operation;

/// The device of host memory. Its operations run on the caller's rayon pool, so one thread of its own is enough.
fn device() -> Result<&'static CpuDevice> {
    static DEVICE: OnceLock<DeviceResult<CpuDevice>> = OnceLock::new();
    DEVICE.get_or_init(|| CpuDevice::new(1)).as_ref().map_err(candle_core::Error::wrap)
}

/// The elements of a contiguous `f32` argument.
fn slice<'a>(name: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = storage else { bail!("{name} needs f32 tensors") };
    let (start, end) = contiguous(name, layout)?;
    Ok(&data[start..end])
}

/// Where a contiguous argument is in its storage.
///
/// # Errors
/// It is not contiguous.
pub fn contiguous(name: &str, layout: &Layout) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(range) => Ok(range),
        None => bail!("{name} needs contiguous tensors; call `.contiguous()` first"),
    }
}

/// Runs an operation.
///
/// # Errors
/// Those of the operation; arguments that are not contiguous `f32`.
pub fn run<const INPUTS: usize, const OUTPUTS: usize>(
    operation: &impl Operation<INPUTS, OUTPUTS>,
    inputs: [(&CpuStorage, &Layout); INPUTS],
) -> Result<[(Vec<f32>, Shape); OUTPUTS]> {
    let mut slices = [Slice::from(&[] as &[f32]); INPUTS];
    for (slot, (storage, layout)) in slices.iter_mut().zip(inputs) {
        *slot = Slice::from(slice(operation.name(), storage, layout)?);
    }
    let shapes = operation.outputs(inputs.map(|(_, layout)| layout.shape()))?;
    let mut outputs = shapes.map(|shape| (vec![0f32; shape.elem_count()], shape));
    let indices = operation.indices();
    let indices: Vec<Slice<'_, u32>> = indices.into_iter().map(Slice::from).collect();
    operation.run(
        device()?,
        slices,
        &indices,
        outputs.each_mut().map(|(data, _)| SliceMut::from(data.as_mut_slice())),
    )?;
    Ok(outputs)
}

/// A tensor outside any graph.
///
/// # Errors
/// Those of candle.
pub fn tensor(data: Vec<f32>, shape: Shape) -> Result<Tensor> {
    Tensor::from_vec(data, shape, &Device::Cpu)
}
