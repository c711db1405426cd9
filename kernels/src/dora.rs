//! Weight-decomposed adapters (DoRA, Liu et al. 2024): each output is scaled to a trained magnitude over the norm of its
//! row of the changed weight `W + s·B·A`. As in PEFT the norm is a constant to the gradient.

use rayon::prelude::*;

use crate::Weight;

/// Elements per task.
const GRAIN: usize = 1 << 14;
/// Columns per task of [`column_dots`].
const COLUMNS: usize = 64;

/// `out[i] = Σ w[i, ·]²`, accumulated in `f64`.
///
/// # Panics
/// If the lengths do not fit.
pub fn row_squares(w: &Weight<'_>, rows: usize, cols: usize, out: &mut [f32]) {
    assert_eq!(w.len(), rows * cols, "w must be [{rows}, {cols}]");
    assert_eq!(out.len(), rows, "a value for each row");
    out.par_iter_mut().enumerate().for_each_init(
        || vec![0f32; cols],
        |row, (index, out)| {
            w.read_f32(index * cols, row);
            *out = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() as f32;
        },
    );
}

/// What the norms of the rows of `W + s·B·A` follow from, without forming it.
pub struct ChangedRows<'a> {
    /// `[rows]`: squares of the rows of `W`.
    pub squares: &'a [f32],
    /// `[rank, rows]`: `A · Wᵀ`.
    pub cross: &'a [f32],
    /// `[rank, rank]`: `A · Aᵀ`.
    pub gram: &'a [f32],
    /// `[rows, rank]`.
    pub b: &'a [f32],
    pub scale: f32,
}

impl ChangedRows<'_> {
    fn norm(&self, row: usize) -> f64 {
        let (rows, rank) = (self.squares.len(), self.b.len() / self.squares.len().max(1));
        let b = &self.b[row * rank..(row + 1) * rank];
        let (mut cross, mut gram) = (0f64, 0f64);
        for (i, left) in b.iter().enumerate() {
            cross += f64::from(*left) * f64::from(self.cross[i * rows + row]);
            for (j, right) in b.iter().enumerate() {
                gram += f64::from(*left) * f64::from(*right) * f64::from(self.gram[i * rank + j]);
            }
        }
        let scale = f64::from(self.scale);
        (f64::from(self.squares[row]) + 2.0 * scale * cross + scale * scale * gram).max(0.0).sqrt()
    }
}

/// `inverse[i] = 1 / |row i|` and `gains[i] = magnitude[i] / |row i|`; 0 for a row of zeros, which has no direction.
/// Without `magnitude` the gains are the norms themselves.
///
/// # Panics
/// If the lengths do not fit.
pub fn gains(changed: &ChangedRows<'_>, magnitude: Option<&[f32]>, gains: &mut [f32], inverse: &mut [f32]) {
    let rows = changed.squares.len();
    assert!(gains.len() == rows && inverse.len() == rows, "values for each row");
    gains.par_iter_mut().zip(inverse).enumerate().for_each(|(row, (gain, inverse))| {
        let norm = changed.norm(row);
        let one = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        *inverse = one as f32;
        *gain = match magnitude {
            Some(magnitude) => (f64::from(magnitude[row]) * one) as f32,
            None => norm as f32,
        };
    });
}

/// `out[t, j] (+)= x[t, j] · factors[j]`.
///
/// # Panics
/// If the lengths do not fit.
pub fn scale_columns(x: &[f32], factors: &[f32], accumulate: bool, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "out must have the length of x");
    let width = factors.len();
    let rows = (GRAIN / width.max(1)).max(1);
    out.par_chunks_mut(rows * width).zip(x.par_chunks(rows * width)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            for ((out, x), factor) in out.iter_mut().zip(x).zip(factors) {
                *out = if accumulate { *out + x * factor } else { x * factor };
            }
        }
    });
}

/// `out[j] (+)= factors[j] · Σ_t dy[t, j] · x[t, j]`, accumulated in `f64` in the order of the rows.
///
/// # Panics
/// If the lengths do not fit.
pub fn column_dots(dy: &[f32], x: &[f32], factors: &[f32], accumulate: bool, out: &mut [f32]) {
    let width = factors.len();
    assert_eq!(dy.len(), x.len(), "x must have the length of dy");
    assert_eq!(out.len(), width, "a value for each column");
    out.par_chunks_mut(COLUMNS).enumerate().for_each(|(index, out)| {
        let first = index * COLUMNS;
        let mut sums = [0f64; COLUMNS];
        for (dy, x) in dy.chunks_exact(width).zip(x.chunks_exact(width)) {
            let range = first..first + out.len();
            for ((sum, dy), x) in sums.iter_mut().zip(&dy[range.clone()]).zip(&x[range]) {
                *sum += f64::from(*dy) * f64::from(*x);
            }
        }
        for ((out, sum), factor) in out.iter_mut().zip(sums).zip(&factors[first..]) {
            let value = (sum * f64::from(*factor)) as f32;
            *out = if accumulate { *out + value } else { value };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn normal(name: &str, count: usize) -> Vec<f32> {
        let mut values = vec![0f32; count];
        Stream::new(4, name).fill_normal(0, 0.0, 1.0, &mut values);
        values
    }

    #[test]
    fn norms_are_those_of_the_changed_rows() {
        let (rows, cols, rank, scale) = (13, 29, 3, 0.7f32);
        let (w, a, b) = (normal("w", rows * cols), normal("a", rank * cols), normal("b", rows * rank));
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let row = |m: &[f32], i: usize| m[i * cols..(i + 1) * cols].to_vec();
        let cross: Vec<f32> = (0..rank * rows).map(|i| dot(&row(&a, i / rows), &row(&w, i % rows)) as f32).collect();
        let gram: Vec<f32> = (0..rank * rank).map(|i| dot(&row(&a, i / rank), &row(&a, i % rank)) as f32).collect();
        let mut squares = vec![0f32; rows];
        row_squares(&Weight::F32(&w), rows, cols, &mut squares);
        let changed = ChangedRows { squares: &squares, cross: &cross, gram: &gram, b: &b, scale };
        let (mut norms, mut inverse) = (vec![0f32; rows], vec![0f32; rows]);
        gains(&changed, None, &mut norms, &mut inverse);
        for i in 0..rows {
            let mut sum = 0f64;
            for j in 0..cols {
                let change: f64 = (0..rank).map(|r| f64::from(b[i * rank + r]) * f64::from(a[r * cols + j])).sum();
                sum += (f64::from(w[i * cols + j]) + f64::from(scale) * change).powi(2);
            }
            assert!((f64::from(norms[i]) - sum.sqrt()).abs() < 1e-5 * sum.sqrt());
            assert!((norms[i] * inverse[i] - 1.0).abs() < 1e-6);
        }
        let magnitude = vec![2.0; rows];
        let mut scaled = vec![0f32; rows];
        gains(&changed, Some(&magnitude), &mut scaled, &mut inverse);
        assert!(scaled.iter().zip(&inverse).all(|(gain, inverse)| *gain == 2.0 * inverse));
    }

    #[test]
    fn columns_are_scaled_and_summed() {
        let x = [1.0, 2.0, 3.0, 4.0];
        let mut out = [10.0; 4];
        scale_columns(&x, &[2.0, -1.0], true, &mut out);
        assert_eq!(out, [12.0, 8.0, 16.0, 6.0]);
        let mut sums = [1.0, 1.0];
        column_dots(&x, &x, &[1.0, 0.5], true, &mut sums);
        assert_eq!(sums, [11.0, 11.0]);
    }
}
