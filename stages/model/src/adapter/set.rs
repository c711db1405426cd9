//! Adapter parameters in one flat device buffer.

use std::ops::Range;
use std::sync::Arc;

use luthier_core::StageResult;
use luthier_formats::model_files::ModelConfig;
use luthier_kernels::device::{Buffer, Component, Device, DeviceExt, Slice};
use luthier_kernels::random::Stream;

use super::magnitudes::Magnitudes;
use super::spec::{Initialization, LoraSpec};
use crate::decoder::Decoder;
use crate::error::device_error;
use crate::projection::Projection;

/// The adapter of one projection: `y += scale · (x · Aᵀ) · Bᵀ`, `A [rank, inputs]`, `B [outputs, rank]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    pub layer: usize,
    pub projection: Projection,
    pub rank: usize,
    pub outputs: usize,
    pub inputs: usize,
    pub scale: f32,
    /// Offset of `A` in the flat parameters.
    pub a: usize,
    /// Offset of `B`.
    pub b: usize,
    /// Offset of the magnitudes `[outputs]`, with DoRA.
    pub magnitude: Option<usize>,
}

impl Slot {
    #[must_use]
    pub fn a_range(&self) -> Range<usize> {
        self.a..self.a + self.rank * self.inputs
    }

    #[must_use]
    pub fn b_range(&self) -> Range<usize> {
        self.b..self.b + self.outputs * self.rank
    }

    /// `(name, shape, range)` of each tensor, by PEFT's names.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, Range<usize>)> {
        let module = format!("base_model.model.{}", self.projection.module(self.layer));
        let mut tensors = vec![
            (format!("{module}.lora_A.weight"), vec![self.rank, self.inputs], self.a_range()),
            (format!("{module}.lora_B.weight"), vec![self.outputs, self.rank], self.b_range()),
        ];
        if let Some(start) = self.magnitude {
            tensors.push((format!("{module}.lora_magnitude_vector"), vec![self.outputs], start..start + self.outputs));
        }
        tensors
    }
}

/// All adapters of a model.
pub struct AdapterSet {
    slots: Vec<Slot>,
    /// With DoRA, once the set knows its base.
    magnitudes: Option<Magnitudes>,
    /// `by_module[layer][projection]` is an index into `slots`.
    by_module: Vec<[Option<usize>; Projection::ALL.len()]>,
    params: Buffer<f32>,
}

impl AdapterSet {
    /// Parameters before the first step, each tensor drawn from a stream of its own name.
    ///
    /// # Errors
    /// Targets that match nothing; out of memory.
    pub fn initialize(device: &Arc<dyn Device>, config: &ModelConfig, spec: &LoraSpec, seed: u64) -> StageResult<Self> {
        let slots = spec.slots(config)?;
        let mut values = vec![0f32; parameters(&slots)];
        for slot in &slots {
            let [(name, _, range), ..] = &slot.tensors()[..] else { continue };
            let stream = Stream::new(seed, name);
            let out = &mut values[range.clone()];
            match spec.initialization {
                Initialization::Kaiming => {
                    let bound = (1.0 / (slot.inputs as f64).sqrt()) as f32;
                    stream.fill_uniform(0, -bound, bound, out);
                }
                Initialization::Gaussian => stream.fill_normal(0, 0.0, 1.0 / slot.rank as f32, out),
            }
        }
        Self::from_values(device, config.layers, slots, &values)
    }

    /// From host values laid out as the slots say.
    ///
    /// # Errors
    /// Out of memory.
    pub fn from_values(device: &Arc<dyn Device>, layers: usize, slots: Vec<Slot>, values: &[f32]) -> StageResult<Self> {
        let device = device.as_ref();
        let mut params = device.buffer::<f32>(Component::Adapters, parameters(&slots)).map_err(device_error)?;
        device.write(values, params.all_mut());
        let mut by_module = vec![[None; Projection::ALL.len()]; layers];
        for (index, slot) in slots.iter().enumerate() {
            by_module[slot.layer][slot.projection as usize] = Some(index);
        }
        Ok(Self { slots, magnitudes: None, by_module, params })
    }

    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    #[must_use]
    pub fn slot(&self, layer: usize, projection: Projection) -> Option<&Slot> {
        self.index(layer, projection).map(|index| &self.slots[index])
    }

    /// Position of a module's slot in [`AdapterSet::slots`].
    #[must_use]
    pub fn index(&self, layer: usize, projection: Projection) -> Option<usize> {
        self.by_module[layer][projection as usize]
    }

    /// Whether any adapter has magnitudes.
    #[must_use]
    pub fn has_magnitudes(&self) -> bool {
        self.slots.iter().any(|slot| slot.magnitude.is_some())
    }

    /// Gets ready to run on a base: with DoRA, measures its rows. Does nothing the second time.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn attach(&mut self, decoder: &Decoder) -> StageResult<()> {
        if self.has_magnitudes() && self.magnitudes.is_none() {
            self.magnitudes = Some(Magnitudes::measure(decoder, &self.slots)?);
            self.refresh(decoder);
        }
        Ok(())
    }

    /// Sets the magnitudes to the norms that the rows have now.
    pub(crate) fn reset_magnitudes(&mut self, decoder: &Decoder) {
        if let Some(magnitudes) = &mut self.magnitudes {
            magnitudes.norms_into(decoder, &self.slots, &mut self.params);
        }
        self.refresh(decoder);
    }

    /// Brings what follows from the parameters up to date with them.
    pub(crate) fn refresh(&mut self, decoder: &Decoder) {
        if let Some(magnitudes) = &mut self.magnitudes {
            magnitudes.refresh(decoder, &self.slots, &self.params);
        }
    }

    /// Gains and inverse norms of the rows of an adapter with magnitudes.
    pub(crate) fn gains(&self, slot: &Slot) -> Option<(Slice<'_, f32>, Slice<'_, f32>)> {
        Some(self.magnitudes.as_ref()?.gains(slot, slot.magnitude?))
    }

    #[must_use]
    pub fn params(&self) -> &Buffer<f32> {
        &self.params
    }

    #[must_use]
    pub fn params_mut(&mut self) -> &mut Buffer<f32> {
        &mut self.params
    }

    /// Number of trainable parameters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.params.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// A copy on the host.
    #[must_use]
    pub fn values(&self, device: &dyn Device) -> Vec<f32> {
        let mut values = vec![0f32; self.params.len()];
        device.read(self.params.all(), &mut values);
        values
    }
}

/// Trainable parameters of `slots`.
#[must_use]
pub fn parameters(slots: &[Slot]) -> usize {
    slots
        .iter()
        .map(|slot| slot.rank * (slot.inputs + slot.outputs) + if slot.magnitude.is_some() { slot.outputs } else { 0 })
        .sum()
}
