//! Frozen blocks that live on disk: the matrices of the block at work and of the next one are resident, no others.
//!
//! Every block's shard is mapped for good, so its matrices are ordinary operands and a streamed run computes what a
//! resident one computes, bit for bit. What comes and goes is their pages: [`LayerStream::enter`] lets those of the
//! blocks behind go, and a helper thread touches those of the block ahead.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use luthier_core::{StageError, StageResult};
use luthier_kernels::device::{Component, Held, Ledger};
use memmap2::{Advice, Mmap, UncheckedAdvice};

/// Bytes that the helper touches before it looks whether they are still wanted.
const STRETCH: usize = 1 << 20;
const PAGE: usize = 4096;
const NONE: usize = usize::MAX;

/// Blocks that may be resident at once.
pub(crate) const RESIDENT: usize = 2;

/// Brings blocks in and lets them go.
pub(crate) struct LayerStream {
    shards: Arc<Vec<Arc<Mmap>>>,
    /// Bytes of each block's matrices.
    bytes: Vec<usize>,
    ledger: Arc<Ledger>,
    resident: Mutex<Vec<(usize, Held)>>,
    wanted: Arc<AtomicUsize>,
    requests: Option<Sender<usize>>,
    helper: Option<JoinHandle<()>>,
}

impl LayerStream {
    /// Of mapped shards, one per block, and the bytes of each that count.
    ///
    /// # Errors
    /// The helper thread could not be started.
    pub fn new(shards: Vec<Arc<Mmap>>, bytes: Vec<usize>, ledger: Arc<Ledger>) -> StageResult<Self> {
        let (shards, wanted) = (Arc::new(shards), Arc::new(AtomicUsize::new(NONE)));
        let (requests, received) = channel::<usize>();
        let helper = {
            let (shards, wanted) = (Arc::clone(&shards), Arc::clone(&wanted));
            std::thread::Builder::new()
                .name("luthier-prefetch".to_owned())
                .spawn(move || {
                    for layer in received {
                        touch(&shards[layer], || wanted.load(Ordering::Acquire) == layer);
                    }
                })
                .map_err(|error| {
                    StageError::new("train::stream", "the thread that reads blocks ahead could not be started")
                        .caused_by(error)
                })?
        };
        Ok(Self {
            shards,
            bytes,
            ledger,
            resident: Mutex::default(),
            wanted,
            requests: Some(requests),
            helper: Some(helper),
        })
    }

    /// Makes `layer` and `next` the resident blocks.
    pub fn enter(&self, layer: usize, next: usize) {
        let mut resident = self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanted.store(next, Ordering::Release);
        resident.retain(|(held, _)| {
            let stays = *held == layer || *held == next;
            if !stays {
                // SAFETY: the map is a file's and only read, so a page that is let go comes back with the same bytes.
                // A failure only means that the pages stay.
                let _ = unsafe { self.shards[*held].unchecked_advise(UncheckedAdvice::DontNeed) };
            }
            stays
        });
        for wanted in [layer, next] {
            if resident.iter().all(|(held, _)| *held != wanted) {
                resident.push((wanted, self.ledger.hold(Component::Weights, self.bytes[wanted])));
                if let Some(requests) = &self.requests {
                    // Without the helper the pages come in as they are used.
                    let _ = requests.send(wanted);
                }
            }
        }
    }
}

impl Drop for LayerStream {
    fn drop(&mut self) {
        self.wanted.store(NONE, Ordering::Release);
        self.requests = None;
        if let Some(helper) = self.helper.take() {
            let _ = helper.join();
        }
    }
}

/// Reads a byte of every page while `wanted`.
fn touch(map: &Mmap, wanted: impl Fn() -> bool) {
    // Advice that is not taken costs time only.
    let _ = map.advise(Advice::WillNeed);
    for stretch in map.chunks(STRETCH) {
        if !wanted() {
            return;
        }
        for page in stretch.chunks(PAGE) {
            std::hint::black_box(page[0]);
        }
    }
}
