//! What can go wrong on a device.

use super::ledger::Component;

/// A device could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("the device `{device}` could not allocate {bytes} bytes for {component}")]
    OutOfMemory { device: String, bytes: usize, component: Component },
    #[error("{bytes} bytes of host memory could not be page-locked for the device `{device}`: {why}")]
    OutOfHostMemory { device: String, bytes: usize, why: String },
    #[error("the device `{device}` is not available: {why}")]
    Unavailable { device: String, why: String },
    #[error("an operation on the device `{device}` failed: {why}")]
    Failed { device: String, why: String },
}

pub type DeviceResult<T> = Result<T, DeviceError>;
