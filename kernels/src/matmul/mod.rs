//! Matrix products. Three orientations cover forward, gradient to the input and gradient to a weight; none of them
//! transposes anything in memory.
//!
//! With `accumulate` the product is added to what `out` holds, otherwise `out` is overwritten. `scale` multiplies each
//! block total before it is folded into `out`.

mod pack;
mod product;
mod tile;

use self::product::Product;
use crate::Weight;

pub(crate) use self::pack::{Left, Part, Right, pack_right};
pub(crate) use self::tile::{TileCall, Tiles};

/// `out[m, n] = scale · x[m, k] · w[n, k]ᵀ`, the forward pass of a linear layer.
///
/// # Panics
/// If a slice does not have the length that its shape says.
#[expect(clippy::too_many_arguments, reason = "three shapes, three operands and two modes are the operation")]
pub fn nt(x: &[f32], m: usize, k: usize, w: &Weight<'_>, n: usize, out: &mut [f32], scale: f32, accumulate: bool) {
    assert_eq!(x.len(), m * k, "x must be [{m}, {k}]");
    assert_eq!(w.len(), n * k, "w must be [{n}, {k}]");
    assert_eq!(out.len(), m * n, "out must be [{m}, {n}]");
    let left = Left::Straight { x, stride: k };
    let right = Right::Transposed { weight: *w, stride: k };
    Product { m, n, k, left, right, scale, accumulate }.run(out);
}

/// `dx[m, k] = scale · dy[m, n] · w[n, k]`, the gradient of a linear layer with respect to its input.
///
/// # Panics
/// If a slice does not have the length that its shape says.
#[expect(clippy::too_many_arguments, reason = "three shapes, three operands and two modes are the operation")]
pub fn nn(dy: &[f32], m: usize, n: usize, w: &Weight<'_>, k: usize, dx: &mut [f32], scale: f32, accumulate: bool) {
    assert_eq!(dy.len(), m * n, "dy must be [{m}, {n}]");
    assert_eq!(w.len(), n * k, "w must be [{n}, {k}]");
    assert_eq!(dx.len(), m * k, "dx must be [{m}, {k}]");
    let left = Left::Straight { x: dy, stride: n };
    let right = Right::Straight { weight: *w, stride: k };
    Product { m, n: k, k: n, left, right, scale, accumulate }.run(dx);
}

/// `out[p, q] = scale · a[m, p]ᵀ · b[m, q]`, the gradient of a linear layer with respect to its weight.
///
/// # Panics
/// If a slice does not have the length that its shape says.
#[expect(clippy::too_many_arguments, reason = "three shapes, three operands and two modes are the operation")]
pub fn tn(a: &[f32], b: &[f32], m: usize, p: usize, q: usize, out: &mut [f32], scale: f32, accumulate: bool) {
    assert_eq!(a.len(), m * p, "a must be [{m}, {p}]");
    assert_eq!(b.len(), m * q, "b must be [{m}, {q}]");
    assert_eq!(out.len(), p * q, "out must be [{p}, {q}]");
    let left = Left::Transposed { x: a, stride: p };
    let right = Right::Straight { weight: Weight::F32(b), stride: q };
    Product { m: p, n: q, k: m, left, right, scale, accumulate }.run(out);
}

#[cfg(test)]
mod tests;
