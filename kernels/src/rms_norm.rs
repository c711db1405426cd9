//! Root-mean-square normalisation (Zhang and Sennrich, 2019): `y = w · x / sqrt(mean(x²) + eps)` per row.

/// Normalises `rows` rows of `d` elements and keeps `1 / sqrt(mean(x²) + eps)` of each row for the backward pass.
///
/// # Panics
/// If a slice does not have the length that its shape says.
pub fn forward(x: &[f32], w: &[f32], eps: f32, d: usize, out: &mut [f32], inv_rms: &mut [f32]) {
    check(x.len(), w.len(), out.len(), inv_rms.len(), d);
    for ((x, out), inv) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)).zip(inv_rms) {
        let squares: f32 = x.iter().map(|v| v * v).sum();
        *inv = 1.0 / (squares / d as f32 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
            *out = x * *inv * w;
        }
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
    for (((x, dy), dx), inv) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(inv_rms) {
        let dot: f32 = x.iter().zip(dy).zip(w).map(|((x, dy), w)| x * inv * dy * w).sum();
        let mean = dot / d as f32;
        for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
            let gradient = inv * (dy * w - x * inv * mean);
            *dx = if accumulate { *dx + gradient } else { gradient };
        }
    }
}

/// `dw += Σ_rows dy · x̂`, for training the norm's own weight.
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
