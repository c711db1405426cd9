//! Causal attention over packed segments.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use luthier_kernels::attention::{self as kernel, AttentionShape};

use crate::tensors::{result, slice, tensor, values};

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
            bail!("{} needs {wide:?}, {narrow:?}, {narrow:?}, found {q:?}, {k:?}, {v:?}", self.name());
        }
        Ok(tokens)
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "luthier-attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let tokens = self.check(l1.shape(), l2.shape(), l3.shape())?;
        let (q, k, v) = (slice(self.name(), s1, l1)?, slice(self.name(), s2, l2)?, slice(self.name(), s3, l3)?);
        let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; tokens * self.shape.heads]);
        kernel::forward(q, k, v, &self.segments, &self.shape, &mut out, &mut lse);
        Ok(result(out, l1.shape()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let tokens = self.check(q.shape(), k.shape(), v.shape())?;
        let (qs, ks, vs, dout) = (values(q)?, values(k)?, values(v)?, values(gradient)?);
        let (mut out, mut lse) = (vec![0.0; qs.len()], vec![0.0; tokens * self.shape.heads]);
        kernel::forward(&qs, &ks, &vs, &self.segments, &self.shape, &mut out, &mut lse);
        let (mut dq, mut dk, mut dv) = (vec![0.0; qs.len()], vec![0.0; ks.len()], vec![0.0; vs.len()]);
        kernel::backward(&qs, &ks, &vs, &out, &lse, &dout, &self.segments, &self.shape, &mut dq, &mut dk, &mut dv);
        Ok((Some(tensor(dq, q)?), Some(tensor(dk, k)?), Some(tensor(dv, v)?)))
    }
}

/// Attention of `q[t, heads · head_dim]` over `k` and `v[t, kv_heads · head_dim]`, each row within its segment;
/// `segments` holds the first row of each segment and, last, `t`.
///
/// # Errors
/// The tensors are not contiguous `f32` of those shapes.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Arc<[u32]>, shape: AttentionShape) -> Result<Tensor> {
    q.apply_op3(k, v, Attention { segments: Arc::clone(segments), shape })
}
