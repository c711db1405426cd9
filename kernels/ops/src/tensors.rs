//! Between candle's storage and slices.

use candle_core::{CpuStorage, Layout, Result, Shape, Tensor, bail};

/// The elements of a contiguous `f32` argument.
pub fn slice<'a>(name: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = storage else { bail!("{name} needs f32 tensors") };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("{name} needs contiguous tensors; call `.contiguous()` first"),
    }
}

/// A result of the given shape.
pub fn result(data: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(data), shape.into())
}

/// All elements in row-major order, whatever the strides.
pub fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// A tensor beside `like`.
pub fn tensor(data: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(data, like.shape(), like.device())
}

/// Rows and the length of the last dimension.
pub fn rows(name: &str, shape: &Shape) -> Result<(usize, usize)> {
    match shape.dims().last() {
        Some(&width) if width > 0 => Ok((shape.elem_count() / width, width)),
        _ => bail!("{name} needs a last dimension, found {shape:?}"),
    }
}
