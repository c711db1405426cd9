//! How large each buffer of a pass is. The engine allocates by these numbers and the memory plan adds them up, so the
//! two cannot disagree.

use luthier_formats::model_files::ModelConfig;

use super::LANDINGS;
use super::indices::words;
use crate::adapter::Slot;
use crate::projection::Projection;

/// Bytes of one chunk of logits, about.
const LOGITS_CHUNK: usize = 64 << 20;
/// Rows of pieces inside a shared buffer start at multiples of this many tokens, which aligns them to 64 bytes.
const TOKEN_GRAIN: usize = 16;

/// The distance between pieces per unit of width, for `tokens` tokens.
#[must_use]
pub fn stride(tokens: usize) -> usize {
    tokens.next_multiple_of(TOKEN_GRAIN)
}

/// The largest micro-batch that buffers are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    pub tokens: usize,
    /// Rows of the loss.
    pub trained: usize,
    pub sequences: usize,
    /// Tokens of the whole sequences where a prefix is shared; 0 if none ever is.
    pub whole: usize,
}

impl Capacity {
    /// The element-wise maximum.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.max(other.tokens),
            trained: self.trained.max(other.trained),
            sequences: self.sequences.max(other.sequences),
            whole: self.whole.max(other.whole),
        }
    }
}

/// Floats per token that a block's forward saves, piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockWidths {
    pub hidden: usize,
    pub query: usize,
    pub key: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub intermediate: usize,
    /// Sum of the ranks of the block's adapters.
    pub low: usize,
    /// Sum of the outputs of the block's adapters with magnitudes, whose products are kept before they are scaled.
    pub raw: usize,
    /// q and k are normalised per head, so they are kept before the norm too.
    pub head_norms: bool,
}

impl BlockWidths {
    /// For the block `layer` with those of `slots` that are its.
    #[must_use]
    pub fn new(config: &ModelConfig, slots: &[Slot], layer: usize) -> Self {
        Self {
            hidden: config.hidden_size,
            query: config.query_size(),
            key: config.key_value_size(),
            heads: config.heads,
            kv_heads: config.kv_heads,
            intermediate: config.intermediate_size,
            low: slots.iter().filter(|slot| slot.layer == layer).map(|slot| slot.rank).sum(),
            raw: slots
                .iter()
                .filter(|slot| slot.layer == layer && slot.magnitude.is_some())
                .map(|slot| slot.outputs)
                .sum(),
            head_norms: config.qk_norm,
        }
    }

    /// Floats per token, in total.
    #[must_use]
    pub fn saved(&self) -> usize {
        let norms = if self.head_norms { self.query + self.key + self.heads + self.kv_heads } else { 0 };
        2 + 2 * self.query
            + 2 * self.key
            + self.heads
            + self.hidden
            + 2 * self.intermediate
            + self.low
            + self.raw
            + norms
    }
}

/// Offsets, in ranks, of each projection's `x · Aᵀ` among its block's.
#[must_use]
pub fn low_offsets(slots: &[Slot], layer: usize) -> [usize; Projection::ALL.len()] {
    offsets(slots, layer, |slot| slot.rank)
}

/// Offsets, in outputs, of each projection's unscaled product among its block's.
#[must_use]
pub fn raw_offsets(slots: &[Slot], layer: usize) -> [usize; Projection::ALL.len()] {
    offsets(slots, layer, |slot| if slot.magnitude.is_some() { slot.outputs } else { 0 })
}

fn offsets(slots: &[Slot], layer: usize, width: impl Fn(&Slot) -> usize) -> [usize; Projection::ALL.len()] {
    let mut offsets = [0; Projection::ALL.len()];
    let mut offset = 0;
    for slot in slots.iter().filter(|slot| slot.layer == layer) {
        offsets[slot.projection as usize] = offset;
        offset += width(slot);
    }
    offsets
}

/// Elements (of four bytes) of every buffer of a [`super::Workspace`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    pub capacity: Capacity,
    /// The first block whose values are kept for backward; the number of blocks if none is.
    pub lowest: usize,
    pub checkpointing: bool,
    /// One per kept set of saved values.
    pub saved: Vec<usize>,
    /// Block inputs, from `lowest` on, and the final hidden states: this many buffers of `hidden · tokens`.
    pub residuals: usize,
    pub residual: usize,
    /// Block inputs but the last wait for backward in host memory.
    pub offload: bool,
    /// The gradient that travels down; 0 for inference.
    pub gradient: usize,
    pub arena: usize,
    /// What the arena must hold in each phase; it is as large as the largest.
    pub peaks: Peaks,
    /// Rows whose logits exist at once.
    pub chunk_rows: usize,
    /// Rows that go through the head at once.
    pub part: usize,
    /// Indices and row losses.
    pub indices: usize,
}

/// Elements that are alive at once, beside what is kept, in each phase of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Peaks {
    pub forward: usize,
    pub feed_forward_backward: usize,
    pub attention_backward: usize,
    pub loss: usize,
}

impl Peaks {
    #[must_use]
    pub fn max(&self) -> usize {
        self.forward.max(self.feed_forward_backward).max(self.attention_backward).max(self.loss)
    }
}

impl Sizes {
    /// For training, if `train` names the lowest adapted block; else for inference.
    #[must_use]
    pub fn new(
        config: &ModelConfig,
        slots: &[Slot],
        capacity: Capacity,
        train: bool,
        dropout: bool,
        checkpointing: bool,
    ) -> Self {
        // The loss takes its rows in parts of one chunk of logits.
        let chunk_rows = chunk_rows(config.vocab_size).min(stride(capacity.trained).max(TOKEN_GRAIN));
        let part = capacity.trained.min(chunk_rows);
        let tokens = stride(capacity.tokens);
        let rows = stride(part);
        let lowest =
            if train { slots.iter().map(|slot| slot.layer).min().unwrap_or(config.layers) } else { config.layers };
        let widths: Vec<BlockWidths> = (0..config.layers).map(|layer| BlockWidths::new(config, slots, layer)).collect();
        let widest = widths.iter().map(BlockWidths::saved).max().unwrap_or(0) * tokens;
        let kept = config.layers - lowest;
        let saved = if checkpointing || kept == 0 {
            vec![widest]
        } else {
            // The first kept block's set also serves the blocks below it, which may have other ranks.
            let mut saved: Vec<usize> = widths[lowest..].iter().map(|widths| widths.saved() * tokens).collect();
            saved[0] = widest;
            saved
        };
        let (hidden, query, key) = (config.hidden_size, config.query_size(), config.key_value_size());
        let intermediate = config.intermediate_size;
        let rank = slots.iter().map(|slot| slot.rank).max().unwrap_or(0);
        let masked = if dropout { hidden.max(query).max(intermediate) } else { 0 };
        let head_norms = if config.qk_norm { key } else { 0 };
        // The gradient of an output, scaled by its gains.
        let scaled =
            if slots.iter().any(|slot| slot.magnitude.is_some()) { hidden.max(query).max(intermediate) } else { 0 };
        let attention = 2 * query + 2 * key + 2 * hidden + head_norms + rank + masked + scaled;
        let whole = stride(capacity.whole);
        let attention_whole = 2 * query + 2 * key + config.heads;
        let peaks = Peaks {
            forward: ((hidden + intermediate + masked) * tokens).max(attention_whole * whole),
            feed_forward_backward: if train {
                (3 * intermediate + hidden + rank + masked + scaled) * tokens
            } else {
                0
            },
            attention_backward: if train {
                attention * tokens + (attention_whole + 2 * query + 2 * key) * whole
            } else {
                0
            },
            loss: (1 + hidden * if train { 3 } else { 2 }) * rows + chunk_rows * config.vocab_size,
        };
        Self {
            capacity,
            lowest,
            checkpointing,
            saved,
            residuals: kept + 1,
            residual: hidden * tokens,
            offload: false,
            gradient: if train { hidden * tokens } else { 0 },
            arena: peaks.max(),
            peaks,
            chunk_rows,
            part,
            indices: words(capacity) + capacity.trained,
        }
    }
}

impl Sizes {
    /// The same pass with its block inputs in host memory, where only they are kept.
    #[must_use]
    pub fn offloaded(mut self) -> Self {
        self.offload = self.checkpointing && self.residuals > LANDINGS;
        self
    }

    /// Buffers of the device that block inputs and final hidden states are in.
    #[must_use]
    pub fn landings(&self) -> usize {
        if self.offload { LANDINGS } else { self.residuals }
    }

    /// Which of them holds an input, or the final hidden states as the last.
    #[must_use]
    pub fn landing(&self, index: usize) -> usize {
        if self.offload { index % LANDINGS } else { index }
    }

    /// Block inputs in host memory.
    #[must_use]
    pub fn pooled(&self) -> usize {
        self.residuals - self.landings()
    }
}

/// Rows whose logits fit the chunk, a multiple of 16.
fn chunk_rows(vocabulary: usize) -> usize {
    (LOGITS_CHUNK / (4 * vocabulary) / TOKEN_GRAIN * TOKEN_GRAIN).max(TOKEN_GRAIN)
}
