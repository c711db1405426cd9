//! Device failures as stage errors.

use luthier_core::StageError;
use luthier_kernels::device::DeviceError;

/// Turns a device failure into what the user reads.
#[must_use]
pub fn device_error(error: DeviceError) -> StageError {
    let (code, hint) = match &error {
        DeviceError::OutOfMemory { .. } => (
            "model::out_of_memory",
            "run `luthier plan --memory` to see what needs the bytes, then lower `batch`, or set `checkpointing: true`",
        ),
        DeviceError::OutOfHostMemory { .. } => (
            "model::out_of_host_memory",
            "free host memory, which page-locked memory takes for good, or leave out `offload`, `stream` and paged \
             optimizers",
        ),
        DeviceError::Unavailable { .. } => ("model::device_unavailable", "run `luthier doctor`, or set `device: cpu`"),
        DeviceError::Failed { .. } => ("model::device_failed", "run again with `device: cpu` to rule out the device"),
    };
    StageError::new(code, error.to_string()).hint(hint)
}
