//! The last norm, the head and the loss: only for rows that are trained, in parts, so the logits of a batch never exist.

use luthier_kernels::device::{Device, DeviceExt, Slice};

use super::block::Carver;
use super::workspace::Workspace;
use super::{Batch, Decoder};

impl Workspace {
    /// Negative log likelihood of each of the batch's targets, in nats, in order; with `scale`, also the gradient of
    /// `scale · Σ` with respect to the final hidden states, into the gradient buffer.
    pub(crate) fn loss(&mut self, decoder: &Decoder, batch: &Batch, scale: Option<f32>) -> Vec<f32> {
        let device = decoder.device.as_ref();
        let hidden = decoder.config.hidden_size;
        let floats = hidden * batch.tokens();
        if scale.is_some() {
            device.zero(self.gradient.slice_mut(..floats));
        }
        let part = self.sizes.capacity.trained.max(1);
        let mut all = Vec::with_capacity(batch.rows.len());
        for start in (0..batch.rows.len()).step_by(part) {
            let end = (start + part).min(batch.rows.len());
            let count = end - start;
            device.write(&batch.rows[start..end], self.indices.rows.slice_mut(..count));
            device.write(&batch.targets[start..end], self.indices.targets.slice_mut(..count));
            let rows = self.indices.rows.slice(..count);
            let targets = self.indices.targets.slice(..count);
            let mut carver = Carver::new(self.arena.all_mut());
            let mut inverse = carver.take(1, count);
            let mut losses = carver.take(1, count);
            let mut raw = carver.take(hidden, count);
            let mut normed = carver.take(hidden, count);
            let final_hidden: Slice<'_, f32> =
                self.residuals[self.sizes.landing(self.sizes.residuals - 1)].slice(..floats);
            device.gather_rows(final_hidden, rows, hidden, raw.borrow());
            let norm = decoder.final_norm.all();
            device.rms_norm(raw.freeze(), norm, decoder.eps(), normed.borrow(), inverse.borrow());
            let head = decoder.head(self.sizes.chunk_rows);
            let logits = self.sizes.chunk_rows * head.vocabulary;
            match scale {
                None => {
                    let scratch = carver.take_exact(logits);
                    device.cross_entropy(normed.freeze(), targets, head, 1.0, None, scratch, losses.borrow());
                }
                Some(scale) => {
                    let mut dnormed = carver.take(hidden, count);
                    let scratch = carver.take_exact(logits);
                    let (input, output) = (normed.freeze(), Some(dnormed.borrow()));
                    device.cross_entropy(input, targets, head, scale, output, scratch, losses.borrow());
                    let (inverse, dy) = (inverse.freeze(), dnormed.freeze());
                    device.rms_norm_backward(raw.freeze(), norm, inverse, dy, false, normed.borrow());
                    device.scatter_rows(normed.freeze(), rows, hidden, self.gradient.slice_mut(..floats));
                }
            }
            device.read(losses.freeze(), &mut self.losses[..count]);
            all.extend_from_slice(&self.losses[..count]);
        }
        all
    }

    /// Logits `[rows, vocabulary]` of the given rows of the final hidden states, handed over part by part.
    pub(crate) fn logits(
        &mut self,
        decoder: &Decoder,
        tokens: usize,
        rows: &[u32],
        each: &mut dyn FnMut(&dyn Device, Slice<'_, f32>),
    ) {
        let device = decoder.device.as_ref();
        let (hidden, vocabulary) = (decoder.config.hidden_size, decoder.config.vocab_size);
        let part = self.sizes.chunk_rows.min(self.sizes.capacity.trained).max(1);
        for rows in rows.chunks(part) {
            device.write(rows, self.indices.rows.slice_mut(..rows.len()));
            let count = rows.len();
            let mut carver = Carver::new(self.arena.all_mut());
            let mut inverse = carver.take(1, count);
            let mut raw = carver.take(hidden, count);
            let mut normed = carver.take(hidden, count);
            let mut logits = carver.take_exact(count * vocabulary);
            let final_hidden = self.residuals[self.sizes.landing(self.sizes.residuals - 1)].slice(..hidden * tokens);
            device.gather_rows(final_hidden, self.indices.rows.slice(..count), hidden, raw.borrow());
            let norm = decoder.final_norm.all();
            device.rms_norm(raw.freeze(), norm, decoder.eps(), normed.borrow(), inverse.borrow());
            let head = decoder.head(part);
            device.matmul_nt(normed.freeze(), head.weight, [count, vocabulary, hidden], 1.0, false, logits.borrow());
            each(device, logits.freeze());
        }
    }
}
