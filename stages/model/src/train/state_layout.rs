//! Which parameters AdamW updates together, and where their moments are among all moments.

use std::ops::Range;

use luthier_kernels::optimizer_8bit::STATE_BLOCK;

use super::spec::StateFormat;
use crate::adapter::Slot;

/// Tensors of fewer elements keep `f32` moments, as in bitsandbytes.
const SMALLEST_8BIT: usize = 4096;

/// One tensor, or several that are treated alike.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub params: Range<usize>,
    /// Whether LoRA+'s ratio applies.
    pub second: bool,
    pub state: Place,
}

/// Where a group's moments are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// In the `f32` moments.
    Full(Range<usize>),
    Blocks {
        codes: Range<usize>,
        scales: Range<usize>,
    },
}

/// The groups and how long each state buffer is.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Layout {
    pub groups: Vec<Group>,
    pub full: usize,
    pub codes: usize,
    pub scales: usize,
}

impl Layout {
    pub fn new(slots: &[Slot], format: StateFormat) -> Self {
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

    pub fn push_full(&mut self, params: Range<usize>, second: bool) {
        if !params.is_empty() {
            let state = Place::Full(self.full..self.full + params.len());
            self.full += params.len();
            self.groups.push(Group { params, second, state });
        }
    }

    pub fn push_blocks(&mut self, params: Range<usize>, second: bool) {
        let (count, blocks) = (params.len(), params.len().div_ceil(STATE_BLOCK));
        let state = Place::Blocks { codes: self.codes..self.codes + count, scales: self.scales..self.scales + blocks };
        self.codes += count;
        self.scales += blocks;
        self.groups.push(Group { params, second, state });
    }

    /// Of all moments.
    pub fn bytes(&self) -> usize {
        2 * (4 * self.full + self.codes + 4 * self.scales)
    }
}
