//! Memory of the device that its owner frees.

use std::sync::{Arc, Mutex};

use luthier_kernels::device::{Component, Held, Ledger};

use crate::driver::Driver;

/// One allocation.
pub struct DeviceMemory {
    driver: Arc<Driver>,
    pub address: u64,
}

impl DeviceMemory {
    /// `bytes` zeroed bytes, or what the driver says.
    pub fn new(driver: &Arc<Driver>, bytes: usize) -> Result<Self, cudarc::driver::DriverError> {
        Ok(Self { driver: Arc::clone(driver), address: driver.allocate(bytes)? })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        self.driver.free(self.address);
    }
}

/// Memory that operations borrow while they run: as large as the largest yet.
#[derive(Default)]
pub struct Region {
    held: Mutex<Option<(DeviceMemory, Held, usize)>>,
}

impl Region {
    /// At least `bytes` bytes, until the next call.
    pub fn take(
        &self,
        driver: &Arc<Driver>,
        ledger: &Arc<Ledger>,
        bytes: usize,
    ) -> Result<u64, cudarc::driver::DriverError> {
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((memory, _, size)) = &*held
            && *size >= bytes
        {
            return Ok(memory.address);
        }
        *held = None;
        let bytes = bytes.max(64);
        let memory = DeviceMemory::new(driver, bytes)?;
        let address = memory.address;
        *held = Some((memory, ledger.hold(Component::Scratch, bytes), bytes));
        Ok(address)
    }
}
