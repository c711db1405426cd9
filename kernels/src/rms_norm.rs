//! Root-mean-square normalisation (Zhang and Sennrich, 2019): `y = w · x / sqrt(mean(x²) + eps)` per row.

use crate::Backend;
use crate::parallel;
use crate::scratch::Shared;
use crate::simd::{LANES, kernel};

/// Normalises rows of `d` elements and keeps `1 / sqrt(mean(x²) + eps)` of each row for the backward pass.
///
/// # Panics
/// If a slice does not have the length that its shape says.
pub fn forward(x: &[f32], w: &[f32], eps: f32, d: usize, out: &mut [f32], inv_rms: &mut [f32]) {
    check(x.len(), w.len(), out.len(), inv_rms.len(), d);
    let backend = Backend::current();
    let (out, inverse) = (Shared::new(out), Shared::new(inv_rms));
    parallel::rows(x.len() / d, d, |rows| {
        for row in rows {
            // SAFETY: `check` saw that both buffers hold this row, and no other task has it.
            let (out, inverse) =
                unsafe { (std::slice::from_raw_parts_mut(out.get().add(row * d), d), &mut *inverse.get().add(row)) };
            *inverse = forward_row(backend, &x[row * d..(row + 1) * d], w, eps, out);
        }
    });
}

kernel! {
    fn forward_row(simd, x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) -> f32 {
        let mut squares = simd.splat(0.0);
        for at in (0..x.len()).step_by(LANES) {
            let x = simd.get(x, at);
            squares = simd.fma(x, x, squares);
        }
        let inverse = 1.0 / (simd.reduce_add(squares) / x.len() as f32 + eps).sqrt();
        let factor = simd.splat(inverse);
        for at in (0..x.len()).step_by(LANES) {
            let normal = simd.mul(simd.get(x, at), factor);
            simd.put(out, at, simd.mul(simd.get(w, at), normal));
        }
        inverse
    }
}

/// `dx = r · (dy · w - x̂ · mean(dy · w · x̂))` with `x̂ = x · r` and `r` the kept inverse; added to `dx` if
/// `accumulate`.
///
/// # Panics
/// If a slice does not have the length that its shape says.
pub fn backward(x: &[f32], w: &[f32], inv_rms: &[f32], dy: &[f32], d: usize, dx: &mut [f32], accumulate: bool) {
    check(x.len(), w.len(), dx.len(), inv_rms.len(), d);
    assert_eq!(dy.len(), x.len(), "dy must have the shape of x");
    let backend = Backend::current();
    let dx = Shared::new(dx);
    parallel::rows(x.len() / d, d, |rows| {
        for row in rows {
            // SAFETY: `check` saw that `dx` holds this row, and no other task has it.
            let dx = unsafe { std::slice::from_raw_parts_mut(dx.get().add(row * d), d) };
            let range = row * d..(row + 1) * d;
            backward_row(backend, &x[range.clone()], w, inv_rms[row], &dy[range], dx, accumulate);
        }
    });
}

kernel! {
    fn backward_row(simd, x: &[f32], w: &[f32], inverse: f32, dy: &[f32], dx: &mut [f32], accumulate: bool) {
        let factor = simd.splat(inverse);
        let mut dot = simd.splat(0.0);
        for at in (0..x.len()).step_by(LANES) {
            let normal = simd.mul(simd.get(x, at), factor);
            let weighted = simd.mul(simd.get(dy, at), simd.get(w, at));
            dot = simd.fma(weighted, normal, dot);
        }
        let mean = simd.splat(-simd.reduce_add(dot) / x.len() as f32);
        for at in (0..x.len()).step_by(LANES) {
            let normal = simd.mul(simd.get(x, at), factor);
            let weighted = simd.mul(simd.get(dy, at), simd.get(w, at));
            let centred = simd.fma(normal, mean, weighted);
            let old = if accumulate { simd.get(dx, at) } else { simd.splat(0.0) };
            simd.put(dx, at, simd.fma(factor, centred, old));
        }
    }
}

/// `dw += Σ dy · x̂` over the rows, in their order, for training the norm's own weight.
///
/// # Panics
/// If a slice does not have the length that its shape says.
pub fn backward_weight(x: &[f32], inv_rms: &[f32], dy: &[f32], d: usize, dw: &mut [f32]) {
    check(x.len(), dw.len(), dy.len(), inv_rms.len(), d);
    for ((x, dy), inv) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(inv_rms) {
        for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
            *dw += dy * (x * inv);
        }
    }
}

fn check(x: usize, w: usize, out: usize, rows: usize, d: usize) {
    assert!(d > 0, "rows must not be empty");
    assert_eq!(x, rows * d, "x must be [{rows}, {d}]");
    assert_eq!(w, d, "w must be [{d}]");
    assert_eq!(out, x, "out must have the shape of x");
}
