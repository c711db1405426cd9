//! Copies that run beside the operations, on a queue of their own, between a device and page-locked host memory.
//!
//! Both queues run in order, each by itself. What ties them is a [`Mark`]: a point in one of them that the other, or the
//! host, waits for. Nothing here waits on the host but [`Transfers::finish`] and what is built on it.
//!
//! ```text
//! operations  ── block k ──●──────────── block k+1 ──────
//!                          │ wait(Copies, ●)        ▲ wait(Operations, ○)
//! copies      ─────────────┴─ download input k+1 ─○─┘
//! ```

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use super::buffer::{Allocation, Buffer, Slice, SliceMut};
use super::error::DeviceResult;
use super::ledger::HostComponent;

/// What runs in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// All of [`super::Device`]'s operations.
    Operations,
    /// Uploads and downloads of [`Transfers`].
    Copies,
}

/// A point in a queue. Dropping it changes nothing.
#[derive(Clone)]
pub struct Mark(Arc<dyn Any + Send + Sync>);

impl Mark {
    /// A mark that a device knows again by `what`.
    #[must_use]
    pub fn new(what: impl Any + Send + Sync) -> Self {
        Self(Arc::new(what))
    }

    /// What it was made of.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mark")
    }
}

/// Page-locked host memory. Copies run with it while the host goes on, so its bytes are given out only after a wait.
#[derive(Debug)]
pub struct Pinned {
    buffer: Buffer<u8>,
    busy: Busy,
}

/// What goes on with page-locked memory.
#[derive(Debug)]
enum Busy {
    Nothing,
    /// The last copy from or to it.
    Until(Mark),
    /// Copies that nobody tells of.
    Replays,
}

impl Pinned {
    /// Takes over memory that copies of one device run with.
    #[must_use]
    pub fn new(memory: Allocation, bytes: usize) -> Self {
        Self { buffer: Buffer::new(memory, bytes), busy: Busy::Nothing }
    }

    /// The same for copies that are in a [`super::Recording`]: they run again without being queued again, so its bytes are
    /// given out only after a wait for all that is queued.
    #[must_use]
    pub fn replayed(self) -> Self {
        Self { busy: Busy::Replays, ..self }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Its bytes, once no copy is under way with them.
    pub fn bytes(&mut self, transfers: &dyn Transfers) -> &mut [u8] {
        self.settle(transfers);
        if let Busy::Until(_) = self.busy {
            self.busy = Busy::Nothing;
        }
        self.buffer.all_mut().host()
    }

    /// Its bytes, to be read, once no copy is under way with them.
    pub fn read(&self, transfers: &dyn Transfers) -> &[u8] {
        self.settle(transfers);
        self.buffer.all().host()
    }

    fn settle(&self, transfers: &dyn Transfers) {
        match &self.busy {
            Busy::Nothing => {}
            Busy::Until(mark) => transfers.finish(mark),
            Busy::Replays => {
                for queue in [Queue::Operations, Queue::Copies] {
                    transfers.finish(&transfers.mark(queue));
                }
            }
        }
    }
}

/// Copies beside the operations. A device that fails remembers it, as with its operations.
pub trait Transfers: Send + Sync {
    /// Page-locked host memory, counted as the host's in the device's [`super::Ledger`]. What is in it is not said.
    ///
    /// # Errors
    /// [`super::DeviceError::OutOfHostMemory`].
    fn pin(&self, component: HostComponent, bytes: usize) -> DeviceResult<Pinned>;

    /// The end of what is queued now.
    fn mark(&self, queue: Queue) -> Mark;

    /// What is queued from now on in `queue` runs after `mark`, a point in the other one.
    fn wait(&self, queue: Queue, mark: &Mark);

    /// Waits on the host.
    fn finish(&self, mark: &Mark);

    /// Queues a copy from page-locked memory; both sides are in use until a later mark of [`Queue::Copies`].
    fn copy_in(&self, source: Slice<'_, u8>, target: SliceMut<'_, u8>);

    /// Queues a copy to page-locked memory; as of [`Transfers::copy_in`].
    fn copy_out(&self, source: Slice<'_, u8>, target: SliceMut<'_, u8>);
}

impl dyn Transfers + '_ {
    /// Queues a copy of `range` to the device; its end.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn upload(&self, source: &mut Pinned, range: Range<usize>, target: SliceMut<'_, u8>) -> Mark {
        self.copy_in(source.buffer.slice(range), target);
        self.copied(source)
    }

    /// Queues a copy to `range` from the device; its end.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn download(&self, source: Slice<'_, u8>, target: &mut Pinned, range: Range<usize>) -> Mark {
        self.copy_out(source, target.buffer.slice_mut(range));
        self.copied(target)
    }

    fn copied(&self, pinned: &mut Pinned) -> Mark {
        let mark = self.mark(Queue::Copies);
        if !matches!(pinned.busy, Busy::Replays) {
            pinned.busy = Busy::Until(mark.clone());
        }
        mark
    }
}
