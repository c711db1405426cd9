//! AdamW over the flat parameters, with its moments in `f32` or in 8 bits, in the device's memory or paged: from a mapped
//! file where the device computes in host memory, else from page-locked host memory.
//!
//! The learning rate of `B` and of the magnitudes is that of `A` times the ratio of LoRA+, as in PEFT's optimiser groups.

use std::ops::Range;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use luthier_kernels::device::{Buffer, Component, Device, DeviceExt, Moments8, SliceMut};

use super::page_layout::{Fields, PageLayout};
use super::pager::Pager;
use super::pages;
use super::results::StepFactors;
use super::spec::StateFormat;
use super::state_layout::{Group, Layout, Place};
use crate::adapter::{AdapterSet, Slot};
use crate::error::device_error;

/// Where moments are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paging {
    /// In the device's memory.
    None,
    /// In a mapped file, where the device computes in host memory.
    File,
    /// In page-locked host memory, with two lanes in the device's.
    Host,
}

impl Paging {
    /// `apart` says whether the device has memory of its own.
    pub fn new(paged: bool, apart: bool) -> Self {
        match (paged, apart) {
            (false, _) => Self::None,
            (true, false) => Self::File,
            (true, true) => Self::Host,
        }
    }
}

/// Bytes of the states, by where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct OptimizerBytes {
    pub device: usize,
    pub file: usize,
    pub host: usize,
}

impl OptimizerBytes {
    pub fn new(slots: &[Slot], format: StateFormat, paging: Paging) -> Self {
        let layout = Layout::new(slots, format);
        match paging {
            Paging::None => Self { device: layout.bytes(), ..Self::default() },
            Paging::File => Self { file: layout.bytes(), ..Self::default() },
            Paging::Host => {
                let pages = PageLayout::new(&layout);
                Self { device: pages.lanes() * pages.lane_bytes(), host: pages.host_bytes(), file: 0 }
            }
        }
    }
}

/// Moments that operations reach in place.
struct InPlace {
    full: [Buffer<f32>; 2],
    codes: [Buffer<u8>; 2],
    scales: [Buffer<f32>; 2],
}

enum Kept {
    InPlace(Box<InPlace>),
    Paged(Pager),
}

/// The moments of all parameters.
pub(super) struct Optimizer {
    layout: Layout,
    kept: Kept,
}

/// The moments of a group, or of a part of one.
enum Moments<'a> {
    Full([SliceMut<'a, f32>; 2]),
    Blocks(Moments8<'a>),
}

/// What a step updates with and what it updates.
struct Step<'a> {
    device: &'a dyn Device,
    gradients: &'a Buffer<f32>,
    factors: &'a StepFactors,
    adapters: &'a mut AdapterSet,
}

impl Step<'_> {
    /// One step of `elements` of a group.
    fn update(&mut self, group: &Group, elements: Range<usize>, moments: Moments<'_>) {
        let range = group.params.start + elements.start..group.params.start + elements.end;
        let grads = self.gradients.slice(range.clone());
        let params = self.adapters.params_mut().slice_mut(range);
        let factors = self.factors.get(group.second);
        match moments {
            Moments::Full([m, v]) => self.device.adamw(grads, factors, params, m, v),
            Moments::Blocks(moments) => self.device.adamw_8bit(grads, factors, params, moments),
        }
    }
}

impl Optimizer {
    /// Moments of zero; paged if `pages` names a directory, which is for the file if there is one.
    ///
    /// # Errors
    /// Out of memory; a full disk.
    pub fn new(
        device: &dyn Device,
        slots: &[Slot],
        format: StateFormat,
        pages: Option<&Utf8Path>,
    ) -> StageResult<Self> {
        let layout = Layout::new(slots, format);
        let kept = match device.transfers() {
            Some(transfers) if pages.is_some() => Kept::Paged(Pager::new(device, transfers, &layout)?),
            _ => Kept::InPlace(Box::new(InPlace {
                full: pair(device, layout.full, pages)?,
                codes: pair(device, layout.codes, pages)?,
                scales: pair(device, layout.scales, pages)?,
            })),
        };
        Ok(Self { layout, kept })
    }

    /// One step.
    pub fn apply(
        &mut self,
        device: &dyn Device,
        gradients: &Buffer<f32>,
        factors: &StepFactors,
        adapters: &mut AdapterSet,
    ) {
        let Self { layout, kept } = self;
        let mut step = Step { device, gradients, factors, adapters };
        match kept {
            Kept::InPlace(states) => {
                for group in &layout.groups {
                    step.update(group, 0..group.params.len(), states.of(&group.state));
                }
            }
            Kept::Paged(pager) => pager.apply(device, &mut |part, lane| {
                let group = &layout.groups[part.group];
                step.update(group, part.elements.clone(), in_lane(&group.state, &part.fields, lane));
            }),
        }
    }

    /// All states, for a checkpoint: the same bytes wherever they are kept.
    pub fn save(&self, device: &dyn Device) -> Vec<u8> {
        let mut bytes = vec![0u8; self.layout.bytes()];
        match &self.kept {
            Kept::InPlace(states) => states.save(device, &mut bytes),
            Kept::Paged(pager) => pager.save(device, &self.layout, &mut bytes),
        }
        bytes
    }

    /// Takes states that [`Optimizer::save`] gave.
    ///
    /// # Errors
    /// `train::foreign_checkpoint` if there are more or fewer of them.
    pub fn restore(&mut self, device: &dyn Device, bytes: &[u8]) -> StageResult<()> {
        if bytes.len() != self.layout.bytes() {
            return Err(StageError::new(
                "train::foreign_checkpoint",
                format!(
                    "the checkpoint holds {} bytes of optimiser state, but this run has {}",
                    bytes.len(),
                    self.layout.bytes()
                ),
            )
            .hint("run with `--force train` to start over"));
        }
        match &mut self.kept {
            Kept::InPlace(states) => states.restore(device, bytes),
            Kept::Paged(pager) => pager.restore(device, &self.layout, bytes),
        }
        Ok(())
    }
}

impl InPlace {
    fn of(&mut self, place: &Place) -> Moments<'_> {
        let Self { full: [m, v], codes: [codes1, codes2], scales: [scales1, scales2] } = self;
        match place {
            Place::Full(range) => Moments::Full([m.slice_mut(range.clone()), v.slice_mut(range.clone())]),
            Place::Blocks { codes, scales } => Moments::Blocks(Moments8 {
                codes: [codes1.slice_mut(codes.clone()), codes2.slice_mut(codes.clone())],
                scales: [scales1.slice_mut(scales.clone()), scales2.slice_mut(scales.clone())],
            }),
        }
    }

    fn save(&self, device: &dyn Device, mut rest: &mut [u8]) {
        let full = self.full.iter().map(|buffer| buffer.all().as_bytes());
        let codes = self.codes.iter().map(|buffer| buffer.all().as_bytes());
        let scales = self.scales.iter().map(|buffer| buffer.all().as_bytes());
        for part in full.chain(codes).chain(scales) {
            let (target, others) = rest.split_at_mut(part.len());
            device.read_bytes(part, target);
            rest = others;
        }
    }

    fn restore(&mut self, device: &dyn Device, mut rest: &[u8]) {
        let full = self.full.iter_mut().map(|buffer| buffer.all_mut().into_bytes());
        let codes = self.codes.iter_mut().map(|buffer| buffer.all_mut().into_bytes());
        let scales = self.scales.iter_mut().map(|buffer| buffer.all_mut().into_bytes());
        for part in full.chain(codes).chain(scales) {
            let (source, others) = rest.split_at(part.len());
            device.write_bytes(source, part);
            rest = others;
        }
    }
}

/// The moments of a part, in the lane that its page is in.
fn in_lane<'a>(place: &Place, fields: &Fields, lane: SliceMut<'a, u8>) -> Moments<'a> {
    let [m, v, m_scales, v_scales] = fields;
    let (first, rest) = lane.split_at(v.start);
    let (second, rest) = rest.split_at(m_scales.start - v.start);
    let (third, fourth) = rest.split_at(v_scales.start - m_scales.start);
    let (first, second) = (first.slice(m.clone()), second.slice(..v.len()));
    match place {
        Place::Full(_) => Moments::Full([first.cast(), second.cast()]),
        Place::Blocks { .. } => {
            let scales = [third.slice(..m_scales.len()).cast(), fourth.slice(..v_scales.len()).cast()];
            Moments::Blocks(Moments8 { codes: [first, second], scales })
        }
    }
}

fn pair<T: bytemuck::Pod>(device: &dyn Device, len: usize, pages: Option<&Utf8Path>) -> StageResult<[Buffer<T>; 2]> {
    let one = || match pages {
        None => device.buffer::<T>(Component::Optimizer, len).map_err(device_error),
        Some(directory) => {
            let bytes = len * size_of::<T>();
            Ok(Buffer::new(pages::allocate(device, Component::Optimizer, bytes, directory)?, len))
        }
    };
    Ok([one()?, one()?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::Projection;

    #[test]
    fn large_tensors_take_a_byte_and_a_64th_per_moment() {
        let slot = Slot {
            layer: 0,
            projection: Projection::Query,
            rank: 8,
            outputs: 1000,
            inputs: 64,
            scale: 1.0,
            a: 0,
            b: 512,
            magnitude: Some(8512),
        };
        let slots = std::slice::from_ref(&slot);
        let layout = Layout::new(slots, StateFormat::Blocks8);
        assert_eq!((layout.full, layout.codes, layout.scales), (512 + 1000, 8000, 32));
        assert_eq!(layout.groups.iter().map(|group| group.second).collect::<Vec<_>>(), [false, true, true]);
        let bytes = |format, paging| OptimizerBytes::new(slots, format, paging);
        assert_eq!(
            bytes(StateFormat::F32, Paging::File),
            OptimizerBytes { file: 8 * 9512, ..OptimizerBytes::default() }
        );
        let device = 2 * (4 * 1512 + 8000 + 4 * 32);
        assert_eq!(bytes(StateFormat::Blocks8, Paging::None), OptimizerBytes { device, ..OptimizerBytes::default() });
    }

    #[test]
    fn paged_moments_have_two_of_sixteen_pages_on_the_device() {
        let slot = Slot {
            layer: 0,
            projection: Projection::Query,
            rank: 16,
            outputs: 1024,
            inputs: 1024,
            scale: 1.0,
            a: 0,
            b: 16_384,
            magnitude: None,
        };
        let bytes = OptimizerBytes::new(&[slot], StateFormat::F32, Paging::Host);
        assert_eq!(bytes, OptimizerBytes { device: 2 * 16_384, file: 0, host: 8 * 32_768 });
    }
}
