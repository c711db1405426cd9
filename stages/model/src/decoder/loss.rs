//! The last norm, the head and the loss: only for rows that are trained, in parts, so the logits of a batch never exist.

use luthier_kernels::device::{Device, DeviceExt, Slice, SliceMut};

use super::block::Carver;
use super::indices::Uploaded;
use super::sizes::wider;
use super::workspace::Workspace;
use super::{Batch, Decoder};

impl Workspace {
    /// The sum of the negative log likelihoods of the uploaded rows, in nats, into `sum` (added if `accumulate`), and the
    /// gradient of that sum, times the uploaded scale, with respect to the final hidden states, into the gradient buffer.
    pub(crate) fn loss(&mut self, decoder: &Decoder, uploaded: Uploaded, accumulate: bool, sum: SliceMut<'_, f64>) {
        let device = decoder.device.as_ref();
        device.zero(self.gradient.slice_mut(..decoder.config.hidden_size * uploaded.tokens));
        self.parts(decoder, uploaded, true);
        device.sum(self.losses.slice(..uploaded.rows), accumulate, sum);
    }

    /// The negative log likelihood of each of the batch's targets, in nats, in order.
    pub(crate) fn losses(&mut self, decoder: &Decoder, batch: &Batch, mut uploaded: Uploaded) -> Vec<f32> {
        let device = decoder.device.as_ref();
        let most = self.sizes.capacity.trained.max(1);
        let mut all = vec![0f32; batch.rows.len()];
        let parts = batch.rows.chunks(most).zip(batch.targets.chunks(most)).zip(all.chunks_mut(most));
        for ((rows, targets), out) in parts {
            self.indices.upload_rows(device, &mut uploaded, rows, targets);
            self.parts(decoder, uploaded, false);
            device.read(self.losses.slice(..rows.len()), out);
        }
        all
    }

    /// The losses of the uploaded rows, and with `gradient` theirs, in parts of as many rows as fit.
    fn parts(&mut self, decoder: &Decoder, uploaded: Uploaded, gradient: bool) {
        let device = decoder.device.as_ref();
        let hidden = decoder.config.hidden_size;
        let floats = hidden * uploaded.tokens;
        let views = self.indices.views(uploaded);
        let part = self.sizes.part.max(1);
        for start in (0..uploaded.rows).step_by(part) {
            let end = (start + part).min(uploaded.rows);
            let count = end - start;
            let (rows, targets) = (views.rows.slice(start..end), views.targets.slice(start..end));
            let losses = self.losses.slice_mut(start..end);
            let mut carver = Carver::new(self.arena.all_mut(), self.sizes.activations);
            let mut inverse = carver.take_f32(1, count);
            let mut raw = carver.take_f32(hidden, count);
            let mut normed = carver.take(hidden, count);
            let final_hidden: Slice<'_, f32> =
                self.residuals[self.sizes.landing(self.sizes.residuals - 1)].slice(..floats);
            device.gather_rows(final_hidden.into(), rows, hidden, raw.borrow().into());
            let norm = decoder.final_norm.all();
            device.rms_norm(raw.freeze().into(), norm, decoder.eps(), normed.borrow(), inverse.borrow());
            let head = decoder.head(self.sizes.chunk_rows);
            let logits = self.sizes.chunk_rows * head.vocabulary;
            if !gradient {
                let scratch = carver.take_exact(logits);
                device.cross_entropy(normed.freeze(), targets, head, views.scale, None, scratch, losses);
                continue;
            }
            let mut dnormed = carver.take_f32(hidden, count);
            let mut dhidden = carver.take_f32(wider(self.sizes.activations, hidden), count);
            let scratch = carver.take_exact(logits);
            let (input, output) = (normed.freeze(), Some(dnormed.borrow()));
            device.cross_entropy(input, targets, head, views.scale, output, scratch, losses);
            let mut dhidden = if dhidden.is_empty() { normed.borrow().f32() } else { dhidden.borrow() };
            let (inverse, dy) = (inverse.freeze(), dnormed.freeze().into());
            device.rms_norm_backward(raw.freeze().into(), norm, inverse, dy, false, dhidden.borrow().into());
            device.scatter_rows(dhidden.freeze(), rows, hidden, self.gradient.slice_mut(..floats));
        }
    }

    /// Logits `[rows, vocabulary]` of the given rows of the final hidden states, handed over part by part.
    pub(crate) fn logits(
        &mut self,
        decoder: &Decoder,
        mut uploaded: Uploaded,
        rows: &[u32],
        each: &mut dyn FnMut(&dyn Device, Slice<'_, f32>),
    ) {
        let device = decoder.device.as_ref();
        let (hidden, vocabulary) = (decoder.config.hidden_size, decoder.config.vocab_size);
        let part = self.sizes.part.max(1);
        for rows in rows.chunks(part) {
            self.indices.upload_rows(device, &mut uploaded, rows, &[]);
            let count = rows.len();
            let mut carver = Carver::new(self.arena.all_mut(), self.sizes.activations);
            let mut inverse = carver.take_f32(1, count);
            let mut raw = carver.take_f32(hidden, count);
            let mut normed = carver.take(hidden, count);
            let mut logits = carver.take_exact(count * vocabulary);
            let final_hidden =
                self.residuals[self.sizes.landing(self.sizes.residuals - 1)].slice(..hidden * uploaded.tokens);
            device.gather_rows(final_hidden.into(), self.indices.views(uploaded).rows, hidden, raw.borrow().into());
            let norm = decoder.final_norm.all();
            device.rms_norm(raw.freeze().into(), norm, decoder.eps(), normed.borrow(), inverse.borrow());
            let head = decoder.head(part);
            device.matmul_nt(
                normed.freeze(),
                head.weight,
                [count, vocabulary, hidden],
                1.0,
                false,
                logits.borrow().into(),
            );
            each(device, logits.freeze());
        }
    }
}
