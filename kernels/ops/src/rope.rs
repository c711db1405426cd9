//! Rotary position embedding.

use std::sync::Arc;

use candle_core::{Result, Shape, Tensor, bail};
use luthier_kernels::device::{Device, Rotary, Slice, SliceMut};
use luthier_kernels::rope::Table;

use crate::operation::{Custom, Differentiable, Operation, apply, rows};
use crate::placed::Placed;

const NAME: &str = "luthier-rope";

/// Cosines and sines of all positions, on every device that asked for them.
pub struct RotaryTable {
    table: Table,
    placed: Placed<Rotary>,
}

impl RotaryTable {
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self { table, placed: Placed::default() }
    }
}

#[derive(Clone)]
struct Rope {
    positions: Arc<[u32]>,
    heads: usize,
    table: Arc<RotaryTable>,
    inverse: bool,
}

impl Operation<1, 1> for Rope {
    fn name(&self) -> &'static str {
        NAME
    }

    fn outputs(&self, [x]: [&Shape; 1]) -> Result<[Shape; 1]> {
        let (count, width) = rows(NAME, x)?;
        let (positions, table) = (&self.positions, &self.table.table);
        if width != self.heads * table.head_dim() || count != positions.len() {
            bail!("{NAME} needs [{}, {} * {}], found {x:?}", positions.len(), self.heads, table.head_dim());
        }
        if let Some(position) = positions.iter().find(|position| **position as usize >= table.max_pos()) {
            bail!("position {position} is beyond the table of {}", table.max_pos());
        }
        Ok([x.clone()])
    }

    fn indices(&self) -> Vec<&[u32]> {
        vec![&self.positions]
    }

    fn run(
        &self,
        device: &dyn Device,
        [x]: [Slice<'_, f32>; 1],
        indices: &[Slice<'_, u32>],
        [mut out]: [SliceMut<'_, f32>; 1],
    ) -> Result<()> {
        let rotary = self.table.placed.on(device, |device| device.rotary(self.table.table.clone()))?;
        device.copy(x.into(), out.borrow().into());
        device.rope(indices[0], self.heads, &rotary, self.inverse, out.into());
        Ok(())
    }
}

impl Differentiable<1, 1> for Rope {
    fn gradients(&self, _: [&Tensor; 1], gradient: &Tensor) -> Result<[Tensor; 1]> {
        apply(&Self { inverse: !self.inverse, ..self.clone() }, [gradient])
    }
}

/// Rotates `x[t, heads · head_dim]` by the position of each row.
///
/// # Errors
/// `x` is not contiguous `f32` of that shape, or a position is beyond the table.
pub fn rope(x: &Tensor, positions: &Arc<[u32]>, heads: usize, table: &Arc<RotaryTable>) -> Result<Tensor> {
    let (positions, table) = (Arc::clone(positions), Arc::clone(table));
    x.apply_op1(Custom(Rope { positions, heads, table, inverse: false }))
}
