//! Forward through one block.

use luthier_kernels::device::{AttentionSaved, Buffer, Dropout, Noise, Operand, Segments, Slice, SliceMut};
use luthier_kernels::random::Stream;

use super::sizes::BlockWidths;
use super::{Block, Decoder, low_offsets, raw_offsets, stride};
use crate::adapter::{AdapterSet, Slot};
use crate::projection::Projection;

/// What dropout and noise draw from.
pub(crate) struct Dropouts<'a> {
    pub probability: f32,
    /// By slot.
    pub streams: &'a [Stream],
    /// The strength of the noise on the embedding, and its stream.
    pub noise: Option<(f64, Stream)>,
}

/// What is the same for every block of one pass.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub decoder: &'a Decoder,
    pub adapters: Option<&'a AdapterSet>,
    pub dropouts: Option<&'a Dropouts<'a>>,
    pub tokens: usize,
    /// Where the streams are read from.
    pub offset: Slice<'a, u64>,
    pub positions: Slice<'a, u32>,
    pub segments: Segments<'a>,
    pub shared: Option<Shared<'a>>,
}

/// How the rows relate to those of the whole sequences where a prefix is shared; see [`super::batch::Sharing`].
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    pub kept_of_whole: Slice<'a, u32>,
    pub kept_once: Slice<'a, u32>,
    pub repeats: Slice<'a, u32>,
    pub whole_of_kept: Slice<'a, u32>,
    pub offsets: Slice<'a, u32>,
}

/// A block's saved values, as views of one buffer: `S` is a shared or an exclusive view.
pub(crate) struct Pieces<S> {
    pub inverse_input: S,
    pub inverse_middle: S,
    /// Before the norm of heads; empty without one.
    pub query_raw: S,
    pub key_raw: S,
    pub inverse_query: S,
    pub inverse_key: S,
    pub query: S,
    pub key: S,
    pub value: S,
    pub attended: S,
    pub lse: S,
    pub middle: S,
    pub gate: S,
    pub up: S,
    /// What the adapters of the block keep.
    pub low: Kept<S>,
}

/// What the adapters of a block keep, one after another.
#[derive(Clone, Copy)]
pub(crate) struct Kept<S> {
    /// `x · Aᵀ`.
    pub low: S,
    /// With magnitudes: the product before it is scaled.
    pub raw: S,
}

impl<S> Pieces<S> {
    /// Takes views of `width` floats per token, in order.
    fn carve(widths: &BlockWidths, mut take: impl FnMut(usize) -> S) -> Self {
        let norms = usize::from(widths.head_norms);
        Self {
            inverse_input: take(1),
            inverse_middle: take(1),
            query_raw: take(norms * widths.query),
            key_raw: take(norms * widths.key),
            inverse_query: take(norms * widths.heads),
            inverse_key: take(norms * widths.kv_heads),
            query: take(widths.query),
            key: take(widths.key),
            value: take(widths.key),
            attended: take(widths.query),
            lse: take(widths.heads),
            middle: take(widths.hidden),
            gate: take(widths.intermediate),
            up: take(widths.intermediate),
            low: Kept { low: take(widths.low), raw: take(widths.raw) },
        }
    }
}

impl<'b> Pieces<SliceMut<'b, f32>> {
    pub fn exclusive(buffer: &'b mut Buffer<f32>, widths: &BlockWidths, tokens: usize) -> Self {
        let mut carver = Carver::new(buffer.all_mut());
        Self::carve(widths, |width| carver.take(width, tokens))
    }
}

impl<'b> Pieces<Slice<'b, f32>> {
    pub fn shared(buffer: &'b Buffer<f32>, widths: &BlockWidths, tokens: usize) -> Self {
        let mut rest = buffer.all();
        Self::carve(widths, |width| {
            let piece = rest.slice(..width * tokens);
            rest = rest.slice(width * stride(tokens)..);
            piece
        })
    }

    pub fn attention(&self) -> AttentionSaved<'b> {
        AttentionSaved { q: self.query, k: self.key, v: self.value, out: self.attended, lse: self.lse }
    }
}

/// Hands out consecutive parts of an exclusive view.
pub(crate) struct Carver<'a>(Option<SliceMut<'a, f32>>);

impl<'a> Carver<'a> {
    pub fn new(all: SliceMut<'a, f32>) -> Self {
        Self(Some(all))
    }

    /// Exactly `len` floats.
    pub fn take_exact(&mut self, len: usize) -> SliceMut<'a, f32> {
        let Some(all) = self.0.take() else { unreachable!("the carver always holds the rest") };
        let (piece, rest) = all.split_at(len);
        self.0 = Some(rest);
        piece
    }

    /// `width · tokens` floats; the next part starts aligned.
    pub fn take(&mut self, width: usize, tokens: usize) -> SliceMut<'a, f32> {
        self.take_exact(width * stride(tokens)).slice(..width * tokens)
    }
}

impl<'a> Pass<'a> {
    pub fn block(&self, layer: usize) -> &'a Block {
        &self.decoder.blocks[layer]
    }

    pub fn widths(&self, layer: usize) -> BlockWidths {
        let slots = self.adapters.map_or(&[][..], AdapterSet::slots);
        BlockWidths::new(&self.decoder.config, slots, layer)
    }

    pub fn slot(&self, layer: usize, projection: Projection) -> Option<&'a Slot> {
        self.adapters?.slot(layer, projection)
    }

    /// The range of a slot's `x · Aᵀ` in its block's `low` piece.
    pub fn low_range(&self, slot: &Slot) -> std::ops::Range<usize> {
        let slots = self.adapters.map_or(&[][..], AdapterSet::slots);
        let offset = low_offsets(slots, slot.layer)[slot.projection as usize];
        offset * self.tokens..(offset + slot.rank) * self.tokens
    }

    /// The range of a slot's unscaled product in its block's `raw` piece.
    pub fn raw_range(&self, slot: &Slot) -> std::ops::Range<usize> {
        let slots = self.adapters.map_or(&[][..], AdapterSet::slots);
        let offset = raw_offsets(slots, slot.layer)[slot.projection as usize];
        offset * self.tokens..(offset + slot.outputs) * self.tokens
    }

    /// Gains and inverse norms of a slot with magnitudes.
    pub fn gains(&self, slot: &Slot) -> Option<(Slice<'a, f32>, Slice<'a, f32>)> {
        self.adapters?.gains(slot)
    }

    pub fn dropout(&self, slot: &Slot) -> Option<Dropout<'a>> {
        let dropouts = self.dropouts.filter(|dropouts| dropouts.probability > 0.0)?;
        let index = self.adapters?.index(slot.layer, slot.projection)?;
        Some(Dropout { probability: dropouts.probability, stream: dropouts.streams[index], offset: self.offset })
    }

    /// Noise on the embedding.
    pub fn noise(&self) -> Option<Noise<'a>> {
        let (strength, stream) = self.dropouts?.noise?;
        Some(Noise { strength, stream, offset: self.offset })
    }

    /// The two factors of a slot's update: `A [rank, inputs]` and `B [outputs, rank]`.
    pub fn factors(&self, slot: &Slot) -> Option<(Operand<'a>, Operand<'a>)> {
        let params = self.adapters?.params();
        Some((params.slice(slot.a_range()).into(), params.slice(slot.b_range()).into()))
    }

    /// `out (+)= x · Wᵀ + bias + scale · (drop(x) · Aᵀ) · Bᵀ`; with magnitudes all but the bias is scaled by the gains.
    ///
    /// With magnitudes and dropout, as in PEFT, the product that is scaled is that of the dropped input too, and what the
    /// base alone makes of the difference is added: `(x - x̃) · Wᵀ + g ⊙ (x̃ · Wᵀ + scale · x̃ · Aᵀ · Bᵀ)`.
    #[expect(clippy::too_many_arguments, reason = "the operands of the operation")]
    pub fn linear(
        &self,
        layer: usize,
        projection: Projection,
        x: Slice<'_, f32>,
        kept: &mut Kept<SliceMut<'_, f32>>,
        masked: &mut SliceMut<'_, f32>,
        accumulate: bool,
        mut out: SliceMut<'_, f32>,
    ) {
        let device = self.decoder.device.as_ref();
        let index = projection as usize;
        let slot = self.slot(layer, projection);
        if let Some(slot) = slot
            && let Some((gains, _)) = self.gains(slot)
        {
            self.unscaled(slot, x, kept, masked);
            let raw = kept.raw.freeze().slice(self.raw_range(slot));
            device.scale_columns(raw, gains, accumulate, out.borrow());
            if self.dropout(slot).is_some() {
                let mut rest = masked.borrow().slice(..x.len());
                device.scale(-1.0, rest.borrow());
                device.add(x, rest.borrow());
                let matrix = self.block(layer).matrices[index].operand();
                device.matmul_nt(
                    rest.freeze(),
                    matrix,
                    [self.tokens, slot.outputs, slot.inputs],
                    1.0,
                    true,
                    out.borrow(),
                );
            }
            if let Some(bias) = &self.block(layer).biases[index] {
                device.add_bias(bias.all(), out);
            }
            return;
        }
        let matrix = &self.block(layer).matrices[index];
        let (outputs, inputs) = (matrix.rows, matrix.cols);
        device.matmul_nt(x, matrix.operand(), [self.tokens, outputs, inputs], 1.0, accumulate, out.borrow());
        if let Some(bias) = &self.block(layer).biases[index] {
            device.add_bias(bias.all(), out.borrow());
        }
        let Some(slot) = slot else { return };
        let Some((_, b)) = self.factors(slot) else { return };
        self.reduce(slot, x, &mut kept.low, masked);
        let low = kept.low.freeze().slice(self.low_range(slot));
        device.matmul_nt(low, b, [self.tokens, outputs, slot.rank], slot.scale, true, out);
    }

    /// `raw = x̃ · Wᵀ + scale · (x̃ · Aᵀ) · Bᵀ`, and `low` with it; leaves `x̃ = drop(x)` in `masked`, with dropout.
    fn unscaled(
        &self,
        slot: &Slot,
        x: Slice<'_, f32>,
        kept: &mut Kept<SliceMut<'_, f32>>,
        masked: &mut SliceMut<'_, f32>,
    ) {
        let device = self.decoder.device.as_ref();
        let matrix = &self.block(slot.layer).matrices[slot.projection as usize];
        let Some((_, b)) = self.factors(slot) else { return };
        let mut raw = kept.raw.borrow().slice(self.raw_range(slot));
        self.reduce(slot, x, &mut kept.low, masked);
        let x = if self.dropout(slot).is_some() { masked.freeze().slice(..x.len()) } else { x };
        device.matmul_nt(x, matrix.operand(), [self.tokens, slot.outputs, slot.inputs], 1.0, false, raw.borrow());
        let low = kept.low.freeze().slice(self.low_range(slot));
        device.matmul_nt(low, b, [self.tokens, slot.outputs, slot.rank], slot.scale, true, raw);
    }

    /// From the block's input to rotated q and k, and v.
    pub fn project(
        &self,
        layer: usize,
        x: Slice<'_, f32>,
        saved: &mut Pieces<SliceMut<'_, f32>>,
        arena: SliceMut<'_, f32>,
    ) {
        let device = self.decoder.device.as_ref();
        let config = &self.decoder.config;
        let block = self.block(layer);
        let mut carver = Carver::new(arena);
        let mut normed = carver.take(config.hidden_size, self.tokens);
        let mut masked = self.masked(&mut carver, config.hidden_size);
        let eps = self.decoder.eps();
        device.rms_norm(x, block.input_norm.all(), eps, normed.borrow(), saved.inverse_input.borrow());
        let normed = normed.freeze();
        let low = &mut saved.low;
        if let Some([query_norm, key_norm]) = &block.head_norms {
            self.linear(layer, Projection::Query, normed, low, &mut masked, false, saved.query_raw.borrow());
            self.linear(layer, Projection::Key, normed, low, &mut masked, false, saved.key_raw.borrow());
            let (query, key) = (saved.query.borrow(), saved.key.borrow());
            device.rms_norm(saved.query_raw.freeze(), query_norm.all(), eps, query, saved.inverse_query.borrow());
            device.rms_norm(saved.key_raw.freeze(), key_norm.all(), eps, key, saved.inverse_key.borrow());
        } else {
            self.linear(layer, Projection::Query, normed, low, &mut masked, false, saved.query.borrow());
            self.linear(layer, Projection::Key, normed, low, &mut masked, false, saved.key.borrow());
        }
        self.linear(layer, Projection::Value, normed, low, &mut masked, false, saved.value.borrow());
        device.rope(self.positions, config.heads, &self.decoder.rotary, false, saved.query.borrow());
        device.rope(self.positions, config.kv_heads, &self.decoder.rotary, false, saved.key.borrow());
    }

    /// Attention of the packed sequences among themselves.
    pub fn attend(&self, saved: &mut Pieces<SliceMut<'_, f32>>, arena: SliceMut<'_, f32>) {
        let device = self.decoder.device.as_ref();
        let shape = self.decoder.attention_shape();
        let (query, key, value) = (saved.query.freeze(), saved.key.freeze(), saved.value.freeze());
        let Some(shared) = &self.shared else {
            let (out, lse) = (saved.attended.borrow(), saved.lse.borrow());
            device.attention(query, key, value, self.segments, shape, out, lse);
            return;
        };
        let mut carver = Carver::new(arena);
        let (query, key, value) = self.whole(&mut carver, query, key, value);
        let whole = shared.kept_of_whole.len();
        let mut out = carver.take(shape.query_width(), whole);
        let mut lse = carver.take(shape.heads, whole);
        let (q, k, v) = (query.freeze(), key.freeze(), value.freeze());
        device.attention(q, k, v, self.segments, shape, out.borrow(), lse.borrow());
        device.gather_rows(out.freeze(), shared.whole_of_kept, shape.query_width(), saved.attended.borrow());
        device.gather_rows(lse.freeze(), shared.whole_of_kept, shape.heads, saved.lse.borrow());
    }

    /// q, k and v of the whole sequences.
    pub fn whole<'c>(
        &self,
        carver: &mut Carver<'c>,
        query: Slice<'_, f32>,
        key: Slice<'_, f32>,
        value: Slice<'_, f32>,
    ) -> (SliceMut<'c, f32>, SliceMut<'c, f32>, SliceMut<'c, f32>) {
        let shape = self.decoder.attention_shape();
        let mut expand = |x: Slice<'_, f32>, width: usize| self.expand(carver, x, width);
        (expand(query, shape.query_width()), expand(key, shape.key_width()), expand(value, shape.key_width()))
    }

    /// `x` of the whole sequences.
    pub fn expand<'c>(&self, carver: &mut Carver<'c>, x: Slice<'_, f32>, width: usize) -> SliceMut<'c, f32> {
        let Some(shared) = &self.shared else { return carver.take(0, 0) };
        let mut out = carver.take(width, shared.kept_of_whole.len());
        self.decoder.device.gather_rows(x, shared.kept_of_whole, width, out.borrow());
        out
    }

    /// From attention's output to gate and up.
    pub fn widen(
        &self,
        layer: usize,
        x: Slice<'_, f32>,
        saved: &mut Pieces<SliceMut<'_, f32>>,
        arena: SliceMut<'_, f32>,
    ) {
        let device = self.decoder.device.as_ref();
        let config = &self.decoder.config;
        let mut carver = Carver::new(arena);
        let mut normed = carver.take(config.hidden_size, self.tokens);
        let mut masked = self.masked(&mut carver, config.hidden_size.max(config.query_size()));
        let low = &mut saved.low;
        device.copy(x, saved.middle.borrow());
        let (attended, middle) = (saved.attended.freeze(), saved.middle.borrow());
        self.linear(layer, Projection::Output, attended, low, &mut masked, true, middle);
        let norm = self.block(layer).middle_norm.all();
        let inverse = saved.inverse_middle.borrow();
        device.rms_norm(saved.middle.freeze(), norm, self.decoder.eps(), normed.borrow(), inverse);
        self.linear(layer, Projection::Gate, normed.freeze(), low, &mut masked, false, saved.gate.borrow());
        self.linear(layer, Projection::Up, normed.freeze(), low, &mut masked, false, saved.up.borrow());
    }

    /// From gate and up to the next block's input.
    pub fn narrow(
        &self,
        layer: usize,
        saved: &mut Pieces<SliceMut<'_, f32>>,
        arena: SliceMut<'_, f32>,
        mut out: SliceMut<'_, f32>,
    ) {
        let device = self.decoder.device.as_ref();
        let intermediate = self.decoder.config.intermediate_size;
        let mut carver = Carver::new(arena);
        let mut active = carver.take(intermediate, self.tokens);
        let mut masked = self.masked(&mut carver, intermediate);
        device.swiglu(saved.gate.freeze(), saved.up.freeze(), active.borrow());
        device.copy(saved.middle.freeze(), out.borrow());
        self.linear(layer, Projection::Down, active.freeze(), &mut saved.low, &mut masked, true, out);
    }

    /// What the down projection's adapter keeps, which is all that recomputation needs of it.
    pub fn down_kept(&self, slot: &Slot, saved: &mut Pieces<SliceMut<'_, f32>>, arena: SliceMut<'_, f32>) {
        let device = self.decoder.device.as_ref();
        let mut carver = Carver::new(arena);
        let mut active = carver.take(slot.inputs, self.tokens);
        let mut masked = self.masked(&mut carver, slot.inputs);
        device.swiglu(saved.gate.freeze(), saved.up.freeze(), active.borrow());
        if self.gains(slot).is_some() {
            self.unscaled(slot, active.freeze(), &mut saved.low, &mut masked);
        } else {
            self.reduce(slot, active.freeze(), &mut saved.low.low, &mut masked);
        }
    }

    /// `low = drop(x) · Aᵀ`; with dropout, leaves `drop(x)` in `masked`.
    fn reduce(&self, slot: &Slot, x: Slice<'_, f32>, low: &mut SliceMut<'_, f32>, masked: &mut SliceMut<'_, f32>) {
        let device = self.decoder.device.as_ref();
        let Some((a, _)) = self.factors(slot) else { return };
        let low = low.borrow().slice(self.low_range(slot));
        let narrow = [self.tokens, slot.rank, slot.inputs];
        match self.dropout(slot) {
            Some(dropout) => {
                let mut masked = masked.borrow().slice(..x.len());
                device.dropout(x, dropout, false, masked.borrow());
                device.matmul_nt(masked.freeze(), a, narrow, 1.0, false, low);
            }
            None => device.matmul_nt(x, a, narrow, 1.0, false, low),
        }
    }

    /// Room for an input with dropout applied; empty without dropout.
    pub fn masked<'c>(&self, carver: &mut Carver<'c>, width: usize) -> SliceMut<'c, f32> {
        let masks = self.dropouts.is_some_and(|dropouts| dropouts.probability > 0.0);
        carver.take(if masks { width } else { 0 }, self.tokens)
    }

    /// Room for the gradient of an output scaled by its gains; empty without magnitudes.
    pub fn scaled<'c>(&self, carver: &mut Carver<'c>, width: usize) -> SliceMut<'c, f32> {
        let scales = self.adapters.is_some_and(AdapterSet::has_magnitudes);
        carver.take(if scales { width } else { 0 }, self.tokens)
    }
}
