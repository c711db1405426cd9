//! Rotary position embedding.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use luthier_kernels::rope::{self as kernel, Table};

use crate::tensors::{result, rows, slice, tensor, values};

struct Rope {
    positions: Arc<[u32]>,
    heads: usize,
    table: Arc<Table>,
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "luthier-rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(self.name(), storage, layout)?;
        let (count, width) = rows(self.name(), layout.shape())?;
        if width != self.heads * self.table.head_dim() || count != self.positions.len() {
            bail!(
                "{} needs [{}, {} * {}], found {:?}",
                self.name(),
                self.positions.len(),
                self.heads,
                self.table.head_dim(),
                layout.shape()
            );
        }
        if let Some(position) = self.positions.iter().find(|position| **position as usize >= self.table.max_pos()) {
            bail!("position {position} is beyond the table of {}", self.table.max_pos());
        }
        let mut out = x.to_vec();
        kernel::forward(&mut out, &self.positions, self.heads, &self.table);
        Ok(result(out, layout.shape()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let mut dx = values(gradient)?;
        kernel::backward(&mut dx, &self.positions, self.heads, &self.table);
        tensor(dx, x).map(Some)
    }
}

/// Rotates `x[t, heads · head_dim]` by the position of each row.
///
/// # Errors
/// `x` is not contiguous `f32` of that shape, or a position is beyond the table.
pub fn rope(x: &Tensor, positions: &Arc<[u32]>, heads: usize, table: &Arc<Table>) -> Result<Tensor> {
    x.apply_op1(Rope { positions: Arc::clone(positions), heads, table: Arc::clone(table) })
}
