//! What a step leaves on the device to be looked at, and the numbers of its optimiser.

use luthier_core::StageResult;
use luthier_kernels::device::{AdamW, Buffer, Component, Device, DeviceExt, Factors, Slice, SliceMut};

use crate::error::device_error;

/// Bytes of [`Results`] and [`StepFactors`].
pub(crate) const STEP_BYTES: usize = 2 * size_of::<f64>() + 2 * Factors::COUNT * size_of::<f32>();

/// The sum of a step's losses and the norm of its gradients, which are read together.
pub(super) struct Results {
    values: Buffer<f64>,
}

impl Results {
    /// # Errors
    /// Out of memory.
    pub fn new(device: &dyn Device) -> StageResult<Self> {
        Ok(Self { values: device.buffer(Component::Scratch, 2).map_err(device_error)? })
    }

    pub fn loss(&mut self) -> SliceMut<'_, f64> {
        self.values.slice_mut(..1)
    }

    pub fn norm_mut(&mut self) -> SliceMut<'_, f64> {
        self.values.slice_mut(1..)
    }

    pub fn norm(&self) -> Slice<'_, f64> {
        self.values.slice(1..)
    }

    /// Loss and norm, once they are there.
    pub fn read(&self, device: &dyn Device) -> [f64; 2] {
        let mut values = [0.0; 2];
        device.read(self.values.all(), &mut values);
        values
    }
}

/// What AdamW multiplies by in a step: for `A`, and for `B` and the magnitudes.
pub(super) struct StepFactors {
    values: Buffer<f32>,
}

impl StepFactors {
    /// # Errors
    /// Out of memory.
    pub fn new(device: &dyn Device) -> StageResult<Self> {
        Ok(Self { values: device.buffer(Component::Scratch, 2 * Factors::COUNT).map_err(device_error)? })
    }

    pub fn write(&mut self, device: &dyn Device, steps: [AdamW; 2]) {
        let [first, second] = steps.map(|step| step.factors().to_array());
        let mut values = [0.0; 2 * Factors::COUNT];
        values[..Factors::COUNT].copy_from_slice(&first);
        values[Factors::COUNT..].copy_from_slice(&second);
        device.write(&values, self.values.all_mut());
    }

    /// Those of `A`, or of `B` and the magnitudes.
    pub fn get(&self, second: bool) -> Slice<'_, f32> {
        let start = usize::from(second) * Factors::COUNT;
        self.values.slice(start..start + Factors::COUNT)
    }
}
