//! Causal attention over packed segments.

use std::sync::Arc;

use candle_core::{Result, Shape, Tensor, bail};
use luthier_kernels::device::{AttentionSaved, AttentionShape, Device, Segments, Slice, SliceMut};

use crate::operation::{Custom, Differentiable, Operation, apply};

const NAME: &str = "luthier-attention";

#[derive(Clone)]
struct Attention {
    segments: Arc<[u32]>,
    shape: AttentionShape,
}

impl Attention {
    fn check(&self, q: &Shape, k: &Shape, v: &Shape) -> Result<usize> {
        let tokens = self.segments.last().map_or(0, |end| *end as usize);
        let starts_right = self.segments.first() == Some(&0) && self.segments.is_sorted();
        if !starts_right {
            bail!("segments must start with 0 and ascend");
        }
        let shape = self.shape;
        let valid = shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads) && shape.head_dim > 0;
        if !valid || shape.window == Some(0) {
            bail!("{shape:?} is not the shape of an attention layer");
        }
        let (wide, narrow) = ([tokens, shape.query_width()], [tokens, shape.key_width()]);
        if q.dims() != wide || k.dims() != narrow || v.dims() != narrow {
            bail!("{NAME} needs {wide:?}, {narrow:?}, {narrow:?}, found {q:?}, {k:?}, {v:?}");
        }
        Ok(tokens)
    }

    fn segments<'a>(&self, starts: Slice<'a, u32>) -> Segments<'a> {
        let longest = self.segments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        Segments { starts, longest: longest as usize }
    }
}

impl Operation<3, 2> for Attention {
    fn name(&self) -> &'static str {
        NAME
    }

    fn outputs(&self, [q, k, v]: [&Shape; 3]) -> Result<[Shape; 2]> {
        let tokens = self.check(q, k, v)?;
        Ok([q.clone(), (tokens * self.shape.heads).into()])
    }

    fn indices(&self) -> Vec<&[u32]> {
        vec![&self.segments]
    }

    fn run(
        &self,
        device: &dyn Device,
        [q, k, v]: [Slice<'_, f32>; 3],
        indices: &[Slice<'_, u32>],
        [out, lse]: [SliceMut<'_, f32>; 2],
    ) -> Result<()> {
        device.attention(q.into(), k.into(), v.into(), self.segments(indices[0]), self.shape, out.into(), lse);
        Ok(())
    }
}

/// Of `q`, `k`, `v` and the result's gradient, those of the three.
struct Gradients(Attention);

impl Operation<4, 5> for Gradients {
    fn name(&self) -> &'static str {
        NAME
    }

    fn outputs(&self, [q, k, v, _]: [&Shape; 4]) -> Result<[Shape; 5]> {
        let [out, lse] = self.0.outputs([q, k, v])?;
        Ok([q.clone(), k.clone(), v.clone(), out, lse])
    }

    fn indices(&self) -> Vec<&[u32]> {
        self.0.indices()
    }

    fn run(
        &self,
        device: &dyn Device,
        [q, k, v, dout]: [Slice<'_, f32>; 4],
        indices: &[Slice<'_, u32>],
        [dq, dk, dv, mut out, mut lse]: [SliceMut<'_, f32>; 5],
    ) -> Result<()> {
        let (segments, shape) = (self.0.segments(indices[0]), self.0.shape);
        device.attention(q.into(), k.into(), v.into(), segments, shape, out.borrow().into(), lse.borrow());
        let (q, k, v) = (q.into(), k.into(), v.into());
        let saved = AttentionSaved { q, k, v, out: out.freeze().into(), lse: lse.freeze() };
        device.attention_backward(saved, dout.into(), segments, shape, dq.into(), dk.into(), dv.into());
        Ok(())
    }
}

impl Differentiable<3, 2> for Attention {
    fn gradients(&self, [q, k, v]: [&Tensor; 3], gradient: &Tensor) -> Result<[Tensor; 3]> {
        let [dq, dk, dv, ..] = apply(&Gradients(self.clone()), [q, k, v, gradient])?;
        Ok([dq, dk, dv])
    }
}

/// Attention of `q[t, heads · head_dim]` over `k` and `v[t, kv_heads · head_dim]`, each row within its segment;
/// `segments` holds the first row of each segment and, last, `t`.
///
/// # Errors
/// The tensors are not contiguous `f32` of those shapes.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Arc<[u32]>, shape: AttentionShape) -> Result<Tensor> {
    q.apply_op3(k, v, Custom(Attention { segments: Arc::clone(segments), shape }))
}
