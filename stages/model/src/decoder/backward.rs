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

use luthier_kernels::device::{AttentionSaved, Buffer, Slice, SliceMut};

use super::block::{Carver, Kept, Pass, Pieces};
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

/// A projection's inputs to backward.
struct Site<'a> {
    layer: usize,
    projection: Projection,
    /// Its input.
    x: Slice<'a, f32>,
    /// The gradient of its output.
    dy: Slice<'a, f32>,
    kept: Kept<Slice<'a, f32>>,
}

/// What a projection's backward writes to and forgets.
struct Temporaries<'a> {
    through: SliceMut<'a, f32>,
    masked: SliceMut<'a, f32>,
    scaled: SliceMut<'a, f32>,
}

impl Pass<'_> {
    /// Adds to the adapter's gradients, and to `dx` if it is wanted (`dx.1` says to add rather than overwrite).
    fn linear_backward(
        &self,
        site: &Site<'_>,
        gradients: &mut Gradients<'_>,
        temporaries: &mut Temporaries<'_>,
        dx: Option<(SliceMut<'_, f32>, bool)>,
    ) {
        let device = self.decoder.device.as_ref();
        let matrix = &self.block(site.layer).matrices[site.projection as usize];
        let (tokens, outputs, inputs) = (self.tokens, matrix.rows, matrix.cols);
        let Temporaries { through, masked, scaled } = temporaries;
        let slot = self.slot(site.layer, site.projection);
        let dropout = slot.and_then(|slot| self.dropout(slot));
        let magnified = slot.and_then(|slot| Some((slot, slot.magnitude?, self.gains(slot)?)));
        let split = dropout.is_some() && magnified.is_some();
        let mut scaled = scaled.borrow().slice(..if magnified.is_some() { outputs * tokens } else { 0 });
        if let Some((slot, start, (gains, inverse))) = magnified {
            let raw = site.kept.raw.slice(self.raw_range(slot));
            let grad = gradients.buffer.slice_mut(start..start + outputs);
            device.column_dots(site.dy, raw, inverse, gradients.accumulate, grad);
            device.scale_columns(site.dy, gains, false, scaled.borrow());
        }
        let dy = if magnified.is_some() { scaled.freeze() } else { site.dy };
        let mut dx = dx.map(|(mut dx, accumulate)| {
            let dy = if split { site.dy } else { dy };
            device.matmul_nn(dy, matrix.operand(), [tokens, outputs, inputs], 1.0, accumulate, dx.borrow());
            dx
        });
        let Some(slot) = slot else { return };
        let Some((a, b)) = self.factors(slot) else { return };
        let (rank, scale, accumulate) = (slot.rank, slot.scale, gradients.accumulate);
        let low = site.kept.low.slice(self.low_range(slot));
        let grad_b = gradients.buffer.slice_mut(slot.b_range());
        device.matmul_tn(dy, low, [tokens, outputs, rank], scale, accumulate, grad_b);
        let mut through = through.borrow().slice(..rank * tokens);
        device.matmul_nn(dy, b, [tokens, outputs, rank], 1.0, false, through.borrow());
        let through = through.freeze();
        let grad_a = gradients.buffer.slice_mut(slot.a_range());
        let down = [tokens, rank, inputs];
        match dropout {
            None => {
                device.matmul_tn(through, site.x, down, scale, accumulate, grad_a);
                if let Some(dx) = &mut dx {
                    device.matmul_nn(through, a, down, scale, true, dx.borrow());
                }
            }
            Some(dropout) => {
                let mut masked = masked.borrow().slice(..site.x.len());
                device.dropout(site.x, dropout, false, masked.borrow());
                device.matmul_tn(through, masked.freeze(), down, scale, accumulate, grad_a);
                let Some(dx) = &mut dx else { return };
                device.matmul_nn(through, a, down, scale, false, masked.borrow());
                if split {
                    device.scale(-1.0, scaled.borrow());
                    device.add(site.dy, scaled.borrow());
                    let less = scaled.freeze();
                    let shape = [tokens, outputs, inputs];
                    device.matmul_nn(less, matrix.operand(), shape, -1.0, true, masked.borrow());
                }
                device.dropout(masked.freeze(), dropout, true, dx.borrow());
            }
        }
    }

    /// From the gradient of the block's output to that of `middle`, in place.
    pub fn feed_forward_backward(
        &self,
        layer: usize,
        depth: Depth,
        saved: &Pieces<Slice<'_, f32>>,
        gradients: &mut Gradients<'_>,
        arena: SliceMut<'_, f32>,
        gradient: &mut SliceMut<'_, f32>,
    ) {
        let device = self.decoder.device.as_ref();
        let config = &self.decoder.config;
        let (hidden, intermediate, kept) = (config.hidden_size, config.intermediate_size, saved.low);
        let mut carver = Carver::new(arena);
        let mut first = carver.take(intermediate, self.tokens);
        let mut second = carver.take(intermediate, self.tokens);
        let mut third = carver.take(intermediate, self.tokens);
        let mut normed = carver.take(hidden, self.tokens);
        let mut temporaries = self.temporaries(&mut carver, hidden.max(intermediate));

        if self.slot(layer, Projection::Down).is_some() {
            device.swiglu(saved.gate, saved.up, first.borrow());
        }
        let site = Site { layer, projection: Projection::Down, x: first.freeze(), dy: gradient.freeze(), kept };
        let dx = (depth > Depth::Down).then(|| (second.borrow(), false));
        self.linear_backward(&site, gradients, &mut temporaries, dx);
        if depth == Depth::Down {
            return;
        }
        device.swiglu_backward(saved.gate, saved.up, second.freeze(), first.borrow(), third.borrow());
        let adapted = [Projection::Gate, Projection::Up].iter().any(|one| self.slot(layer, *one).is_some());
        let norm = self.block(layer).middle_norm.all();
        if adapted {
            // The inverse comes out as it was saved; `second` is free to take it.
            let inverse = second.borrow().slice(..self.tokens);
            device.rms_norm(saved.middle, norm, self.decoder.eps(), normed.borrow(), inverse);
        }
        let mut dnormed = second.slice(..hidden * self.tokens);
        for (projection, dy, accumulate) in [(Projection::Gate, &first, false), (Projection::Up, &third, true)] {
            let site = Site { layer, projection, x: normed.freeze(), dy: dy.freeze(), kept };
            let dx = (depth > Depth::GateUp).then(|| (dnormed.borrow(), accumulate));
            self.linear_backward(&site, gradients, &mut temporaries, dx);
        }
        if depth > Depth::GateUp {
            let (inverse, dy) = (saved.inverse_middle, dnormed.freeze());
            device.rms_norm_backward(saved.middle, norm, inverse, dy, true, gradient.borrow());
        }
    }

    /// From the gradient of `middle` to that of the block's input `x`, in place.
    #[expect(clippy::too_many_arguments, reason = "the operands of the operation")]
    pub fn attention_backward(
        &self,
        layer: usize,
        depth: Depth,
        x: Slice<'_, f32>,
        saved: &Pieces<Slice<'_, f32>>,
        gradients: &mut Gradients<'_>,
        arena: SliceMut<'_, f32>,
        gradient: &mut SliceMut<'_, f32>,
    ) {
        if depth < Depth::Output {
            return;
        }
        let device = self.decoder.device.as_ref();
        let config = &self.decoder.config;
        let (hidden, query, key) = (config.hidden_size, config.query_size(), config.key_value_size());
        let (tokens, kept, block) = (self.tokens, saved.low, self.block(layer));
        let mut carver = Carver::new(arena);
        let mut dattended = carver.take(query, tokens);
        let mut dquery = carver.take(query, tokens);
        let mut dkey = carver.take(key, tokens);
        let mut dvalue = carver.take(key, tokens);
        let mut spare = carver.take(if block.head_norms.is_some() { key } else { 0 }, tokens);
        let mut normed = carver.take(hidden, tokens);
        let mut dnormed = carver.take(hidden, tokens);
        let mut temporaries = self.temporaries(&mut carver, hidden.max(query));

        let dy = gradient.freeze();
        let site = Site { layer, projection: Projection::Output, x: saved.attended, dy, kept };
        let dx = (depth > Depth::Output).then(|| (dattended.borrow(), false));
        self.linear_backward(&site, gradients, &mut temporaries, dx);
        if depth == Depth::Output {
            return;
        }
        let outputs = [dquery.borrow(), dkey.borrow(), dvalue.borrow()];
        self.attention_core_backward(saved, dattended.freeze(), &mut carver, outputs);
        device.rope(self.positions, config.heads, &self.decoder.rotary, true, dquery.borrow());
        device.rope(self.positions, config.kv_heads, &self.decoder.rotary, true, dkey.borrow());
        if let Some([query_norm, key_norm]) = &block.head_norms {
            let (inverse, dy) = (saved.inverse_query, dquery.freeze());
            device.rms_norm_backward(saved.query_raw, query_norm.all(), inverse, dy, false, dattended.borrow());
            let (inverse, dy) = (saved.inverse_key, dkey.freeze());
            device.rms_norm_backward(saved.key_raw, key_norm.all(), inverse, dy, false, spare.borrow());
            (dattended, dquery) = (dquery, dattended);
            (spare, dkey) = (dkey, spare);
        }
        let _ = (dattended, spare);
        let projections = [Projection::Query, Projection::Key, Projection::Value];
        let norm = block.input_norm.all();
        if projections.iter().any(|one| self.slot(layer, *one).is_some()) {
            let inverse = dnormed.borrow().slice(..tokens);
            device.rms_norm(x, norm, self.decoder.eps(), normed.borrow(), inverse);
        }
        for (projection, dy) in projections.into_iter().zip([&dquery, &dkey, &dvalue]) {
            let site = Site { layer, projection, x: normed.freeze(), dy: dy.freeze(), kept };
            let accumulate = projection != Projection::Query;
            let dx = (depth == Depth::Input).then(|| (dnormed.borrow(), accumulate));
            self.linear_backward(&site, gradients, &mut temporaries, dx);
        }
        if depth == Depth::Input {
            let (inverse, dy) = (saved.inverse_input, dnormed.freeze());
            device.rms_norm_backward(x, norm, inverse, dy, true, gradient.borrow());
        }
    }

    /// Through attention alone; with a shared prefix, over the whole sequences, whose gradients are then summed.
    fn attention_core_backward<'c>(
        &self,
        saved: &Pieces<Slice<'_, f32>>,
        dout: Slice<'_, f32>,
        carver: &mut Carver<'c>,
        [dquery, dkey, dvalue]: [SliceMut<'_, f32>; 3],
    ) {
        let device = self.decoder.device.as_ref();
        let shape = self.decoder.attention_shape();
        let Some(shared) = &self.shared else {
            device.attention_backward(saved.attention(), dout, self.segments, shape, dquery, dkey, dvalue);
            return;
        };
        let whole = shared.kept_of_whole.len();
        let (query_width, key_width) = (shape.query_width(), shape.key_width());
        let (query, key, value) = self.whole(carver, saved.query, saved.key, saved.value);
        let out = self.expand(carver, saved.attended, query_width);
        let lse = self.expand(carver, saved.lse, shape.heads);
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
        Temporaries {
            through: carver.take(self.widest_rank(), self.tokens),
            masked: self.masked(carver, width),
            scaled: self.scaled(carver, width),
        }
    }

    fn widest_rank(&self) -> usize {
        self.adapters.map_or(0, |set| set.slots().iter().map(|slot| slot.rank).max().unwrap_or(0))
    }
}
