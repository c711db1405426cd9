//! What DoRA needs beside its parameters: the norms of the changed rows.
//!
//! `|W + s·B·A|²` of a row is `|W|² + 2s·B·(A·Wᵀ) + s²·B·(A·Aᵀ)·Bᵀ`: the squares of the rows of `W` are measured once,
//! the rest costs one product of `rank` rows per step, and no matrix of the weight's shape is formed.

use luthier_core::StageResult;
use luthier_kernels::device::{Buffer, Component, DeviceExt, DoraRows, Slice};

use super::set::Slot;
use crate::decoder::Decoder;
use crate::error::device_error;

/// Norms of the rows of all adapted weights, laid out as the magnitudes are.
pub(crate) struct Magnitudes {
    /// Where the magnitudes start in the parameters.
    start: usize,
    squares: Buffer<f32>,
    gains: Buffer<f32>,
    inverse: Buffer<f32>,
    cross: Buffer<f32>,
    gram: Buffer<f32>,
}

/// Floats that [`Magnitudes`] keeps, and floats of its scratch.
pub(crate) fn floats(slots: &[Slot]) -> (usize, usize) {
    let adapted = || slots.iter().filter(|slot| slot.magnitude.is_some());
    let rows: usize = adapted().map(|slot| slot.outputs).sum();
    let cross = adapted().map(|slot| slot.rank * slot.outputs).max().unwrap_or(0);
    let gram = adapted().map(|slot| slot.rank * slot.rank).max().unwrap_or(0);
    (3 * rows, cross + gram)
}

impl Magnitudes {
    /// Measures the rows of the base.
    ///
    /// # Errors
    /// Out of memory.
    pub fn measure(decoder: &Decoder, slots: &[Slot]) -> StageResult<Self> {
        let device = decoder.device.as_ref();
        let buffer = |component, len| device.buffer::<f32>(component, len).map_err(device_error);
        let adapted = || slots.iter().filter_map(|slot| Some((slot, slot.magnitude?)));
        let start = adapted().map(|(_, start)| start).min().unwrap_or(0);
        let rows = adapted().map(|(slot, _)| slot.outputs).sum();
        let widest = |size: fn(&Slot) -> usize| adapted().map(|(slot, _)| size(slot)).max().unwrap_or(0);
        let mut squares = buffer(Component::Adapters, rows)?;
        for (slot, magnitude) in adapted() {
            decoder.enter(slot.layer, slot.layer + 1);
            let matrix = &decoder.blocks[slot.layer].matrices[slot.projection as usize];
            let first = magnitude - start;
            let out = squares.slice_mut(first..first + slot.outputs);
            device.row_squares(matrix.operand(), [slot.outputs, slot.inputs], out);
            decoder.leave(slot.layer, slot.layer + 1);
        }
        Ok(Self {
            start,
            squares,
            gains: buffer(Component::Adapters, rows)?,
            inverse: buffer(Component::Adapters, rows)?,
            cross: buffer(Component::Scratch, widest(|slot| slot.rank * slot.outputs))?,
            gram: buffer(Component::Scratch, widest(|slot| slot.rank * slot.rank))?,
        })
    }

    /// Gains and inverse norms of the rows of one adapter.
    pub fn gains(&self, slot: &Slot, magnitude: usize) -> (Slice<'_, f32>, Slice<'_, f32>) {
        let first = magnitude - self.start;
        let range = first..first + slot.outputs;
        (self.gains.slice(range.clone()), self.inverse.slice(range))
    }

    /// Gains and inverse norms that follow from `params`.
    pub fn refresh(&mut self, decoder: &Decoder, slots: &[Slot], params: &Buffer<f32>) {
        self.update(decoder, slots, params, true);
    }

    /// Sets the magnitudes in `params` to the norms of the rows.
    pub fn norms_into(&mut self, decoder: &Decoder, slots: &[Slot], params: &mut Buffer<f32>) {
        self.update(decoder, slots, params, false);
        let range = self.start..self.start + self.gains.len();
        decoder.device.copy(self.gains.all().into(), params.slice_mut(range).into());
    }

    fn update(&mut self, decoder: &Decoder, slots: &[Slot], params: &Buffer<f32>, magnitudes: bool) {
        let device = decoder.device.as_ref();
        for slot in slots {
            let Some(start) = slot.magnitude else { continue };
            let (rank, outputs, inputs) = (slot.rank, slot.outputs, slot.inputs);
            decoder.enter(slot.layer, slot.layer + 1);
            let matrix = &decoder.blocks[slot.layer].matrices[slot.projection as usize];
            let a = params.slice(slot.a_range());
            let cross = self.cross.slice_mut(..rank * outputs);
            device.matmul_nt(a.into(), matrix.operand(), [rank, outputs, inputs], 1.0, false, cross.into());
            decoder.leave(slot.layer, slot.layer + 1);
            let gram = self.gram.slice_mut(..rank * rank);
            device.matmul_nt(a.into(), a.into(), [rank, rank, inputs], 1.0, false, gram.into());
            let first = start - self.start;
            let range = first..first + outputs;
            let rows = DoraRows {
                squares: self.squares.slice(range.clone()),
                cross: self.cross.slice(..rank * outputs),
                gram: self.gram.slice(..rank * rank),
                b: params.slice(slot.b_range()),
                scale: slot.scale,
            };
            let magnitude = magnitudes.then(|| params.slice(start..start + outputs));
            let (gains, inverse) = (self.gains.slice_mut(range.clone()), self.inverse.slice_mut(range));
            device.dora_gains(rows, magnitude, gains, inverse);
        }
    }
}
