//! Frozen blocks on a device with memory of its own: two slots of it take turns.
//!
//! While the device computes a block, the next one goes from its mapped shard to page-locked memory and from there, on the
//! queue of copies, into the slot of the block before. The host, which only queues operations, is ahead of the device and
//! does the first part itself. Matrices are views of a slot, so a streamed run computes what a resident one computes, bit for
//! bit.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use luthier_core::{StageError, StageResult};
use luthier_formats::model_files::ModelConfig;
use luthier_kernels::device::{
    Allocation, Component, Device, HostBytes, HostComponent, Mark, Matrix, Nf4Parts, Pinned, Queue, Storage, Transfers,
};
use memmap2::{Advice, Mmap, UncheckedAdvice};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::layer_stream::RESIDENT;
use super::shards::Shard;
use crate::error::device_error;
use crate::projection::Projection;

/// Where parts of a matrix begin in a slot: what a device aligns its own allocations to.
const ALIGNMENT: usize = 256;
/// Bytes that one thread copies at a time.
const STRETCH: usize = 1 << 20;

/// Where the parts of a block's matrices are in a slot: codes, their scales, and the scales of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockLayout {
    parts: [[Range<usize>; 3]; Projection::ALL.len()],
    pub bytes: usize,
}

impl BlockLayout {
    /// Of all blocks of a model.
    pub fn new(config: &ModelConfig) -> Self {
        let mut end = 0;
        let parts = Projection::ALL.map(|projection| {
            let (rows, cols) = projection.shape(config);
            Storage::nf4_parts(rows * cols).map(|bytes| {
                let start = end;
                end = (start + bytes).next_multiple_of(ALIGNMENT);
                start..start + bytes
            })
        });
        Self { parts, bytes: end }
    }
}

/// A block's shard and where its parts go.
struct StagedLayer {
    map: Arc<Mmap>,
    parts: Vec<(HostBytes, Range<usize>)>,
}

/// What is where, and what must be waited for.
struct Slot {
    memory: Arc<Allocation>,
    stage: Pinned,
    /// The block that is in it, or on its way.
    layer: Option<usize>,
    /// The end of an upload that no operation has waited for yet.
    arrived: Option<Mark>,
    /// The end of the operations with what was in it.
    used: Option<Mark>,
}

/// Brings blocks in.
pub(crate) struct LayerSlots {
    device: Arc<dyn Device>,
    layout: BlockLayout,
    layers: Vec<StagedLayer>,
    slots: Mutex<Vec<Slot>>,
}

impl LayerSlots {
    /// Slots for the blocks of a model, which [`LayerSlots::adopt`] then names in order.
    ///
    /// # Errors
    /// Out of memory, on either side.
    pub fn new(device: &Arc<dyn Device>, transfers: &dyn Transfers, config: &ModelConfig) -> StageResult<Self> {
        let layout = BlockLayout::new(config);
        let slots = (0..config.layers.min(RESIDENT))
            .map(|_| {
                let memory = device.allocate(Component::Weights, layout.bytes).map_err(device_error)?;
                let stage = transfers.pin(HostComponent::Blocks, layout.bytes).map_err(device_error)?;
                // The device zeroes its memory among its operations.
                let used = Some(transfers.mark(Queue::Operations));
                Ok(Slot { memory: Arc::new(memory), stage, layer: None, arrived: None, used })
            })
            .collect::<StageResult<_>>()?;
        Ok(Self { device: Arc::clone(device), layout, layers: Vec::new(), slots: Mutex::new(slots) })
    }

    /// The matrices of the next block, in the slot that it will be in.
    ///
    /// # Errors
    /// `train::damaged_shard`.
    pub fn adopt(&mut self, config: &ModelConfig, shard: &Shard) -> StageResult<Vec<Matrix>> {
        let slots = self.slots.get_mut().unwrap_or_else(PoisonError::into_inner);
        let slot = self.layers.len() % slots.len();
        let memory = &slots[slot].memory;
        let (mut matrices, mut staged) = (Vec::new(), Vec::new());
        for projection in Projection::ALL {
            let Nf4Parts { packed, codes, scales, offset } = shard.nf4(projection)?;
            let ranges = &self.layout.parts[projection as usize];
            for (bytes, range) in [packed, codes, scales].into_iter().zip(ranges) {
                if bytes.len() != range.len() {
                    return Err(shard.misshapen(projection.name()));
                }
                staged.push((bytes, range.clone()));
            }
            let (rows, cols) = projection.shape(config);
            let parts = ranges.clone().map(|range| Allocation::part(memory, range));
            matrices.push(Matrix::of_nf4_parts([rows, cols], parts, offset));
        }
        self.layers.push(StagedLayer { map: Arc::clone(&shard.map), parts: staged });
        Ok(matrices)
    }

    /// Operations that are queued from now on may use `layer`.
    pub fn enter(&self, layer: usize) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(transfers) = self.device.transfers() else { return };
        let slot = self.bring(&mut slots, transfers, layer);
        if let Some(mark) = slot.arrived.take() {
            transfers.wait(Queue::Operations, &mark);
        }
    }

    /// Operations that were queued until now are all that use `layer` for now; `next` is wanted soon.
    pub fn leave(&self, layer: usize, next: usize) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(transfers) = self.device.transfers() else { return };
        let count = slots.len();
        slots[layer % count].used = Some(transfers.mark(Queue::Operations));
        self.bring(&mut slots, transfers, next);
        // The one after it, if the pass goes on as it went.
        if let Some(ahead) = (2 * next).checked_sub(layer).and_then(|ahead| self.layers.get(ahead)) {
            // Advice that is not taken costs time only.
            let _ = ahead.map.advise(Advice::WillNeed);
        }
    }

    /// The slot of `layer`, with it in it or on its way.
    fn bring<'s>(&self, slots: &'s mut [Slot], transfers: &dyn Transfers, layer: usize) -> &'s mut Slot {
        let count = slots.len();
        let slot = &mut slots[layer % count];
        if slot.layer == Some(layer) {
            return slot;
        }
        let staged = &self.layers[layer];
        fill(slot.stage.bytes(transfers), &staged.parts);
        // SAFETY: the map is a file's and only read, so a page that is let go comes back with the same bytes.
        let _ = unsafe { staged.map.unchecked_advise(UncheckedAdvice::DontNeed) };
        if let Some(mark) = slot.used.take() {
            transfers.wait(Queue::Copies, &mark);
        }
        // SAFETY: the memory is the device's; the marks keep this copy behind the block before and ahead of this one.
        let target = unsafe { slot.memory.shared_mut() };
        slot.arrived = Some(transfers.upload(&mut slot.stage, 0..self.layout.bytes, target));
        slot.layer = Some(layer);
        slot
    }
}

/// Copies each part to its place; the bytes between them are nobody's.
fn fill(target: &mut [u8], parts: &[(HostBytes, Range<usize>)]) {
    let mut stretches: Vec<(&[u8], &mut [u8])> = Vec::new();
    let (mut rest, mut start) = (target, 0);
    for (bytes, range) in parts {
        let (piece, others) = std::mem::take(&mut rest).split_at_mut(range.end - start);
        let piece = &mut piece[range.start - start..];
        stretches.extend(bytes.as_slice().chunks(STRETCH).zip(piece.chunks_mut(STRETCH)));
        (rest, start) = (others, range.end);
    }
    stretches.into_par_iter().for_each(|(source, target)| target.copy_from_slice(source));
}

/// What says that a device can do neither.
pub(super) fn cannot_stream(device: &dyn Device) -> StageError {
    StageError::input("train::stream", format!("the device `{}` cannot stream blocks from disk", device.name()))
        .hint("remove `stream: layers`, or set `device: cpu`")
}
