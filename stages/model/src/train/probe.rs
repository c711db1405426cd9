//! A look before the first step at whether each adapter tensor receives a gradient at all.
//!
//! `B` starts at zero, which makes the gradient of `A` zero on the first step, so a tensor that is cut off would go
//! unnoticed. The probe runs one short sample through random values instead and puts the real ones back.

use luthier_core::{StageError, StageResult, quoted};
use luthier_kernels::device::DeviceExt;
use luthier_kernels::random::Stream;

use super::trainer::{Trainer, inside};
use crate::decoder::{Gradients, StepNumbers};

/// A NaN that no arithmetic makes: what is left of it was never written.
const UNWRITTEN: u32 = 0x7fc0_5eed;
/// Shorter samples may give a tensor no gradient by chance.
const SHORTEST: usize = 4;
/// What the loss is multiplied by where activations are f16.
const PROBE_SCALE: f32 = 1024.0;

impl Trainer<'_> {
    /// Checks that every adapter tensor receives a gradient. The next step is computed as if it had not been called.
    ///
    /// # Errors
    /// `train::no_gradient`, naming the tensors; a device failure.
    pub fn check_gradients(&mut self) -> StageResult<()> {
        let Some(sample) = self.probe_sample() else { return Ok(()) };
        let values = self.values();
        let mut probe = values.clone();
        for slot in self.adapters.slots() {
            for (name, _, range) in slot.tensors().into_iter().take(2) {
                let deviation = 1.0 / (range.len() as f32 / slot.rank as f32).sqrt();
                Stream::new(0, &name).fill_normal(0, 0.0, deviation, &mut probe[range]);
            }
        }
        self.set_values(&probe);
        let gradients = self.probe_gradients(sample);
        self.set_values(&values);
        let gradients = gradients?;
        let mut cut: Vec<String> = Vec::new();
        for slot in self.adapters.slots() {
            for (name, _, range) in slot.tensors() {
                let part = &gradients[range];
                let unwritten = part.iter().any(|value| value.to_bits() == UNWRITTEN);
                if unwritten || part.iter().all(|value| *value == 0.0) {
                    cut.push(name);
                }
            }
        }
        if cut.is_empty() {
            return Ok(());
        }
        let more = if cut.len() > 4 { format!(" and {} more", cut.len() - 4) } else { String::new() };
        Err(StageError::input(
            "train::no_gradient",
            format!(
                "no gradient reaches [{}{more}]: the weights between them and the loss are zero, so they could never be \
                 trained",
                quoted(cut.iter().take(4))
            ),
        )
        .hint("leave these modules out with `targets`, or use the model's original weights"))
    }

    /// The shortest sample in which attention has something to choose from before a trained token; of those that fit into
    /// the buffers, which were made for the samples of this run's steps.
    fn probe_sample(&self) -> Option<u32> {
        let capacity = self.workspace.sizes().capacity;
        let samples = self.units.iter().flat_map(|bin| self.data.bins[*bin as usize].iter().copied());
        samples
            .filter(|sample| {
                let sample = &self.data.samples[*sample as usize];
                let last = sample.mask.iter().rposition(|trained| *trained).unwrap_or(0);
                let fits = sample.ids.len() <= capacity.tokens && sample.trained() <= capacity.trained;
                fits && last + 1 >= SHORTEST && sample.ids[..last].iter().any(|id| *id != sample.ids[0])
            })
            .min_by_key(|sample| self.data.samples[*sample as usize].ids.len())
    }

    fn probe_gradients(&mut self, sample: u32) -> StageResult<Vec<f32>> {
        let decoder = self.decoder;
        let device = decoder.device.as_ref();
        device.write(&vec![f32::from_bits(UNWRITTEN); self.gradients.len()], self.gradients.all_mut());
        inside(decoder, || {
            self.batch.clear();
            let sample = &self.data.samples[sample as usize];
            self.batch.push(&sample.ids, &sample.mask);
            // In f16 nothing may underflow; what overflows has arrived.
            let scale = if self.loss_scale.is_some() { PROBE_SCALE } else { StepNumbers::PLAIN.scale };
            let uploaded = self.workspace.upload(device, &self.batch, StepNumbers { scale, ..StepNumbers::PLAIN });
            self.workspace.forward(decoder, Some(&self.adapters), None, uploaded, &mut |_, _| {});
            self.workspace.loss(decoder, uploaded, false, self.results.loss());
            let gradients = Gradients { buffer: &mut self.gradients, accumulate: false };
            self.workspace.backward(decoder, &self.adapters, None, uploaded, gradients);
            Ok(())
        })?;
        Ok(self.gradients())
    }
}
