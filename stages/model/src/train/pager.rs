//! Moments in page-locked host memory, which come through two lanes of the device, page by page.
//!
//! While the operations update what is in one lane, the page before goes back from the other and the one after comes into
//! it. What a step queues beside the operations begins after those queued before it and ends before those queued after it,
//! so that all of a step may be recorded.
//!
//! ```text
//! operations  ─●─────────────── page 0 ─●── page 1 ───────●── page 2 ─● …
//!              ↓               ↑        ↓  ↑              ↓  ↑
//! copies        in 0 ─ in 1 ───○─ …      out 0 ─ in 2 ─○   out 1 ─ in 3 …
//! ```

use luthier_core::StageResult;
use luthier_kernels::device::{
    Buffer, Component, Device, DeviceExt, HostComponent, Mark, Pinned, Queue, SliceMut, Transfers,
};

use super::page_layout::{LANES, Page, PageLayout, Part, saved};
use super::state_layout::Layout;
use crate::error::device_error;

/// Where the moments are, and what they come through.
pub(super) struct Pager {
    layout: PageLayout,
    memory: Pinned,
    lanes: Vec<Buffer<u8>>,
}

impl Pager {
    /// Moments of zero.
    ///
    /// # Errors
    /// Out of memory, on either side.
    pub fn new(device: &dyn Device, transfers: &dyn Transfers, layout: &Layout) -> StageResult<Self> {
        let layout = PageLayout::new(layout);
        let lane = || device.buffer::<u8>(Component::Optimizer, layout.lane_bytes()).map_err(device_error);
        let lanes = (0..layout.lanes()).map(|_| lane()).collect::<StageResult<_>>()?;
        let mut memory = transfers.pin(HostComponent::Moments, layout.host_bytes()).map_err(device_error)?;
        memory.bytes(transfers).fill(0);
        Ok(Self { layout, memory: memory.replayed(), lanes })
    }

    /// Brings every part to the device, has it updated there, and takes it back.
    pub fn apply(&mut self, device: &dyn Device, update: &mut dyn FnMut(&Part, SliceMut<'_, u8>)) {
        let Self { layout, memory, lanes } = self;
        let Some(transfers) = device.transfers() else { return };
        let bring = |page: &Page, memory: &mut Pinned, lane: &mut Buffer<u8>| {
            transfers.upload(memory, page.range(), lane.slice_mut(..page.bytes))
        };
        transfers.wait(Queue::Copies, &transfers.mark(Queue::Operations));
        let mut arrived: [Option<Mark>; LANES] = Default::default();
        for ((page, lane), arrived) in layout.pages.iter().zip(&mut *lanes).zip(&mut arrived) {
            *arrived = Some(bring(page, memory, lane));
        }
        let mut last = None;
        for (number, page) in layout.pages.iter().enumerate() {
            let (lane, arrived) = (&mut lanes[number % LANES], &mut arrived[number % LANES]);
            if let Some(mark) = arrived.take() {
                transfers.wait(Queue::Operations, &mark);
            }
            for part in &page.parts {
                update(part, lane.slice_mut(..page.bytes));
            }
            transfers.wait(Queue::Copies, &transfers.mark(Queue::Operations));
            last = Some(transfers.download(lane.slice(..page.bytes), memory, page.range()));
            *arrived = layout.pages.get(number + LANES).map(|page| bring(page, memory, lane));
        }
        if let Some(mark) = last {
            transfers.wait(Queue::Operations, &mark);
        }
    }

    /// Writes all moments to where a checkpoint has them.
    pub fn save(&self, device: &dyn Device, groups: &Layout, bytes: &mut [u8]) {
        let Some(transfers) = device.transfers() else { return };
        let memory = self.memory.read(transfers);
        for page in &self.layout.pages {
            for Part { group, elements, fields } in &page.parts {
                for (saved, field) in saved(groups, &groups.groups[*group], elements).into_iter().zip(fields) {
                    bytes[saved].copy_from_slice(&memory[page.range()][field.clone()]);
                }
            }
        }
    }

    /// Takes moments from where a checkpoint has them.
    pub fn restore(&mut self, device: &dyn Device, groups: &Layout, bytes: &[u8]) {
        let Some(transfers) = device.transfers() else { return };
        let memory = self.memory.bytes(transfers);
        for page in &self.layout.pages {
            for Part { group, elements, fields } in &page.parts {
                for (saved, field) in saved(groups, &groups.groups[*group], elements).into_iter().zip(fields) {
                    memory[page.range()][field.clone()].copy_from_slice(&bytes[saved]);
                }
            }
        }
    }
}
