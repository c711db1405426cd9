//! Rotary position embedding (Su et al., 2021) in the "rotate half" layout of Hugging Face checkpoints: element `i` of
//! a head pairs with element `i + head_dim / 2`.

use crate::Backend;
use crate::parallel;
use crate::scratch::Shared;
use crate::simd::math::{exp_f64, ln, sin_cos};
use crate::simd::{LANES, kernel};

/// How positions beyond the trained length are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Scaling {
    #[default]
    None,
    /// Positions divided by `factor`.
    Linear { factor: f32 },
    /// Llama 3.1's frequency-dependent interpolation.
    Llama3 { factor: f32, low_freq_factor: f32, high_freq_factor: f32, original_max_position: u32 },
}

/// Cosines and sines for every position: `[max_pos, head_dim / 2]` each.
#[derive(Debug, Clone)]
pub struct Table {
    head_dim: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Table {
    /// # Panics
    /// If `head_dim` is odd or zero.
    #[must_use]
    pub fn new(head_dim: usize, theta: f64, scaling: Scaling, max_pos: usize) -> Self {
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "head_dim must be even");
        let half = head_dim / 2;
        let mut cos = Vec::with_capacity(max_pos * half);
        let mut sin = Vec::with_capacity(max_pos * half);
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                // Rounded to f32 where PyTorch's f32 arithmetic rounds: the power, its inverse, the angle.
                let exponent = (2 * i) as f32 / head_dim as f32;
                let power = exp_f64(f64::from(exponent) * ln(theta)) as f32;
                scale_frequency(1.0 / power, scaling)
            })
            .collect();
        for position in 0..max_pos {
            for frequency in &frequencies {
                let (sine, cosine) = sin_cos(f64::from(position as f32 * frequency));
                cos.push(cosine as f32);
                sin.push(sine as f32);
            }
        }
        Self { head_dim, cos, sin }
    }

    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// `[max_pos, head_dim / 2]`.
    #[must_use]
    pub fn cosines(&self) -> &[f32] {
        &self.cos
    }

    /// `[max_pos, head_dim / 2]`.
    #[must_use]
    pub fn sines(&self) -> &[f32] {
        &self.sin
    }

    /// Positions that the table covers.
    #[must_use]
    pub fn max_pos(&self) -> usize {
        self.cos.len() / (self.head_dim / 2)
    }
}

fn scale_frequency(frequency: f32, scaling: Scaling) -> f32 {
    match scaling {
        Scaling::None => frequency,
        Scaling::Linear { factor } => frequency / factor,
        Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            let length = original_max_position as f32;
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            if wavelength < length / high_freq_factor {
                frequency
            } else if wavelength > length / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (length / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// Rotates every head of `x[t, heads · head_dim]` in place by its row's position.
///
/// # Panics
/// If `x` has another shape or a position is outside the table.
pub fn forward(x: &mut [f32], positions: &[u32], heads: usize, table: &Table) {
    rotate(x, positions, heads, table, 1.0);
}

/// The inverse rotation, which is the gradient of [`forward`].
///
/// # Panics
/// If `x` has another shape or a position is outside the table.
pub fn backward(x: &mut [f32], positions: &[u32], heads: usize, table: &Table) {
    rotate(x, positions, heads, table, -1.0);
}

fn rotate(x: &mut [f32], positions: &[u32], heads: usize, table: &Table, sign: f32) {
    let (d, half) = (table.head_dim, table.head_dim / 2);
    assert_eq!(x.len(), positions.len() * heads * d, "x must be [{}, {heads} * {d}]", positions.len());
    let backend = Backend::current();
    let x = Shared::new(x);
    parallel::rows(positions.len(), heads * d, |rows| {
        for row in rows {
            let start = positions[row] as usize * half;
            let (cos, sin) = (&table.cos[start..start + half], &table.sin[start..start + half]);
            // SAFETY: `x` was checked to hold this row, and no other task has it.
            let x = unsafe { std::slice::from_raw_parts_mut(x.get().add(row * heads * d), heads * d) };
            rotate_row(backend, x, cos, sin, sign);
        }
    });
}

kernel! {
    fn rotate_row(simd, x: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        let sign = simd.splat(sign);
        let minus = simd.splat(-1.0);
        for head in x.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for at in (0..half).step_by(LANES) {
                let cos = simd.get(cos, at);
                let sin = simd.mul(sign, simd.get(sin, at));
                let (a, b) = (simd.get(low, at), simd.get(high, at));
                simd.put(low, at, simd.fma(a, cos, simd.mul(minus, simd.mul(b, sin))));
                simd.put(high, at, simd.fma(b, cos, simd.mul(a, sin)));
            }
        }
    }
}
