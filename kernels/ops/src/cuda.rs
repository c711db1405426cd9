//! Operations on candle's CUDA devices: on candle's stream, in candle's memory.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::cuda::cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Error, Layout, Result, Shape, Storage, Tensor};
use luthier_cuda::{CudaDevice, CudaOptions};
use luthier_kernels::device::{Slice, SliceMut, Space};

pub use luthier_cuda::Precision;

use crate::host::contiguous;
use crate::operation::Operation;

/// What products and attention are computed in from the next operation on: tensors are `f32`, and so are products unless
/// this says that the tensor cores may round their factors.
pub fn set_precision(precision: Precision) {
    *lock(&PRECISION) = precision;
}

static PRECISION: Mutex<Precision> = Mutex::new(Precision::F32);
/// The devices that operations have run on. They stay: what is kept on them is known by their address.
static DEVICES: Mutex<Vec<Arc<Joined>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Our device on a stream of candle's.
struct Joined {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    /// Operations share their scratch memory, so one thread at a time queues one.
    turn: Mutex<()>,
}

fn joined(stream: &Arc<CudaStream>) -> Result<Arc<Joined>> {
    let precision = *lock(&PRECISION);
    let mut devices = lock(&DEVICES);
    let known =
        devices.iter().find(|known| Arc::ptr_eq(&known.stream, stream) && known.device.precision() == precision);
    if let Some(known) = known {
        return Ok(Arc::clone(known));
    }
    let ordinal = u8::try_from(stream.context().ordinal()).map_err(Error::wrap)?;
    let handle: *mut c_void = stream.cu_stream().cast();
    // SAFETY: candle's streams are of the primary context, and `Joined` keeps this one.
    let device =
        unsafe { CudaDevice::join(CudaOptions { ordinal, precision, cublas: false }, handle) }.map_err(Error::wrap)?;
    let joined = Arc::new(Joined { device, stream: Arc::clone(stream), turn: Mutex::new(()) });
    devices.push(Arc::clone(&joined));
    Ok(joined)
}

fn pointer<T>(address: u64) -> NonNull<T> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address as usize)).unwrap_or(NonNull::dangling())
}

/// Runs an operation.
///
/// # Errors
/// Those of the operation and of the driver; arguments that are not contiguous `f32`.
pub(crate) fn run<const INPUTS: usize, const OUTPUTS: usize>(
    operation: &impl Operation<INPUTS, OUTPUTS>,
    inputs: [(&CudaStorage, &Layout); INPUTS],
) -> Result<[(CudaStorage, Shape); OUTPUTS]> {
    let candle = inputs[0].0.device().clone();
    let stream = candle.cuda_stream();
    let joined = joined(&stream)?;
    let space = Space::Cuda(u8::try_from(stream.context().ordinal()).map_err(Error::wrap)?);
    let shapes = operation.outputs(inputs.map(|(_, layout)| layout.shape()))?;

    let numbers = operation.indices().into_iter().map(|numbers| candle.clone_htod(numbers));
    let numbers = numbers.collect::<Result<Vec<_>>>()?;
    // SAFETY: an operation writes every element of its outputs.
    let memory = shapes.iter().map(|shape| unsafe { candle.alloc::<f32>(shape.elem_count()) });
    let mut memory = memory.collect::<Result<Vec<_>>>()?;

    let _turn = lock(&joined.turn);
    // What orders candle's other streams with the operation; each records when it is dropped, after the launches.
    let mut held = Vec::new();
    let mut views = [Slice::from(&[] as &[f32]); INPUTS];
    for (view, (storage, layout)) in views.iter_mut().zip(inputs) {
        let (start, end) = contiguous(operation.name(), layout)?;
        let (address, guard) = storage.as_cuda_slice::<f32>()?.device_ptr(&stream);
        held.push(guard);
        // SAFETY: the layout is of this storage, which the caller holds.
        *view = unsafe { Slice::of_memory(pointer(address + 4 * start as u64), end - start, space) };
    }
    let mut indices = Vec::with_capacity(numbers.len());
    for numbers in &numbers {
        let (address, guard) = numbers.device_ptr(&stream);
        held.push(guard);
        // SAFETY: `numbers` is freed in the order of the stream.
        indices.push(unsafe { Slice::<u32>::of_memory(pointer(address), numbers.len(), space) });
    }
    let mut outputs = Vec::with_capacity(OUTPUTS);
    for (memory, shape) in memory.iter_mut().zip(&shapes) {
        let (address, guard) = memory.device_ptr_mut(&stream);
        held.push(guard);
        // SAFETY: the memory is fresh.
        outputs.push(unsafe { SliceMut::<f32>::of_memory(pointer(address), shape.elem_count(), space) });
    }
    let Ok(outputs) = <[SliceMut<'_, f32>; OUTPUTS]>::try_from(outputs) else {
        candle_core::bail!("{} has other outputs than it says", operation.name())
    };
    let ran = operation.run(&joined.device, views, &indices, outputs);
    let failed = joined.device.check().map_err(Error::wrap);
    drop(held);
    ran.and(failed)?;

    let mut memory = memory.into_iter();
    let mut results = Vec::with_capacity(OUTPUTS);
    for shape in shapes {
        results.extend(memory.next().map(|data| (CudaStorage::wrap_cuda_slice(data, candle.clone()), shape)));
    }
    match <[(CudaStorage, Shape); OUTPUTS]>::try_from(results) {
        Ok(results) => Ok(results),
        Err(results) => candle_core::bail!("{} gave {} outputs of {OUTPUTS}", operation.name(), results.len()),
    }
}

/// A tensor outside any graph.
///
/// # Errors
/// None; as on the host.
pub(crate) fn tensor(data: CudaStorage, shape: Shape) -> Result<Tensor> {
    Ok(Tensor::from_storage(Storage::Cuda(data), shape, BackpropOp::none(), false))
}
