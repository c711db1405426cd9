//! A prediction for a device that computes in bf16 and on which this build does not run: the shapes are those of the
//! engine's own buffers, at the widths that the published trainers use. Nothing here was measured.

use luthier_core::StageResult;
use luthier_formats::model_files::ModelConfig;
use luthier_kernels::device::{FloatType, Storage};
use serde::Serialize;

use super::{MemoryPlan, RunShape, WeightTypes};
use crate::adapter::Slot;
use crate::decoder::Sizes;
use crate::projection::Projection;
use crate::train::TrainSpec;

/// Elements below which bitsandbytes keeps the moments of a tensor in `f32`, and elements that share one scale.
const EIGHT_BIT_LEAST: usize = 4096;
const EIGHT_BIT_BLOCK: usize = 256;
/// Elements from which on bitsandbytes pages the moments of a tensor.
const PAGED_LEAST: usize = 100_000;
/// Context, kernels and fragmentation; the literature finds 0.4 to 0.6 GB.
const CONTEXT: usize = 500_000_000;

/// What such a trainer may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceleratorOptions {
    /// Bytes of an element of embedding and head: 2, or 4 where they are cast up, as PEFT does.
    pub table_width: usize,
    /// Bytes of a trained parameter and of its gradient: 4, or 2.
    pub trained_width: usize,
    /// AdamW's moments in 8 bits with a scale per 256.
    pub eight_bit: bool,
    /// Large moments live in host memory and come when they are needed.
    pub paged: bool,
    /// Kept block inputs live in host memory.
    pub offload: bool,
    /// Blocks live in host memory, two of them on the device at a time.
    pub stream: bool,
}

impl Default for AcceleratorOptions {
    fn default() -> Self {
        Self { table_width: 2, trained_width: 4, eight_bit: false, paged: false, offload: false, stream: false }
    }
}

/// Bytes that are alive at the three moments that can be the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AcceleratorPeaks {
    pub loss: usize,
    pub widest_backward: usize,
    pub optimizer_step: usize,
}

/// What such a run would need, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AcceleratorPlan {
    pub weights: usize,
    pub embeddings: usize,
    pub adapters: usize,
    pub gradients: usize,
    pub optimizer: usize,
    /// What a block saves for its backward: of one block with checkpointing, of all without.
    pub activations: usize,
    /// Block inputs.
    pub checkpoint: usize,
    /// One shared buffer that weights are dequantised into, with its block scales.
    pub dequantized: usize,
    pub context: usize,
    pub peaks: AcceleratorPeaks,
    /// The largest of the three.
    pub total: usize,
    /// Offloaded, paged and streamed bytes.
    pub host: usize,
}

impl AcceleratorPlan {
    /// # Errors
    /// Targets that match nothing.
    pub fn new(
        config: &ModelConfig,
        types: WeightTypes,
        spec: &TrainSpec,
        shape: RunShape,
        options: AcceleratorOptions,
    ) -> StageResult<Self> {
        let slots = spec.lora.slots(config)?;
        let plan = MemoryPlan::new(config, types, spec, shape)?;
        let dropout = spec.lora.dropout > 0.0;
        let sizes = Sizes::new(config, &slots, shape.capacity, true, dropout, spec.checkpointing, FloatType::F32);
        let largest = Projection::ALL
            .into_iter()
            .map(|projection| {
                let (rows, cols) = projection.shape(config);
                rows * cols
            })
            .max()
            .unwrap_or(0);
        let matrices = types.found.map_or(config.layers * plan.block, |[projections, _]| projections);
        // The engine keeps norms and biases in f32, such a trainer in bf16.
        let vectors = (plan.weights - matrices) / 2;
        let resident = if options.stream { config.layers.min(2) * plan.block } else { matrices };
        let tables = if config.tie_embeddings { 1 } else { 2 };
        let (moments, paged) = moments(&slots, options);
        let tokens = shape.capacity.tokens;
        let inputs = 2 * config.hidden_size * tokens * (sizes.residuals - 1);
        // Reciprocal norms and the logarithms of attention's denominators stay in f32.
        let narrow = sizes.saved.len() * (2 + config.heads) * tokens;
        let activations = sizes.saved.iter().sum::<usize>() / 2 + 2 * narrow;
        let quantized = types.projection == Storage::Nf4;
        let device_inputs = if options.offload { 0 } else { inputs };
        let kept = Self {
            weights: resident + vectors,
            embeddings: tables * options.table_width * config.vocab_size * config.hidden_size,
            adapters: options.trained_width * plan.trainable_parameters,
            gradients: options.trained_width * plan.trainable_parameters,
            optimizer: moments - paged,
            activations,
            checkpoint: device_inputs,
            dequantized: if quantized { 2 * largest + 4 * largest / 64 } else { 0 },
            context: CONTEXT,
            peaks: AcceleratorPeaks { loss: 0, widest_backward: 0, optimizer_step: 0 },
            total: 0,
            host: paged + (inputs - device_inputs) + (matrices - resident),
        };
        let base = kept.weights + kept.embeddings + kept.adapters + kept.gradients + kept.optimizer + kept.context;
        let pass = base + kept.dequantized + activations + device_inputs + 4 * config.hidden_size * tokens;
        let logits = sizes.chunk_rows * config.vocab_size;
        let peaks = AcceleratorPeaks {
            loss: pass + (sizes.peaks.loss - 4 * logits) / 2 + 4 * logits,
            widest_backward: pass
                + sizes.peaks.feed_forward_backward.max(sizes.peaks.attention_backward).max(sizes.peaks.forward) / 2,
            // Paged moments come back for it; what the pass kept is gone.
            optimizer_step: base + paged,
        };
        let total = peaks.loss.max(peaks.widest_backward).max(peaks.optimizer_step);
        Ok(Self { peaks, total, ..kept })
    }
}

/// Bytes of AdamW's moments, and those of them that are paged.
fn moments(slots: &[Slot], options: AcceleratorOptions) -> (usize, usize) {
    let (mut all, mut paged) = (0, 0);
    for range in slots.iter().flat_map(Slot::tensors).map(|(_, _, range)| range) {
        let len = range.len();
        let bytes = if options.eight_bit && len >= EIGHT_BIT_LEAST {
            2 * (len + 4 * len.div_ceil(EIGHT_BIT_BLOCK))
        } else {
            8 * len
        };
        all += bytes;
        if options.paged && len >= PAGED_LEAST {
            paged += bytes;
        }
    }
    (all, paged)
}
