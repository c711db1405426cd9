//! How large each buffer of a pass is. The engine allocates by these numbers and the memory plan adds them up, so the
//! two cannot disagree.

use luthier_formats::model_files::ModelConfig;
use luthier_kernels::device::FloatType;

use super::LANDINGS;
use super::indices::words;
use crate::adapter::Slot;
use crate::projection::Projection;

/// Bytes of one chunk of logits, about; more where other phases need the room anyway and activations are narrow.
const LOGITS_CHUNK: usize = 64 << 20;
/// Rows beyond which a larger chunk of logits wins nothing.
const MOST_ROWS: usize = 1024;
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
        self.full() + self.activations()
    }

    /// Those of them that are `f32` on every device.
    #[must_use]
    pub fn full(&self) -> usize {
        let norms = if self.head_norms { self.heads + self.kv_heads } else { 0 };
        2 + self.heads + self.hidden + norms
    }

    /// Those of them that are of the device's type.
    #[must_use]
    pub fn activations(&self) -> usize {
        let norms = if self.head_norms { self.query + self.key } else { 0 };
        2 * self.query + 2 * self.key + 2 * self.intermediate + self.low + self.raw + norms
    }

    /// Bytes per token.
    #[must_use]
    pub fn bytes(&self, activations: FloatType) -> usize {
        4 * self.full() + activations.bytes() * self.activations()
    }
}

/// The width of what a group of projections keeps of its way through the rank: of the widest adapter where they go one
/// after another, of three where they go together.
pub(super) fn through_width(activations: FloatType, rank: usize) -> usize {
    match activations {
        FloatType::F32 => rank,
        FloatType::Bf16 | FloatType::F16 => 3 * rank,
    }
}

/// The width of a copy in `f32`, where activations are narrower.
pub(super) fn wider(activations: FloatType, width: usize) -> usize {
    match activations {
        FloatType::F32 => 0,
        FloatType::Bf16 | FloatType::F16 => width,
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

/// Bytes of every buffer of a [`super::Workspace`].
///
/// Block inputs, the gradient that travels down and what the loss is made of are `f32` on every device, since many blocks
/// add to them: in bf16 the sum of an 8B model's 64 halves of blocks would lose what a late one adds. What a product reads
/// is of the device's type: it would round it anyway, and it is 96 % of what a block keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    pub capacity: Capacity,
    pub activations: FloatType,
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
    /// Indices and row losses, in elements of four bytes.
    pub indices: usize,
}

/// Bytes that are alive at once, beside what is kept, in each phase of a step.
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
    /// For training, if `train`; else for inference.
    #[must_use]
    pub fn new(
        config: &ModelConfig,
        slots: &[Slot],
        capacity: Capacity,
        train: bool,
        dropout: bool,
        checkpointing: bool,
        activations: FloatType,
    ) -> Self {
        let tokens = stride(capacity.tokens);
        let lowest =
            if train { slots.iter().map(|slot| slot.layer).min().unwrap_or(config.layers) } else { config.layers };
        let widths: Vec<BlockWidths> = (0..config.layers).map(|layer| BlockWidths::new(config, slots, layer)).collect();
        let bytes = |widths: &BlockWidths| widths.bytes(activations) * tokens;
        let widest = widths.iter().map(bytes).max().unwrap_or(0);
        let kept = config.layers - lowest;
        let saved = if checkpointing || kept == 0 {
            vec![widest]
        } else {
            // The first kept block's set also serves the blocks below it, which may have other ranks.
            let mut saved: Vec<usize> = widths[lowest..].iter().map(bytes).collect();
            saved[0] = widest;
            saved
        };
        let mut peaks = Peaks::of_blocks(config, slots, capacity, train, dropout, activations);
        // The loss takes its rows in parts of one chunk of logits.
        let row = loss_row(config.hidden_size, train, activations);
        let chunk_rows =
            chunk_rows(config.vocab_size, row, peaks.max(), activations).min(stride(capacity.trained).max(TOKEN_GRAIN));
        let part = capacity.trained.min(chunk_rows);
        peaks.loss = row * stride(part) + 4 * chunk_rows * config.vocab_size;
        let residual = 4 * config.hidden_size * tokens;
        Self {
            capacity,
            activations,
            lowest,
            checkpointing,
            saved,
            residuals: kept + 1,
            residual,
            offload: false,
            gradient: if train { residual } else { 0 },
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

impl Peaks {
    /// All but the loss's.
    fn of_blocks(
        config: &ModelConfig,
        slots: &[Slot],
        capacity: Capacity,
        train: bool,
        dropout: bool,
        activations: FloatType,
    ) -> Self {
        let (tokens, whole) = (stride(capacity.tokens), stride(capacity.whole));
        let (hidden, query, key) = (config.hidden_size, config.query_size(), config.key_value_size());
        let intermediate = config.intermediate_size;
        let rank = slots.iter().map(|slot| slot.rank).max().unwrap_or(0);
        let widest = hidden.max(query).max(intermediate);
        let masked = if dropout { widest } else { 0 };
        let head_norms = if config.qk_norm { key } else { 0 };
        // The gradient of an output, scaled by its gains.
        let scaled = if slots.iter().any(|slot| slot.magnitude.is_some()) { widest } else { 0 };
        let aside = through_width(activations, rank) + masked + scaled;
        let width = activations.bytes();
        let whole_rows = width * (2 * query + 2 * key) + 4 * config.heads;
        let forward = (width * (hidden + intermediate + masked) * tokens).max(whole_rows * whole);
        if !train {
            return Self { forward, ..Self::default() };
        }
        let attention = width * (2 * query + 2 * key + hidden + head_norms + aside) + 4 * hidden;
        // The down projection's input and output gradient, then the norm's output and its gradient in their place.
        let down = width * (intermediate + wider(activations, hidden));
        let mut feed_forward = width * (intermediate + aside) + down.max((width + 4) * hidden);
        if activations == FloatType::F32 {
            // What recorded plans say: two more widths than are used.
            feed_forward = feed_forward.max(4 * (3 * intermediate + hidden + aside));
        }
        Self {
            forward,
            feed_forward_backward: feed_forward * tokens,
            attention_backward: attention * tokens + (whole_rows + width * (2 * query + 2 * key)) * whole,
            loss: 0,
        }
    }
}

/// Bytes of a row of the loss beside its logits.
fn loss_row(hidden: usize, train: bool, activations: FloatType) -> usize {
    let gradients = if train { 4 * (hidden + wider(activations, hidden)) } else { 0 };
    4 + (4 + activations.bytes()) * hidden + gradients
}

/// Rows whose logits fit the chunk, or what the other phases need, a multiple of 16.
fn chunk_rows(vocabulary: usize, row: usize, others: usize, activations: FloatType) -> usize {
    let rows = |bytes: usize, each: usize| bytes / each / TOKEN_GRAIN * TOKEN_GRAIN;
    let spare = match activations {
        FloatType::F32 => 0,
        FloatType::Bf16 | FloatType::F16 => rows(others, 4 * vocabulary + row).min(MOST_ROWS),
    };
    rows(LOGITS_CHUNK, 4 * vocabulary).max(spare).max(TOKEN_GRAIN)
}
