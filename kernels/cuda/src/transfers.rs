//! Copies beside the operations: page-locked memory, a stream of its own, and events that tie it to that of the operations.

use std::ptr::NonNull;
use std::sync::Arc;

use luthier_kernels::device::{
    Allocation, Component, Device, DeviceError, DeviceResult, HeldHost, HostComponent, Mark, Pinned, Queue, Slice,
    SliceMut, Transfers,
};

use crate::CudaDevice;
use crate::arguments::Address;
use crate::driver::{Driver, Event, explain};

/// One allocation of page-locked memory.
struct PinnedMemory {
    driver: Arc<Driver>,
    address: NonNull<u8>,
    _held: HeldHost,
}

// SAFETY: it only owns memory; nothing is read through it.
unsafe impl Send for PinnedMemory {}
// SAFETY: as above.
unsafe impl Sync for PinnedMemory {}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        self.driver.unpin(self.address);
    }
}

impl Transfers for CudaDevice {
    fn pin(&self, component: HostComponent, bytes: usize) -> DeviceResult<Pinned> {
        let driver = self.shared_driver();
        let failed = |why| DeviceError::OutOfHostMemory { device: self.name(), bytes, why };
        // The driver gives no memory of no bytes.
        let address = driver.pin(bytes.max(1)).map_err(|error| failed(explain(error)))?;
        let ledger = self.ledger();
        let owner = PinnedMemory { driver: Arc::clone(driver), address, _held: ledger.hold_host(component, bytes) };
        // SAFETY: fresh memory, aligned to a page, that `owner` alone frees; the system filled its pages before it gave
        // them to the driver. No component counts it.
        let memory =
            unsafe { Allocation::paged(address, bytes, Component::Scratch, Arc::clone(ledger), Box::new(owner)) };
        Ok(Pinned::new(memory, bytes))
    }

    fn mark(&self, queue: Queue) -> Mark {
        if !self.has_failed() {
            match self.shared_driver().record(queue) {
                Ok(event) => return Mark::new(event),
                Err(error) => self.note(Err(error)),
            }
        }
        Mark::new(())
    }

    fn wait(&self, queue: Queue, mark: &Mark) {
        if let (Some(event), false) = (mark.get::<Event>(), self.has_failed()) {
            self.note(self.driver().wait(queue, event));
        }
    }

    fn finish(&self, mark: &Mark) {
        // After a failure too: the copies before it may still be under way.
        if let Some(event) = mark.get::<Event>() {
            self.note(self.driver().finish(event));
        }
    }

    fn copy_in(&self, source: Slice<'_, u8>, target: SliceMut<'_, u8>) {
        assert_eq!(source.len(), target.len(), "an upload of another length");
        let host = source.host();
        if !host.is_empty() && !self.has_failed() {
            // SAFETY: both views are of that many bytes, and stay so until a mark behind this, as the interface says.
            self.note(unsafe {
                self.driver().copy_in(target.address().word(), NonNull::from(host).cast(), host.len())
            });
        }
    }

    fn copy_out(&self, source: Slice<'_, u8>, target: SliceMut<'_, u8>) {
        assert_eq!(source.len(), target.len(), "a download of another length");
        let host = target.host();
        if !host.is_empty() && !self.has_failed() {
            let (address, bytes) = (NonNull::from(&mut *host).cast(), host.len());
            // SAFETY: as above.
            self.note(unsafe { self.driver().copy_out(address, source.address().word(), bytes) });
        }
    }
}
