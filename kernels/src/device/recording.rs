//! Operations that a device keeps and queues again in one call.

use std::any::Any;
use std::collections::BTreeMap;

use super::Device;

/// Recordings that are kept at once: each holds memory of the driver's, and of a shape that comes back there is one.
const MOST: usize = 16;
/// Shapes that are remembered as seen once.
const MOST_SEEN: usize = 4096;

/// What a device recorded. It knows where the operations' memory is, not whether it still is there.
pub struct Recording(Box<dyn Any + Send + Sync>);

impl Recording {
    #[must_use]
    pub fn new(recorded: impl Any + Send + Sync) -> Self {
        Self(Box::new(recorded))
    }

    /// As the device knows it; `None` if it is another device's.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

enum Entry {
    /// Ran once, which made everything ready that a first run needs.
    Seen,
    Kept(Recording),
    /// The device could not.
    Refused,
}

/// The recordings of somebody who runs the same operations again and again, by what tells them apart.
#[derive(Default)]
pub struct Recordings {
    entries: BTreeMap<Vec<usize>, Entry>,
    kept: usize,
}

impl Recordings {
    /// Queues the operations of `work`: the first time under a key by calling it, the second time it is recorded, and from
    /// then on the recording is queued, if the device can. `work` only queues operations.
    ///
    /// # Safety
    /// Under one key, `work` queues the same operations on the same memory each time, and all of that memory has been there
    /// since the first time.
    pub unsafe fn run(&mut self, device: &dyn Device, key: &[usize], work: &mut dyn FnMut()) {
        let full = self.kept >= MOST;
        match self.entries.get_mut(key) {
            None => {
                if self.entries.len() < MOST_SEEN {
                    self.entries.insert(key.to_vec(), Entry::Seen);
                }
                work();
            }
            Some(Entry::Refused) => work(),
            Some(entry) => {
                if let Entry::Kept(recording) = entry {
                    // SAFETY: as the caller says.
                    if unsafe { device.replay(recording) } {
                        return;
                    }
                    self.kept -= 1;
                    *entry = Entry::Seen;
                } else if full {
                    return work();
                }
                let Some(recording) = device.record(work) else {
                    *entry = Entry::Refused;
                    return work();
                };
                // SAFETY: as the caller says.
                if unsafe { device.replay(&recording) } {
                    *entry = Entry::Kept(recording);
                    self.kept += 1;
                } else {
                    *entry = Entry::Refused;
                    work();
                }
            }
        }
    }

    /// How many are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept
    }
}
