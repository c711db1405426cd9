//! Block inputs that wait for backward in host memory.
//!
//! Two buffers of the device take turns: a block reads its input from one and writes the next block's into the other. While
//! block `k` computes, its input goes to page-locked memory; in backward, while block `k` computes, that of `k - 1` comes
//! back into the buffer that block `k + 1` is done with. The last block's input stays, backward begins with it. All that a
//! pass moves has arrived before what is queued behind the pass, so that a pass may be recorded.

use luthier_core::{StageError, StageResult};
use luthier_kernels::device::{Buffer, Device, HostComponent, Mark, Pinned, Queue, Slice, Transfers};

use super::sizes::Sizes;
use crate::error::device_error;

/// Buffers of the device that block inputs take turns in.
pub(crate) const LANDINGS: usize = 2;

/// Where inputs are while they are not on the device.
pub(crate) struct Offload {
    /// By input, all but the last.
    pool: Vec<Pinned>,
    /// What an operation on a buffer must wait for: its download before it is written, its upload before it is read.
    busy: [Option<Mark>; LANDINGS],
}

impl Offload {
    /// Page-locked memory for what `sizes` keeps of its inputs.
    ///
    /// # Errors
    /// Out of host memory.
    pub fn new(transfers: &dyn Transfers, sizes: &Sizes) -> StageResult<Self> {
        let bytes = sizes.residual;
        let pin = |_| Ok(transfers.pin(HostComponent::BlockInputs, bytes).map_err(device_error)?.replayed());
        Ok(Self { pool: (0..sizes.pooled()).map(pin).collect::<StageResult<_>>()?, busy: Default::default() })
    }

    /// Starts to move an input that is complete once what is queued now has run.
    pub fn store(&mut self, device: &dyn Device, index: usize, input: Slice<'_, f32>) {
        let (Some(transfers), Some(pinned)) = (device.transfers(), self.pool.get_mut(index)) else { return };
        let input = input.as_bytes();
        transfers.wait(Queue::Copies, &transfers.mark(Queue::Operations));
        self.busy[index % LANDINGS] = Some(transfers.download(input, pinned, 0..input.len()));
    }

    /// Operations that are queued from now on may use the buffer that `index` is in.
    pub fn settle(&mut self, device: &dyn Device, index: usize) {
        if let (Some(transfers), Some(mark)) = (device.transfers(), self.busy[index % LANDINGS].take()) {
            transfers.wait(Queue::Operations, &mark);
        }
    }

    /// Starts to bring an input of `floats` elements back into its buffer, which nothing that is queued later uses until
    /// [`Offload::settle`].
    pub fn fetch(&mut self, device: &dyn Device, index: usize, floats: usize, landing: &mut Buffer<f32>) {
        let (Some(transfers), Some(pinned)) = (device.transfers(), self.pool.get_mut(index)) else { return };
        transfers.wait(Queue::Copies, &transfers.mark(Queue::Operations));
        let target = landing.slice_mut(..floats).into_bytes();
        self.busy[index % LANDINGS] = Some(transfers.upload(pinned, 0..target.len(), target));
    }
}

/// What says that inputs cannot be moved.
pub(super) fn nothing_to_move(device: &dyn Device) -> StageError {
    StageError::input("train::offload", format!("the device `{}` computes in host memory already", device.name()))
        .hint("remove `offload`, or set `device: cuda`")
}
