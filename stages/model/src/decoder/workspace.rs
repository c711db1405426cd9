//! The buffers of a pass, made once, and the passes over all blocks.

use luthier_core::StageResult;
use luthier_kernels::device::{Buffer, Component, Device, DeviceExt};

use super::backward::{Depth, Gradients};
use super::block::{Dropouts, Pass, Pieces};
use super::indices::{Indices, StepNumbers, Uploaded};
use super::offload::{self, Offload};
use super::sizes::Sizes;
use super::{Batch, Decoder};
use crate::adapter::AdapterSet;
use crate::error::device_error;

/// Attends in one block: the pass, the layer, and the pieces it reads and writes.
pub(crate) type Attend<'a> = dyn FnMut(&Pass<'_>, usize, &mut Pieces<'_>) + 'a;

/// Everything a forward or backward writes to.
pub struct Workspace {
    pub(crate) sizes: Sizes,
    pub(crate) indices: Indices,
    /// Inputs of the blocks from `lowest` on, then the final hidden states, by [`Sizes::landing`].
    pub(crate) residuals: Vec<Buffer<f32>>,
    offload: Option<Offload>,
    /// No backward follows, so inputs need not be kept.
    pub(crate) forward_only: bool,
    pub(crate) saved: Vec<Buffer<u8>>,
    pub(crate) gradient: Buffer<f32>,
    pub(crate) arena: Buffer<u8>,
    /// Of each row.
    pub(crate) losses: Buffer<f32>,
}

impl Workspace {
    /// Allocates by `sizes`.
    ///
    /// # Errors
    /// Out of memory; a device that computes in host memory, if inputs are to wait there.
    pub fn new(device: &dyn Device, sizes: Sizes) -> StageResult<Self> {
        if sizes.offload && device.transfers().is_none() {
            return Err(offload::nothing_to_move(device));
        }
        let floats = |component, bytes: usize| device.buffer::<f32>(component, bytes / 4).map_err(device_error);
        let bytes = |component, bytes| device.buffer::<u8>(component, bytes).map_err(device_error);
        let kept = if sizes.checkpointing { Component::Checkpoint } else { Component::Activations };
        Ok(Self {
            indices: Indices::new(device, sizes.capacity)?,
            residuals: (0..sizes.landings()).map(|_| floats(kept, sizes.residual)).collect::<StageResult<_>>()?,
            saved: sizes.saved.iter().map(|len| bytes(Component::Activations, *len)).collect::<StageResult<_>>()?,
            gradient: floats(Component::Workspace, sizes.gradient)?,
            arena: bytes(Component::Workspace, sizes.arena)?,
            losses: floats(Component::Scratch, 4 * sizes.capacity.trained)?,
            offload: match device.transfers() {
                Some(transfers) if sizes.offload => Some(Offload::new(transfers, &sizes)?),
                _ => None,
            },
            forward_only: false,
            sizes,
        })
    }

    #[must_use]
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Puts a micro-batch on the device, with the rows of its loss.
    pub(crate) fn upload(&mut self, device: &dyn Device, batch: &Batch, numbers: StepNumbers) -> Uploaded {
        self.indices.upload(device, batch, numbers, true)
    }

    /// Puts a micro-batch on the device, of any number of rows: [`Workspace::losses`] brings them part by part.
    pub(crate) fn upload_scored(&mut self, device: &dyn Device, batch: &Batch) -> Uploaded {
        self.indices.upload(device, batch, StepNumbers::PLAIN, false)
    }

    /// Embeds and runs all blocks. The final hidden states, before the last norm, are in the last residual.
    /// `after` sees each block's saved values (for key-value caches).
    pub(crate) fn forward(
        &mut self,
        decoder: &Decoder,
        adapters: Option<&AdapterSet>,
        dropouts: Option<&Dropouts<'_>>,
        uploaded: Uploaded,
        after: &mut dyn FnMut(usize, &Pieces<'_>),
    ) {
        let Self { sizes, indices, residuals, saved, arena, offload, forward_only, .. } = self;
        let device = decoder.device.as_ref();
        let pass = pass(decoder, adapters, dropouts, uploaded, indices);
        let floats = decoder.config.hidden_size * pass.tokens;
        let ids = indices.views(uploaded).ids;
        let embedding = decoder.embedding.operand();
        let first = residuals[0].slice_mut(..floats);
        decoder.device.embedding(embedding, ids, decoder.config.hidden_size, first);
        if let Some(noise) = pass.noise() {
            let hidden = decoder.config.hidden_size;
            decoder.device.add_noise(noise, pass.segments, hidden, residuals[0].slice_mut(..floats));
        }
        for layer in 0..decoder.config.layers {
            let last = layer + 1 == decoder.config.layers;
            // After the last block backward comes down again.
            let next = if last { layer.saturating_sub(1) } else { layer + 1 };
            decoder.enter(layer, next);
            let widths = pass.widths(layer);
            let kept = layer.saturating_sub(sizes.lowest);
            let set = if sizes.checkpointing { 0 } else { kept };
            let mut pieces = Pieces::new(&mut saved[set], &widths, sizes.activations, pass.tokens);
            let input = residuals[sizes.landing(kept)].slice(..floats);
            if let (Some(offload), false) = (offload.as_mut(), *forward_only || layer < sizes.lowest) {
                offload.store(device, kept, input);
            }
            pass.project(layer, input, &mut pieces, arena.all_mut());
            pass.attend(&mut pieces, arena.all_mut());
            pass.widen(layer, input, &mut pieces, arena.all_mut());
            after(layer, &pieces);
            // Below the lowest adapted block nothing is kept, so the output replaces the input.
            let output = if layer < sizes.lowest { 0 } else { kept + 1 };
            if let Some(offload) = offload {
                offload.settle(device, output);
            }
            pass.narrow(layer, &mut pieces, arena.all_mut(), residuals[sizes.landing(output)].slice_mut(..floats));
            decoder.leave(layer, next);
        }
    }

    /// One token per sequence, at the given positions; `attend` replaces the attention of each block.
    pub(crate) fn step(
        &mut self,
        decoder: &Decoder,
        adapters: Option<&AdapterSet>,
        ids: &[u32],
        positions: &[u32],
        attend: &mut Attend<'_>,
    ) -> Uploaded {
        let Self { sizes, indices, residuals, saved, arena, .. } = self;
        let device = decoder.device.as_ref();
        let tokens = ids.len();
        let uploaded = indices.upload_step(device, ids, positions);
        let pass = pass(decoder, adapters, None, uploaded, indices);
        let floats = decoder.config.hidden_size * tokens;
        let [residual, ..] = residuals.as_mut_slice() else { return uploaded };
        let first = residual.slice_mut(..floats);
        device.embedding(decoder.embedding.operand(), indices.views(uploaded).ids, decoder.config.hidden_size, first);
        for layer in 0..decoder.config.layers {
            let next = if layer + 1 == decoder.config.layers { 0 } else { layer + 1 };
            decoder.enter(layer, next);
            let mut pieces = Pieces::new(&mut saved[0], &pass.widths(layer), sizes.activations, tokens);
            let input = residual.slice(..floats);
            pass.project(layer, input, &mut pieces, arena.all_mut());
            attend(&pass, layer, &mut pieces);
            pass.widen(layer, input, &mut pieces, arena.all_mut());
            pass.narrow(layer, &mut pieces, arena.all_mut(), residual.slice_mut(..floats));
            decoder.leave(layer, next);
        }
        uploaded
    }

    /// From the gradient of the final hidden states, in `gradient`, to the adapters' gradients.
    pub(crate) fn backward(
        &mut self,
        decoder: &Decoder,
        adapters: &AdapterSet,
        dropouts: Option<&Dropouts<'_>>,
        uploaded: Uploaded,
        mut gradients: Gradients<'_>,
    ) {
        let Self { sizes, indices, residuals, saved, arena, gradient, offload, .. } = self;
        let device = decoder.device.as_ref();
        let pass = pass(decoder, Some(adapters), dropouts, uploaded, indices);
        let floats = decoder.config.hidden_size * pass.tokens;
        let mut gradient = gradient.slice_mut(..floats);
        let layers = decoder.config.layers;
        for layer in (sizes.lowest..layers).rev() {
            let next = if layer > sizes.lowest { layer - 1 } else { usize::from(layer == 0) };
            decoder.enter(layer, next);
            let widths = pass.widths(layer);
            let kept = layer - sizes.lowest;
            let set = if sizes.checkpointing { 0 } else { kept };
            if let Some(offload) = offload {
                offload.settle(device, kept);
                if let Some(next) = kept.checked_sub(1) {
                    offload.fetch(device, next, floats, &mut residuals[sizes.landing(next)]);
                }
            }
            let input = residuals[sizes.landing(kept)].slice(..floats);
            let mut pieces = Pieces::new(&mut saved[set], &widths, sizes.activations, pass.tokens);
            // The last block's values are still there from the forward pass.
            if sizes.checkpointing && layer + 1 < layers {
                pass.project(layer, input, &mut pieces, arena.all_mut());
                pass.attend(&mut pieces, arena.all_mut());
                pass.widen(layer, input, &mut pieces, arena.all_mut());
                if let Some(slot) = pass.slot(layer, crate::projection::Projection::Down) {
                    pass.down_kept(slot, &mut pieces, arena.all_mut());
                }
            }
            let depth = if layer == sizes.lowest { Depth::of(&pass, layer) } else { Depth::Input };
            pass.feed_forward_backward(layer, depth, &mut pieces, &mut gradients, arena.all_mut(), &mut gradient);
            pass.attention_backward(layer, depth, input, &pieces, &mut gradients, arena.all_mut(), &mut gradient);
            decoder.leave(layer, next);
        }
    }
}

fn pass<'a>(
    decoder: &'a Decoder,
    adapters: Option<&'a AdapterSet>,
    dropouts: Option<&'a Dropouts<'a>>,
    uploaded: Uploaded,
    indices: &'a Indices,
) -> Pass<'a> {
    let views = indices.views(uploaded);
    Pass {
        decoder,
        adapters,
        dropouts,
        tokens: uploaded.tokens,
        offset: views.offset,
        positions: views.positions,
        segments: views.segments,
        shared: views.shared,
    }
}
