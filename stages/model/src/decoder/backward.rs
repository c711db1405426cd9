//! Backward through one block.
//!
//! `gradient` comes in as the gradient of the block's output and goes out as that of its input; the residual
//! connections leave it in place. Gradients of the adapters are bracketed through the rank, so no matrix of a weight's
//! shape is ever formed (`s` is the scale, `x̃` the input with dropout):
//!
//! ```text
//! dB = s · dyᵀ · (x̃ Aᵀ)      t = dy · B      dA = s · tᵀ · x̃      dx += s · drop(t · A)
//! ```
//! With magnitudes `m` the output is `g ⊙ u` with `g = m / n`, `n` the norms of the rows: `dm = Σ dy ⊙ u / n`, and the rest
//! goes on with `g ⊙ dy` in place of `dy`. With dropout too, the base's part of it goes through the dropout:
//!
//! ```text
//! dx = dy · W + drop(((g - 1) ⊙ dy) · W + s · t · A)
//! ```

use luthier_kernels::device::{
    AdapterBackward, AttentionSaved, Buffer, FloatType, LinearBackward, LinearScratch, LowRank, Slice, SliceMut,
    Values, ValuesMut,
};

use super::block::{Ascending, Carver, Kept, Pass, Pieces};
use super::sizes::through_width;
use crate::adapter::Slot;
use crate::projection::Projection;

/// Gradients of the adapters, laid out like the parameters.
pub(crate) struct Gradients<'a> {
    pub buffer: &'a mut Buffer<f32>,
    /// Add to what is there: any but the first micro-batch of a step.
    pub accumulate: bool,
}

/// How far down the lowest block's backward must go: nothing below the lowest adapter needs a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Depth {
    /// Only the gradient of the down projection's adapter.
    Down,
    GateUp,
    Output,
    QueryKeyValue,
    /// All the way to the block's input.
    Input,
}

impl Depth {
    /// Of the lowest adapted block.
    pub fn of(pass: &Pass<'_>, layer: usize) -> Self {
        let has = |projections: &[Projection]| projections.iter().any(|one| pass.slot(layer, *one).is_some());
        if has(&[Projection::Query, Projection::Key, Projection::Value]) {
            Self::QueryKeyValue
        } else if has(&[Projection::Output]) {
            Self::Output
        } else if has(&[Projection::Gate, Projection::Up]) {
            Self::GateUp
        } else {
            Self::Down
        }
    }
}

/// Projections of one input, in backward.
#[derive(Clone, Copy)]
struct Site<'a, const N: usize> {
    layer: usize,
    /// Their input.
    x: Values<'a>,
    /// With the gradients of their outputs.
    targets: [(Projection, Values<'a>); N],
    kept: &'a Kept<'a>,
}

/// What a projection's backward writes to and forgets.
struct Temporaries<'a> {
    scratch: LinearScratch<'a>,
    scaled: ValuesMut<'a>,
}

impl Pass<'_> {
    /// Adds to the adapters' gradients, and to `dx` if it is wanted (`dx.1` says to add rather than overwrite).
    fn linears_backward<const N: usize>(
        &self,
        site: &Site<'_, N>,
        gradients: &mut Gradients<'_>,
        temporaries: &mut Temporaries<'_>,
        mut dx: Option<(ValuesMut<'_>, bool)>,
    ) {
        let Site { layer, x, kept, .. } = *site;
        let magnitude = |projection| self.slot(layer, projection).and_then(|slot| Some((slot, slot.magnitude?)));
        if site.targets.iter().any(|(projection, _)| magnitude(*projection).is_some()) {
            for target in site.targets {
                let dx = dx.as_mut().map(|(dx, add)| (dx.borrow(), std::mem::replace(add, true)));
                let site = Site { layer, x, targets: [target], kept };
                match magnitude(target.0) {
                    Some((slot, start)) => self.scaled_backward(&site, slot, start, gradients, temporaries, dx),
                    None => self.plain_backward(&site, gradients, &mut temporaries.scratch, dx),
                }
            }
            return;
        }
        self.plain_backward(site, gradients, &mut temporaries.scratch, dx);
    }

    /// Of one projection with magnitudes, which start at `start` in the parameters.
    fn scaled_backward(
        &self,
        site: &Site<'_, 1>,
        slot: &Slot,
        start: usize,
        gradients: &mut Gradients<'_>,
        temporaries: &mut Temporaries<'_>,
        dx: Option<(ValuesMut<'_>, bool)>,
    ) {
        let device = self.decoder.device.as_ref();
        let [(projection, dy)] = site.targets;
        let Some((gains, inverse)) = self.gains(slot) else { return };
        let raw = site.kept.raw.freeze().slice(self.raw_range(slot));
        let grad = gradients.buffer.slice_mut(start..start + slot.outputs);
        device.column_dots(dy, raw, inverse, gradients.accumulate, grad);
        let Temporaries { scratch, scaled } = temporaries;
        let mut scaled = scaled.borrow().slice(..slot.outputs * self.tokens);
        device.scale_columns(dy, gains, false, scaled.borrow());
        let scaled_site = Site { targets: [(projection, scaled.freeze())], ..*site };
        let Some(dropout) = self.dropout(slot) else {
            return self.plain_backward(&scaled_site, gradients, scratch, dx);
        };
        self.plain_backward(&scaled_site, gradients, scratch, None);
        let Some((mut dx, accumulate)) = dx else { return };
        let Some(LowRank { a, rank, scale, .. }) = self.factors(slot) else { return };
        let weight = self.block(site.layer).matrices[projection as usize].operand();
        let shape = [self.tokens, slot.outputs, slot.inputs];
        device.matmul_nn(dy, weight, shape, 1.0, accumulate, dx.borrow());
        let through = scratch.through.freeze().slice(..rank * self.tokens);
        let mut masked = scratch.masked.borrow().slice(..site.x.len());
        device.matmul_nn(through, a.into(), [self.tokens, rank, slot.inputs], scale, false, masked.borrow());
        device.scale(-1.0, scaled.borrow());
        device.add(dy, scaled.borrow());
        device.matmul_nn(scaled.freeze(), weight, shape, -1.0, true, masked.borrow());
        device.dropout(masked.freeze(), dropout, true, dx);
    }

    fn plain_backward<const N: usize>(
        &self,
        site: &Site<'_, N>,
        gradients: &mut Gradients<'_>,
        scratch: &mut LinearScratch<'_>,
        dx: Option<(ValuesMut<'_>, bool)>,
    ) {
        let layer = site.layer;
        // All `A` come before all `B` in the parameters, each in the order of the projections.
        let mut parts = Ascending::new(gradients.buffer.all_mut().into());
        let slots = site.targets.map(|(projection, _)| self.slot(layer, projection));
        let grads_a = slots.map(|slot| slot.map(|slot| parts.take(slot.a_range()).f32()));
        let mut grads = slots.iter().zip(grads_a).map(|(slot, grad_a)| {
            slot.and_then(|slot| Some((slot, self.factors(slot)?, grad_a?, parts.take(slot.b_range()).f32())))
        });
        let mut inputs = 0;
        let mut linears = site.targets.map(|(projection, dy)| {
            let matrix = &self.block(layer).matrices[projection as usize];
            inputs = matrix.cols;
            let adapter = grads.next().flatten().map(|(slot, factors, grad_a, grad_b)| AdapterBackward {
                factors,
                low: site.kept.low.freeze().slice(self.low_range(slot)),
                grad_a,
                grad_b,
            });
            LinearBackward { weight: matrix.operand(), outputs: matrix.rows, dy, adapter }
        });
        let (device, shape) = (self.decoder.device.as_ref(), [self.tokens, inputs]);
        device.linear_backward(site.x, shape, &mut linears, gradients.accumulate, scratch, dx);
    }

    /// The gradient that travels down as products take it: on a device whose activations are narrower than `f32`, a copy
    /// at the start of `place`.
    fn narrowed<'c>(&self, place: SliceMut<'c, u8>, gradient: &'c SliceMut<'_, f32>) -> Values<'c> {
        let device = self.decoder.device.as_ref();
        let kind = device.activation_type();
        if kind == FloatType::F32 {
            return gradient.freeze().into();
        }
        let mut copy = ValuesMut::new(place.slice(..kind.bytes() * gradient.len()), kind);
        device.copy(gradient.freeze().into(), copy.borrow());
        copy.into_shared()
    }

    /// From the gradient of the block's output to that of `middle`, in place. Gate and up become their gradients.
    pub fn feed_forward_backward(
        &self,
        layer: usize,
        depth: Depth,
        saved: &mut Pieces<'_>,
        gradients: &mut Gradients<'_>,
        arena: SliceMut<'_, u8>,
        gradient: &mut SliceMut<'_, f32>,
    ) {
        let device = self.decoder.device.as_ref();
        let config = &self.decoder.config;
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let mut carver = self.carver(arena);
        let mut slopes = carver.take(intermediate, self.tokens);
        let mut temporaries = self.temporaries(&mut carver, hidden.max(intermediate));
        let mut rest = carver.rest();
        {
            let mut carver = self.carver(rest.borrow());
            let mut active = carver.take(intermediate, self.tokens);
            if self.slot(layer, Projection::Down).is_some() {
                device.swiglu(saved.gate.freeze(), saved.up.freeze(), active.borrow());
            }
            let dy = self.narrowed(carver.rest(), gradient);
            let site = Site { layer, x: active.freeze(), targets: [(Projection::Down, dy)], kept: &saved.low };
            let dx = (depth > Depth::Down).then(|| (slopes.borrow(), false));
            self.linears_backward(&site, gradients, &mut temporaries, dx);
        }
        if depth == Depth::Down {
            return;
        }
        device.swiglu_backward(saved.gate.borrow(), saved.up.freeze(), slopes.borrow());
        let mut carver = self.carver(rest);
        let mut normed = carver.take(hidden, self.tokens);
        let mut dnormed = carver.take_f32(hidden, self.tokens);
        let adapted = [Projection::Gate, Projection::Up].iter().any(|one| self.slot(layer, *one).is_some());
        let norm = self.block(layer).middle_norm.all();
        if adapted {
            // The inverse comes out as it was saved; what comes next is free to take it.
            let inverse = dnormed.borrow().slice(..self.tokens);
            device.rms_norm(saved.middle.freeze().into(), norm, self.decoder.eps(), normed.borrow(), inverse);
        }
        let targets = [(Projection::Gate, saved.gate.freeze()), (Projection::Up, slopes.freeze())];
        let site = Site { layer, x: normed.freeze(), targets, kept: &saved.low };
        let dx = (depth > Depth::GateUp).then(|| (dnormed.borrow().into(), false));
        self.linears_backward(&site, gradients, &mut temporaries, dx);
        if depth > Depth::GateUp {
            let (middle, inverse, dy) =
                (saved.middle.freeze().into(), saved.inverse_middle.freeze(), dnormed.freeze().into());
            device.rms_norm_backward(middle, norm, inverse, dy, true, gradient.borrow().into());
        }
    }

    /// From the gradient of `middle` to that of the block's input `x`, in place.
    #[expect(clippy::too_many_arguments, reason = "the operands of the operation")]
    pub fn attention_backward(
        &self,
        layer: usize,
        depth: Depth,
        x: Slice<'_, f32>,
        saved: &Pieces<'_>,
        gradients: &mut Gradients<'_>,
        arena: SliceMut<'_, u8>,
        gradient: &mut SliceMut<'_, f32>,
    ) {
        if depth < Depth::Output {
            return;
        }
        let device = self.decoder.device.as_ref();
        let config = &self.decoder.config;
        let (hidden, query, key) = (config.hidden_size, config.query_size(), config.key_value_size());
        let (tokens, kept, block) = (self.tokens, &saved.low, self.block(layer));
        let mut carver = self.carver(arena);
        let mut dattended = carver.take(query, tokens);
        let mut dquery = carver.take(query, tokens);
        let mut dkey = carver.take(key, tokens);
        let mut dvalue = carver.take(key, tokens);
        let mut spare = carver.take(if block.head_norms.is_some() { key } else { 0 }, tokens);
        let mut normed = carver.take(hidden, tokens);
        let mut dnormed = carver.take_f32(hidden, tokens);
        let mut temporaries = self.temporaries(&mut carver, hidden.max(query));
        {
            let dy = self.narrowed(dnormed.borrow().into_bytes(), gradient);
            let targets = [(Projection::Output, dy)];
            let site = Site { layer, x: saved.attended.freeze(), targets, kept };
            let dx = (depth > Depth::Output).then(|| (dattended.borrow(), false));
            self.linears_backward(&site, gradients, &mut temporaries, dx);
        }
        if depth == Depth::Output {
            return;
        }
        let outputs = [dquery.borrow(), dkey.borrow(), dvalue.borrow()];
        self.attention_core_backward(saved, dattended.freeze(), &mut carver, outputs);
        device.rope(self.positions, config.heads, &self.decoder.rotary, true, dquery.borrow());
        device.rope(self.positions, config.kv_heads, &self.decoder.rotary, true, dkey.borrow());
        if let Some([query_norm, key_norm]) = &block.head_norms {
            let (raw, inverse, dy) = (saved.query_raw.freeze(), saved.inverse_query.freeze(), dquery.freeze());
            device.rms_norm_backward(raw, query_norm.all(), inverse, dy, false, dattended.borrow());
            let (raw, inverse, dy) = (saved.key_raw.freeze(), saved.inverse_key.freeze(), dkey.freeze());
            device.rms_norm_backward(raw, key_norm.all(), inverse, dy, false, spare.borrow());
            (dattended, dquery) = (dquery, dattended);
            (spare, dkey) = (dkey, spare);
        }
        let _ = (dattended, spare);
        let projections = [Projection::Query, Projection::Key, Projection::Value];
        let norm = block.input_norm.all();
        if projections.iter().any(|one| self.slot(layer, *one).is_some()) {
            let inverse = dnormed.borrow().slice(..tokens);
            device.rms_norm(x.into(), norm, self.decoder.eps(), normed.borrow(), inverse);
        }
        let targets = [
            (Projection::Query, dquery.freeze()),
            (Projection::Key, dkey.freeze()),
            (Projection::Value, dvalue.freeze()),
        ];
        let site = Site { layer, x: normed.freeze(), targets, kept };
        let dx = (depth == Depth::Input).then(|| (dnormed.borrow().into(), false));
        self.linears_backward(&site, gradients, &mut temporaries, dx);
        if depth == Depth::Input {
            let (inverse, dy) = (saved.inverse_input.freeze(), dnormed.freeze().into());
            device.rms_norm_backward(x.into(), norm, inverse, dy, true, gradient.borrow().into());
        }
    }

    /// Through attention alone; with a shared prefix, over the whole sequences, whose gradients are then summed.
    fn attention_core_backward<'c>(
        &self,
        saved: &Pieces<'_>,
        dout: Values<'_>,
        carver: &mut Carver<'c>,
        [dquery, dkey, dvalue]: [ValuesMut<'_>; 3],
    ) {
        let device = self.decoder.device.as_ref();
        let shape = self.decoder.attention_shape();
        let Some(shared) = &self.shared else {
            device.attention_backward(saved.attention(), dout, self.segments, shape, dquery, dkey, dvalue);
            return;
        };
        let whole = shared.kept_of_whole.len();
        let (query_width, key_width) = (shape.query_width(), shape.key_width());
        let forward = saved.attention();
        let (query, key, value) = self.whole(carver, forward.q, forward.k, forward.v);
        let out = self.expand(carver, forward.out, query_width);
        let mut lse = carver.take_f32(shape.heads, whole);
        device.gather_rows(forward.lse.into(), shared.kept_of_whole, shape.heads, lse.borrow().into());
        // A repeated row is one row: its output's gradient counts once, those of its key and value are summed.
        let mut dout_whole = carver.take(query_width, whole);
        device.gather_rows(dout, shared.kept_once, query_width, dout_whole.borrow());
        let mut gradients =
            [carver.take(query_width, whole), carver.take(key_width, whole), carver.take(key_width, whole)];
        let forward = AttentionSaved {
            q: query.freeze(),
            k: key.freeze(),
            v: value.freeze(),
            out: out.freeze(),
            lse: lse.freeze(),
        };
        let [q, k, v] = &mut gradients;
        device.attention_backward(
            forward,
            dout_whole.freeze(),
            self.segments,
            shape,
            q.borrow(),
            k.borrow(),
            v.borrow(),
        );
        for (whole, width, out) in
            [(&gradients[0], query_width, dquery), (&gradients[1], key_width, dkey), (&gradients[2], key_width, dvalue)]
        {
            device.sum_rows(whole.freeze(), shared.offsets, shared.repeats, width, out);
        }
    }

    fn temporaries<'c>(&self, carver: &mut Carver<'c>, width: usize) -> Temporaries<'c> {
        let device = self.decoder.device.as_ref();
        Temporaries {
            scratch: LinearScratch {
                through: carver.take(through_width(device.activation_type(), self.widest_rank()), self.tokens),
                masked: self.masked(carver, width),
            },
            scaled: self.scaled(carver, width),
        }
    }

    fn widest_rank(&self) -> usize {
        self.adapters.map_or(0, |set| set.slots().iter().map(|slot| slot.rank).max().unwrap_or(0))
    }
}
