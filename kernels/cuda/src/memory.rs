//! Memory of the device that its owner frees, and host memory on the way there.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::DriverError;
use luthier_kernels::device::{Component, Held, HeldHost, HostComponent, Ledger};

use crate::driver::Driver;

/// One allocation.
pub struct DeviceMemory {
    driver: Arc<Driver>,
    pub address: u64,
}

impl DeviceMemory {
    /// `bytes` zeroed bytes, or what the driver says.
    pub fn new(driver: &Arc<Driver>, bytes: usize) -> Result<Self, DriverError> {
        Ok(Self { driver: Arc::clone(driver), address: driver.allocate(bytes)? })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        self.driver.free(self.address);
    }
}

/// Memory that operations borrow while they run: as much as was reserved, or, where nothing was, as the largest yet took.
#[derive(Default)]
pub struct Region {
    state: Mutex<RegionState>,
}

#[derive(Default)]
struct RegionState {
    held: Option<(DeviceMemory, Held)>,
    bytes: usize,
    reserved: bool,
}

/// What a region says to an operation.
pub enum Taken {
    Here(u64),
    /// It has fewer bytes, and may grow.
    Small,
    /// It has these, and no more were reserved.
    Refused(usize),
}

impl Region {
    fn state(&self) -> MutexGuard<'_, RegionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At least `bytes` bytes, until the next call.
    pub fn take(&self, bytes: usize) -> Taken {
        let state = self.state();
        match &state.held {
            _ if bytes > state.bytes => {
                if state.reserved {
                    Taken::Refused(state.bytes)
                } else {
                    Taken::Small
                }
            }
            Some((memory, _)) => Taken::Here(memory.address),
            None => Taken::Here(0),
        }
    }

    /// Becomes at least so large; whether it moved. `reserved` says that it is not to grow from now on.
    pub fn grow(
        &self,
        driver: &Arc<Driver>,
        ledger: &Arc<Ledger>,
        bytes: usize,
        reserved: bool,
    ) -> Result<bool, DriverError> {
        let mut state = self.state();
        state.reserved |= reserved;
        if bytes <= state.bytes {
            return Ok(false);
        }
        (state.held, state.bytes) = (None, 0);
        let memory = DeviceMemory::new(driver, bytes)?;
        state.held = Some((memory, ledger.hold(Component::Scratch, bytes)));
        state.bytes = bytes;
        Ok(true)
    }
}

/// Bytes on the way to the device, and the most that come back at once.
const STAGED: usize = 4 << 20;
const FETCHED: usize = 4 << 10;
/// Bytes of [`Staging`].
pub const STAGING_BYTES: usize = STAGED + FETCHED;

/// Pinned host memory that small copies go through, so that they do not wait for the device: a write takes the next part
/// of it, and all parts are free again once somebody has waited.
pub struct Staging {
    driver: Arc<Driver>,
    address: NonNull<u8>,
    used: usize,
    _held: HeldHost,
}

// SAFETY: it owns its memory.
unsafe impl Send for Staging {}

impl Staging {
    pub fn new(driver: &Arc<Driver>, ledger: &Arc<Ledger>) -> Result<Self, DriverError> {
        let address = driver.pin(STAGING_BYTES)?;
        let held = ledger.hold_host(HostComponent::Staging, STAGING_BYTES);
        Ok(Self { driver: Arc::clone(driver), address, used: 0, _held: held })
    }

    /// Copies to the device; `source` may be used again at once.
    pub fn write(&mut self, address: u64, source: &[u8]) -> Result<(), DriverError> {
        if source.len() > STAGED / 2 {
            return self.driver.write(address, source);
        }
        if source.len() > STAGED - self.used {
            self.wait()?;
        }
        // SAFETY: the range is inside the memory, and no copy that is queued reads it.
        let part = unsafe { std::slice::from_raw_parts_mut(self.address.add(self.used).as_ptr(), source.len()) };
        part.copy_from_slice(source);
        self.used += source.len().next_multiple_of(64);
        self.driver.write(address, part)
    }

    /// Copies from the device, after all that was queued before.
    pub fn read(&mut self, address: u64, target: &mut [u8]) -> Result<(), DriverError> {
        if target.len() > FETCHED {
            self.driver.read(address, target)?;
        } else {
            // SAFETY: the range lies behind what is written, and nobody else has it while `self` is borrowed.
            let part = unsafe { std::slice::from_raw_parts_mut(self.address.add(STAGED).as_ptr(), target.len()) };
            self.driver.read(address, part)?;
            target.copy_from_slice(part);
        }
        self.used = 0;
        Ok(())
    }

    /// Waits for all that is queued.
    pub fn wait(&mut self) -> Result<(), DriverError> {
        self.driver.synchronize()?;
        self.used = 0;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Copies that are queued still read it.
        let _ = self.driver.synchronize();
        self.driver.unpin(self.address);
    }
}
