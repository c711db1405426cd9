//! Forward through one block.

use luthier_kernels::device::{
    AttentionSaved, Buffer, Dropout, FloatType, Linear, LowRank, Noise, Segments, Slice, SliceMut, Values, ValuesMut,
};
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

/// A block's saved values, as views of one buffer.
///
/// What later sums start from is `f32` on every device: reciprocal norms, the logs of attention's denominators, and
/// `middle`, which is the residual stream. The others are of the device's type.
pub(crate) struct Pieces<'b> {
    pub inverse_input: SliceMut<'b, f32>,
    pub inverse_middle: SliceMut<'b, f32>,
    /// Before the norm of heads; empty without one.
    pub query_raw: ValuesMut<'b>,
    pub key_raw: ValuesMut<'b>,
    pub inverse_query: SliceMut<'b, f32>,
    pub inverse_key: SliceMut<'b, f32>,
    pub query: ValuesMut<'b>,
    pub key: ValuesMut<'b>,
    pub value: ValuesMut<'b>,
    pub attended: ValuesMut<'b>,
    pub lse: SliceMut<'b, f32>,
    pub middle: SliceMut<'b, f32>,
    pub gate: ValuesMut<'b>,
    pub up: ValuesMut<'b>,
    /// What the adapters of the block keep.
    pub low: Kept<'b>,
}

/// What the adapters of a block keep, one after another.
pub(crate) struct Kept<'b> {
    /// `x · Aᵀ`.
    pub low: ValuesMut<'b>,
    /// With magnitudes: the product before it is scaled.
    pub raw: ValuesMut<'b>,
}

impl<'b> Pieces<'b> {
    pub fn new(buffer: &'b mut Buffer<u8>, widths: &BlockWidths, kind: FloatType, tokens: usize) -> Self {
        let mut carver = Carver::new(buffer.all_mut(), kind);
        let norms = usize::from(widths.head_norms);
        Self {
            inverse_input: carver.take_f32(1, tokens),
            inverse_middle: carver.take_f32(1, tokens),
            query_raw: carver.take(norms * widths.query, tokens),
            key_raw: carver.take(norms * widths.key, tokens),
            inverse_query: carver.take_f32(norms * widths.heads, tokens),
            inverse_key: carver.take_f32(norms * widths.kv_heads, tokens),
            query: carver.take(widths.query, tokens),
            key: carver.take(widths.key, tokens),
            value: carver.take(widths.key, tokens),
            attended: carver.take(widths.query, tokens),
            lse: carver.take_f32(widths.heads, tokens),
            middle: carver.take_f32(widths.hidden, tokens),
            gate: carver.take(widths.intermediate, tokens),
            up: carver.take(widths.intermediate, tokens),
            low: Kept { low: carver.take(widths.low, tokens), raw: carver.take(widths.raw, tokens) },
        }
    }

    pub fn attention(&self) -> AttentionSaved<'_> {
        AttentionSaved {
            q: self.query.freeze(),
            k: self.key.freeze(),
            v: self.value.freeze(),
            out: self.attended.freeze(),
            lse: self.lse.freeze(),
        }
    }
}

/// Hands out consecutive parts of an exclusive view.
pub(crate) struct Carver<'a> {
    rest: Option<SliceMut<'a, u8>>,
    kind: FloatType,
}

impl<'a> Carver<'a> {
    /// Parts of `all`; activations are `kind`.
    pub fn new(all: SliceMut<'a, u8>, kind: FloatType) -> Self {
        Self { rest: Some(all), kind }
    }

    fn bytes(&mut self, len: usize) -> SliceMut<'a, u8> {
        let Some(all) = self.rest.take() else { unreachable!("the carver always holds the rest") };
        let (piece, rest) = all.split_at(len);
        self.rest = Some(rest);
        piece
    }

    /// Exactly `len` floats.
    pub fn take_exact(&mut self, len: usize) -> SliceMut<'a, f32> {
        self.bytes(4 * len).cast()
    }

    /// `width · tokens` activations; the next part starts aligned.
    pub fn take(&mut self, width: usize, tokens: usize) -> ValuesMut<'a> {
        let bytes = self.bytes(self.kind.bytes() * width * stride(tokens));
        ValuesMut::new(bytes, self.kind).slice(..width * tokens)
    }

    /// `width · tokens` floats in `f32`; the next part starts aligned.
    pub fn take_f32(&mut self, width: usize, tokens: usize) -> SliceMut<'a, f32> {
        self.bytes(4 * width * stride(tokens)).cast().slice(..width * tokens)
    }

    /// All that is left.
    pub fn rest(self) -> SliceMut<'a, u8> {
        let Some(rest) = self.rest else { unreachable!("the carver always holds the rest") };
        rest
    }
}

/// Parts of a view in ascending order.
pub(super) struct Ascending<'a> {
    rest: Option<ValuesMut<'a>>,
    at: usize,
}

impl<'a> Ascending<'a> {
    pub fn new(all: ValuesMut<'a>) -> Self {
        Self { rest: Some(all), at: 0 }
    }

    /// # Panics
    /// If it starts before the end of the one before.
    pub fn take(&mut self, range: std::ops::Range<usize>) -> ValuesMut<'a> {
        let Some(rest) = self.rest.take() else { unreachable!("the rest is always held") };
        let (piece, rest) = rest.split_at(range.end - self.at);
        let piece = piece.slice(range.start - self.at..);
        (self.rest, self.at) = (Some(rest), range.end);
        piece
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
    pub fn factors(&self, slot: &Slot) -> Option<LowRank<'a>> {
        let params = self.adapters?.params();
        Some(LowRank {
            a: params.slice(slot.a_range()),
            b: params.slice(slot.b_range()),
            rank: slot.rank,
            scale: slot.scale,
            dropout: self.dropout(slot),
        })
    }

    /// `out = x · Wᵀ + bias + scale · (drop(x) · Aᵀ) · Bᵀ (+ residual)` for projections of one input, in their order; with
    /// magnitudes all but the bias is scaled by the gains.
    pub fn linears<const N: usize>(
        &self,
        layer: usize,
        x: Values<'_>,
        targets: [(Projection, ValuesMut<'_>); N],
        kept: &mut Kept<'_>,
        masked: &mut ValuesMut<'_>,
        residual: Option<Slice<'_, f32>>,
    ) {
        let device = self.decoder.device.as_ref();
        let scaled = |projection| self.slot(layer, projection).filter(|slot| self.gains(slot).is_some());
        if targets.iter().any(|(projection, _)| scaled(*projection).is_some()) {
            for (projection, out) in targets {
                match scaled(projection) {
                    Some(slot) => self.scaled_linear(slot, x, out, kept, masked, residual),
                    None => self.linears(layer, x, [(projection, out)], kept, masked, residual),
                }
            }
            return;
        }
        let mut low = Ascending::new(kept.low.borrow());
        let mut inputs = 0;
        let mut linears = targets.map(|(projection, out)| {
            let matrix = &self.block(layer).matrices[projection as usize];
            inputs = matrix.cols;
            Linear {
                weight: matrix.operand(),
                outputs: matrix.rows,
                bias: self.block(layer).biases[projection as usize].as_ref().map(Buffer::all),
                adapter: self
                    .slot(layer, projection)
                    .and_then(|slot| Some((self.factors(slot)?, low.take(self.low_range(slot))))),
                out,
            }
        });
        device.linear(x, [self.tokens, inputs], &mut linears, residual, masked);
    }

    /// A projection with magnitudes.
    ///
    /// With dropout, as in PEFT, the product that is scaled is that of the dropped input too, and what the base alone makes
    /// of the difference is added: `(x - x̃) · Wᵀ + g ⊙ (x̃ · Wᵀ + scale · x̃ · Aᵀ · Bᵀ)`.
    fn scaled_linear(
        &self,
        slot: &Slot,
        x: Values<'_>,
        mut out: ValuesMut<'_>,
        kept: &mut Kept<'_>,
        masked: &mut ValuesMut<'_>,
        residual: Option<Slice<'_, f32>>,
    ) {
        let device = self.decoder.device.as_ref();
        let Some((gains, _)) = self.gains(slot) else { return };
        self.unscaled(slot, x, kept, masked);
        let raw = kept.raw.freeze().slice(self.raw_range(slot));
        if let Some(residual) = residual {
            device.copy(residual.into(), out.borrow());
        }
        device.scale_columns(raw, gains, residual.is_some(), out.borrow());
        if self.dropout(slot).is_some() {
            let mut rest = masked.borrow().slice(..x.len());
            device.scale(-1.0, rest.borrow());
            device.add(x, rest.borrow());
            let matrix = &self.block(slot.layer).matrices[slot.projection as usize];
            let shape = [self.tokens, slot.outputs, slot.inputs];
            device.matmul_nt(rest.freeze(), matrix.operand(), shape, 1.0, true, out.borrow());
        }
        if let Some(bias) = &self.block(slot.layer).biases[slot.projection as usize] {
            device.add_bias(bias.all(), out);
        }
    }

    /// `raw = x̃ · Wᵀ + scale · (x̃ · Aᵀ) · Bᵀ`, and `low` with it; leaves `x̃ = drop(x)` in `masked`, with dropout.
    fn unscaled(&self, slot: &Slot, x: Values<'_>, kept: &mut Kept<'_>, masked: &mut ValuesMut<'_>) {
        let device = self.decoder.device.as_ref();
        let Some(factors) = self.factors(slot) else { return };
        let weight = self.block(slot.layer).matrices[slot.projection as usize].operand();
        let mut low = kept.low.borrow().slice(self.low_range(slot));
        let mut out = kept.raw.borrow().slice(self.raw_range(slot));
        let outputs = slot.outputs;
        if factors.dropout.is_none() {
            let linear = Linear { weight, outputs, bias: None, adapter: Some((factors, low)), out };
            return device.linear(x, [self.tokens, slot.inputs], &mut [linear], None, masked);
        }
        device.linear_reduce(x, [self.tokens, slot.inputs], &mut [(factors, low.borrow())], masked);
        let x = masked.freeze().slice(..x.len());
        device.matmul_nt(x, weight, [self.tokens, outputs, slot.inputs], 1.0, false, out.borrow());
        device.matmul_nt(low.freeze(), factors.b.into(), [self.tokens, outputs, slot.rank], slot.scale, true, out);
    }

    /// From the block's input to rotated q and k, and v.
    pub fn project(&self, layer: usize, x: Slice<'_, f32>, saved: &mut Pieces<'_>, arena: SliceMut<'_, u8>) {
        let device = self.decoder.device.as_ref();
        let config = &self.decoder.config;
        let block = self.block(layer);
        let mut carver = self.carver(arena);
        let mut normed = carver.take(config.hidden_size, self.tokens);
        let mut masked = self.masked(&mut carver, config.hidden_size);
        let eps = self.decoder.eps();
        device.rms_norm(x.into(), block.input_norm.all(), eps, normed.borrow(), saved.inverse_input.borrow());
        let Pieces { query_raw, key_raw, query, key, value, low, .. } = saved;
        let (first, second) = if block.head_norms.is_some() {
            (query_raw.borrow(), key_raw.borrow())
        } else {
            (query.borrow(), key.borrow())
        };
        let targets = [(Projection::Query, first), (Projection::Key, second), (Projection::Value, value.borrow())];
        self.linears(layer, normed.freeze(), targets, low, &mut masked, None);
        if let Some([query_norm, key_norm]) = &block.head_norms {
            let (query, key) = (saved.query.borrow(), saved.key.borrow());
            device.rms_norm(saved.query_raw.freeze(), query_norm.all(), eps, query, saved.inverse_query.borrow());
            device.rms_norm(saved.key_raw.freeze(), key_norm.all(), eps, key, saved.inverse_key.borrow());
        }
        device.rope(self.positions, config.heads, &self.decoder.rotary, false, saved.query.borrow());
        device.rope(self.positions, config.kv_heads, &self.decoder.rotary, false, saved.key.borrow());
    }

    /// Attention of the packed sequences among themselves.
    pub fn attend(&self, saved: &mut Pieces<'_>, arena: SliceMut<'_, u8>) {
        let device = self.decoder.device.as_ref();
        let shape = self.decoder.attention_shape();
        let (query, key, value) = (saved.query.freeze(), saved.key.freeze(), saved.value.freeze());
        let Some(shared) = &self.shared else {
            let (out, lse) = (saved.attended.borrow(), saved.lse.borrow());
            device.attention(query, key, value, self.segments, shape, out, lse);
            return;
        };
        let mut carver = self.carver(arena);
        let (query, key, value) = self.whole(&mut carver, query, key, value);
        let whole = shared.kept_of_whole.len();
        let mut out = carver.take(shape.query_width(), whole);
        let mut lse = carver.take_f32(shape.heads, whole);
        let (q, k, v) = (query.freeze(), key.freeze(), value.freeze());
        device.attention(q, k, v, self.segments, shape, out.borrow(), lse.borrow());
        device.gather_rows(out.freeze(), shared.whole_of_kept, shape.query_width(), saved.attended.borrow());
        device.gather_rows(lse.freeze().into(), shared.whole_of_kept, shape.heads, saved.lse.borrow().into());
    }

    /// q, k and v of the whole sequences.
    pub fn whole<'c>(
        &self,
        carver: &mut Carver<'c>,
        query: Values<'_>,
        key: Values<'_>,
        value: Values<'_>,
    ) -> (ValuesMut<'c>, ValuesMut<'c>, ValuesMut<'c>) {
        let shape = self.decoder.attention_shape();
        let mut expand = |x: Values<'_>, width: usize| self.expand(carver, x, width);
        (expand(query, shape.query_width()), expand(key, shape.key_width()), expand(value, shape.key_width()))
    }

    /// `x` of the whole sequences.
    pub fn expand<'c>(&self, carver: &mut Carver<'c>, x: Values<'_>, width: usize) -> ValuesMut<'c> {
        let Some(shared) = &self.shared else { return carver.take(0, 0) };
        let mut out = carver.take(width, shared.kept_of_whole.len());
        self.decoder.device.gather_rows(x, shared.kept_of_whole, width, out.borrow());
        out
    }

    /// From attention's output to gate and up.
    pub fn widen(&self, layer: usize, x: Slice<'_, f32>, saved: &mut Pieces<'_>, arena: SliceMut<'_, u8>) {
        let device = self.decoder.device.as_ref();
        let config = &self.decoder.config;
        let mut carver = self.carver(arena);
        let mut normed = carver.take(config.hidden_size, self.tokens);
        let mut masked = self.masked(&mut carver, config.hidden_size.max(config.query_size()));
        let Pieces { attended, middle, inverse_middle, gate, up, low, .. } = saved;
        let target = [(Projection::Output, middle.borrow().into())];
        self.linears(layer, attended.freeze(), target, low, &mut masked, Some(x));
        let norm = self.block(layer).middle_norm.all();
        let inverse = inverse_middle.borrow();
        device.rms_norm(middle.freeze().into(), norm, self.decoder.eps(), normed.borrow(), inverse);
        let targets = [(Projection::Gate, gate.borrow()), (Projection::Up, up.borrow())];
        self.linears(layer, normed.freeze(), targets, low, &mut masked, None);
    }

    /// From gate and up to the next block's input.
    pub fn narrow(&self, layer: usize, saved: &mut Pieces<'_>, arena: SliceMut<'_, u8>, out: SliceMut<'_, f32>) {
        let device = self.decoder.device.as_ref();
        let intermediate = self.decoder.config.intermediate_size;
        let mut carver = self.carver(arena);
        let mut active = carver.take(intermediate, self.tokens);
        let mut masked = self.masked(&mut carver, intermediate);
        device.swiglu(saved.gate.freeze(), saved.up.freeze(), active.borrow());
        let target = [(Projection::Down, out.into())];
        let residual = Some(saved.middle.freeze());
        self.linears(layer, active.freeze(), target, &mut saved.low, &mut masked, residual);
    }

    /// What the down projection's adapter keeps, which is all that recomputation needs of it.
    pub fn down_kept(&self, slot: &Slot, saved: &mut Pieces<'_>, arena: SliceMut<'_, u8>) {
        let device = self.decoder.device.as_ref();
        let mut carver = self.carver(arena);
        let mut active = carver.take(slot.inputs, self.tokens);
        let mut masked = self.masked(&mut carver, slot.inputs);
        device.swiglu(saved.gate.freeze(), saved.up.freeze(), active.borrow());
        if self.gains(slot).is_some() {
            self.unscaled(slot, active.freeze(), &mut saved.low, &mut masked);
        } else if let Some(factors) = self.factors(slot) {
            let low = saved.low.low.borrow().slice(self.low_range(slot));
            device.linear_reduce(active.freeze(), [self.tokens, slot.inputs], &mut [(factors, low)], &mut masked);
        }
    }

    /// Parts of the arena.
    pub fn carver<'c>(&self, arena: SliceMut<'c, u8>) -> Carver<'c> {
        Carver::new(arena, self.decoder.device.activation_type())
    }

    /// Room for an input with dropout applied; empty without dropout.
    pub fn masked<'c>(&self, carver: &mut Carver<'c>, width: usize) -> ValuesMut<'c> {
        let masks = self.dropouts.is_some_and(|dropouts| dropouts.probability > 0.0);
        carver.take(if masks { width } else { 0 }, self.tokens)
    }

    /// Room for the gradient of an output scaled by its gains; empty without magnitudes.
    pub fn scaled<'c>(&self, carver: &mut Carver<'c>, width: usize) -> ValuesMut<'c> {
        let scales = self.adapters.is_some_and(AdapterSet::has_magnitudes);
        carver.take(if scales { width } else { 0 }, self.tokens)
    }
}
