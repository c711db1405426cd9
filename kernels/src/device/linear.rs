//! Frozen projections with adapters. Those that read one input are one operation, so that a device may read it once and
//! add an adapter's update inside the product that it belongs to. What is here is the same as a sequence of products, for
//! devices that have nothing better.

use super::buffer::{Slice, SliceMut};
use super::values::{Values, ValuesMut};
use super::weight::Operand;
use super::{Device, Dropout};

/// Factors of an adapter's update: `scale · (drop(x) · Aᵀ) · Bᵀ` beside a product with `[outputs, inputs]`.
#[derive(Clone, Copy)]
pub struct LowRank<'a> {
    /// `[rank, inputs]`.
    pub a: Slice<'a, f32>,
    /// `[outputs, rank]`.
    pub b: Slice<'a, f32>,
    pub rank: usize,
    pub scale: f32,
    pub dropout: Option<Dropout<'a>>,
}

/// One projection of a group.
pub struct Linear<'a> {
    /// `[outputs, inputs]`.
    pub weight: Operand<'a>,
    pub outputs: usize,
    pub bias: Option<Slice<'a, f32>>,
    /// With where `drop(x) · Aᵀ`, `[tokens, rank]`, is kept.
    pub adapter: Option<(LowRank<'a>, ValuesMut<'a>)>,
    /// `[tokens, outputs]`.
    pub out: ValuesMut<'a>,
}

/// One projection of a group, in backward.
pub struct LinearBackward<'a> {
    pub weight: Operand<'a>,
    pub outputs: usize,
    /// `[tokens, outputs]`.
    pub dy: Values<'a>,
    pub adapter: Option<AdapterBackward<'a>>,
}

/// An adapter in backward.
pub struct AdapterBackward<'a> {
    pub factors: LowRank<'a>,
    /// What forward kept.
    pub low: Values<'a>,
    pub grad_a: SliceMut<'a, f32>,
    pub grad_b: SliceMut<'a, f32>,
}

/// What a group's backward writes to and forgets.
pub struct LinearScratch<'a> {
    /// `[tokens, rank]` of each adapter, one after another, or at least of the widest on a device that takes them in turn.
    pub through: ValuesMut<'a>,
    /// `[tokens, inputs]` where an adapter drops.
    pub masked: ValuesMut<'a>,
}

/// `low = drop(x) · Aᵀ` for each of `adapters`; the last one that drops leaves `drop(x)` in `masked`.
pub fn reduce<D: Device + ?Sized>(
    device: &D,
    x: Values<'_>,
    [tokens, inputs]: [usize; 2],
    adapters: &mut [(LowRank<'_>, ValuesMut<'_>)],
    masked: &mut ValuesMut<'_>,
) {
    for (factors, low) in adapters {
        reduce_one(device, x, [tokens, inputs], factors, low, masked);
    }
}

fn reduce_one<D: Device + ?Sized>(
    device: &D,
    x: Values<'_>,
    [tokens, inputs]: [usize; 2],
    factors: &LowRank<'_>,
    low: &mut ValuesMut<'_>,
    masked: &mut ValuesMut<'_>,
) {
    let narrow = [tokens, factors.rank, inputs];
    match factors.dropout {
        Some(dropout) => {
            let mut masked = masked.borrow().slice(..x.len());
            device.dropout(x, dropout, false, masked.borrow());
            device.matmul_nt(masked.freeze(), factors.a.into(), narrow, 1.0, false, low.borrow());
        }
        None => device.matmul_nt(x, factors.a.into(), narrow, 1.0, false, low.borrow()),
    }
}

/// `out = x · Wᵀ + bias + scale · (drop(x) · Aᵀ) · Bᵀ (+ residual)` for each of `linears`.
pub fn forward<D: Device + ?Sized>(
    device: &D,
    x: Values<'_>,
    [tokens, inputs]: [usize; 2],
    linears: &mut [Linear<'_>],
    residual: Option<Slice<'_, f32>>,
    masked: &mut ValuesMut<'_>,
) {
    for Linear { weight, outputs, bias, adapter, out } in linears {
        if let Some(residual) = residual {
            device.copy(residual.into(), out.borrow());
        }
        let shape = [tokens, *outputs, inputs];
        device.matmul_nt(x, *weight, shape, 1.0, residual.is_some(), out.borrow());
        if let Some(bias) = bias {
            device.add_bias(*bias, out.borrow());
        }
        let Some((factors, low)) = adapter else { continue };
        reduce_one(device, x, [tokens, inputs], factors, low, masked);
        let shape = [tokens, *outputs, factors.rank];
        device.matmul_nt(low.freeze(), factors.b.into(), shape, factors.scale, true, out.borrow());
    }
}

/// Gradients of the adapters, added to what is there if `accumulate`, and `dx = Σ dy · W + scale · drop((dy · B) · A)` over
/// `linears` if it is wanted, added if its flag says so.
pub fn backward<D: Device + ?Sized>(
    device: &D,
    x: Values<'_>,
    [tokens, inputs]: [usize; 2],
    linears: &mut [LinearBackward<'_>],
    accumulate: bool,
    scratch: &mut LinearScratch<'_>,
    mut dx: Option<(ValuesMut<'_>, bool)>,
) {
    for LinearBackward { weight, outputs, dy, adapter } in linears {
        let (dy, outputs) = (*dy, *outputs);
        if let Some((dx, added)) = &mut dx {
            device.matmul_nn(dy, *weight, [tokens, outputs, inputs], 1.0, *added, dx.borrow());
            *added = true;
        }
        let Some(AdapterBackward { factors, low, grad_a, grad_b }) = adapter else { continue };
        let LowRank { a, b, rank, scale, dropout } = *factors;
        device.matmul_tn(dy, *low, [tokens, outputs, rank], scale, accumulate, grad_b.borrow());
        let mut through = scratch.through.borrow().slice(..rank * tokens);
        device.matmul_nn(dy, b.into(), [tokens, outputs, rank], 1.0, false, through.borrow());
        let through = through.freeze();
        let down = [tokens, rank, inputs];
        match dropout {
            None => {
                device.matmul_tn(through, x, down, scale, accumulate, grad_a.borrow());
                if let Some((dx, _)) = &mut dx {
                    device.matmul_nn(through, a.into(), down, scale, true, dx.borrow());
                }
            }
            Some(dropout) => {
                let mut masked = scratch.masked.borrow().slice(..x.len());
                device.dropout(x, dropout, false, masked.borrow());
                device.matmul_tn(through, masked.freeze(), down, scale, accumulate, grad_a.borrow());
                if let Some((dx, _)) = &mut dx {
                    device.matmul_nn(through, a.into(), down, scale, false, masked.borrow());
                    device.dropout(masked.freeze(), dropout, true, dx.borrow());
                }
            }
        }
    }
}
