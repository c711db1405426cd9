//! AdamW over the flat parameters, with its moments in `f32` or in 8 bits, in memory or in a mapped file.
//!
//! The learning rate of `B` and of the magnitudes is that of `A` times the ratio of LoRA+, as in PEFT's optimiser groups.

use std::ops::Range;

use camino::Utf8Path;
use luthier_core::{StageError, StageResult};
use luthier_kernels::device::{Buffer, Component, Device, DeviceExt, Moments8};
use luthier_kernels::optimizer_8bit::STATE_BLOCK;

use super::pages;
use super::results::StepFactors;
use super::spec::StateFormat;
use crate::adapter::{AdapterSet, Slot};
use crate::error::device_error;

/// Tensors of fewer elements keep `f32` moments, as in bitsandbytes.
const SMALLEST_8BIT: usize = 4096;

/// One tensor, or several that are treated alike.
#[derive(Debug, Clone, PartialEq)]
struct Group {
    params: Range<usize>,
    /// Whether LoRA+'s ratio applies.
    second: bool,
    state: Place,
}

/// Where a group's moments are.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    /// In the `f32` moments.
    Full(Range<usize>),
    Blocks {
        codes: Range<usize>,
        scales: Range<usize>,
    },
}

/// The groups and how long each state buffer is.
#[derive(Debug, Clone, PartialEq, Default)]
struct Layout {
    groups: Vec<Group>,
    full: usize,
    codes: usize,
    scales: usize,
}

impl Layout {
    fn new(slots: &[Slot], format: StateFormat) -> Self {
        let mut layout = Self::default();
        match format {
            StateFormat::F32 => {
                let all = crate::adapter::parameters(slots);
                let first_b = slots.iter().map(|slot| slot.b).min().unwrap_or(0);
                for (params, second) in [(0..first_b, false), (first_b..all, true)] {
                    layout.push_full(params, second);
                }
            }
            StateFormat::Blocks8 => {
                for slot in slots {
                    let magnitudes = slot.magnitude.map(|start| start..start + slot.outputs);
                    for (params, second) in [(slot.a_range(), false), (slot.b_range(), true)]
                        .into_iter()
                        .chain(magnitudes.map(|one| (one, true)))
                    {
                        if params.len() < SMALLEST_8BIT {
                            layout.push_full(params, second);
                        } else {
                            layout.push_blocks(params, second);
                        }
                    }
                }
            }
        }
        layout
    }

    fn push_full(&mut self, params: Range<usize>, second: bool) {
        if !params.is_empty() {
            let state = Place::Full(self.full..self.full + params.len());
            self.full += params.len();
            self.groups.push(Group { params, second, state });
        }
    }

    fn push_blocks(&mut self, params: Range<usize>, second: bool) {
        let (count, blocks) = (params.len(), params.len().div_ceil(STATE_BLOCK));
        let state = Place::Blocks { codes: self.codes..self.codes + count, scales: self.scales..self.scales + blocks };
        self.codes += count;
        self.scales += blocks;
        self.groups.push(Group { params, second, state });
    }

    fn bytes(&self) -> usize {
        2 * (4 * self.full + self.codes + 4 * self.scales)
    }
}

/// Bytes of the states, by where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptimizerBytes {
    pub resident: usize,
    pub paged: usize,
}

impl OptimizerBytes {
    #[must_use]
    pub fn new(slots: &[Slot], format: StateFormat, paged: bool) -> Self {
        let bytes = Layout::new(slots, format).bytes();
        if paged { Self { resident: 0, paged: bytes } } else { Self { resident: bytes, paged: 0 } }
    }
}

/// The moments of all parameters.
pub(super) struct Optimizer {
    layout: Layout,
    full: [Buffer<f32>; 2],
    codes: [Buffer<u8>; 2],
    scales: [Buffer<f32>; 2],
}

impl Optimizer {
    /// Moments of zero; in a file of `pages` if it names a directory.
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
        Ok(Self {
            full: pair(device, layout.full, pages)?,
            codes: pair(device, layout.codes, pages)?,
            scales: pair(device, layout.scales, pages)?,
            layout,
        })
    }

    /// One step.
    pub fn apply(
        &mut self,
        device: &dyn Device,
        gradients: &Buffer<f32>,
        factors: &StepFactors,
        adapters: &mut AdapterSet,
    ) {
        let Self { layout, full: [m, v], codes: [codes1, codes2], scales: [scales1, scales2] } = self;
        for group in &layout.groups {
            let grads = gradients.slice(group.params.clone());
            let params = adapters.params_mut().slice_mut(group.params.clone());
            let factors = factors.get(group.second);
            match &group.state {
                Place::Full(range) => {
                    device.adamw(grads, factors, params, m.slice_mut(range.clone()), v.slice_mut(range.clone()));
                }
                Place::Blocks { codes, scales } => {
                    let moments = Moments8 {
                        codes: [codes1.slice_mut(codes.clone()), codes2.slice_mut(codes.clone())],
                        scales: [scales1.slice_mut(scales.clone()), scales2.slice_mut(scales.clone())],
                    };
                    device.adamw_8bit(grads, factors, params, moments);
                }
            }
        }
    }

    /// All states, for a checkpoint.
    pub fn save(&self, device: &dyn Device) -> Vec<u8> {
        let mut bytes = vec![0u8; self.layout.bytes()];
        let mut rest = bytes.as_mut_slice();
        let full = self.full.iter().map(|buffer| buffer.all().as_bytes());
        let codes = self.codes.iter().map(|buffer| buffer.all().as_bytes());
        let scales = self.scales.iter().map(|buffer| buffer.all().as_bytes());
        for part in full.chain(codes).chain(scales) {
            let (target, others) = rest.split_at_mut(part.len());
            device.read_bytes(part, target);
            rest = others;
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
        let mut rest = bytes;
        let full = self.full.iter_mut().map(|buffer| buffer.all_mut().into_bytes());
        let codes = self.codes.iter_mut().map(|buffer| buffer.all_mut().into_bytes());
        let scales = self.scales.iter_mut().map(|buffer| buffer.all_mut().into_bytes());
        for part in full.chain(codes).chain(scales) {
            let (source, others) = rest.split_at(part.len());
            device.write_bytes(source, part);
            rest = others;
        }
        Ok(())
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
        let layout = Layout::new(std::slice::from_ref(&slot), StateFormat::Blocks8);
        assert_eq!((layout.full, layout.codes, layout.scales), (512 + 1000, 8000, 32));
        assert_eq!(layout.groups.iter().map(|group| group.second).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(
            OptimizerBytes::new(std::slice::from_ref(&slot), StateFormat::F32, true),
            OptimizerBytes { resident: 0, paged: 8 * 9512 }
        );
        let resident = 2 * (4 * 1512 + 8000 + 4 * 32);
        assert_eq!(OptimizerBytes::new(&[slot], StateFormat::Blocks8, false), OptimizerBytes { resident, paged: 0 });
    }
}
