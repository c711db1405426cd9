//! The definition: one lane after the other, `f32::mul_add`.

use std::array::from_fn;

use half::{bf16, f16};

use super::{LANES, Simd};
use crate::nf4::CODE;

/// Runs anywhere.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

impl Simd for Scalar {
    type F = [f32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: the caller vouches for sixteen values; the read is unaligned.
        unsafe { from.cast::<Self::F>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_partial(self, from: *const f32, count: usize) -> Self::F {
        // SAFETY: the caller vouches for `count` values.
        from_fn(|i| if i < count { unsafe { *from.add(i) } } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::F) {
        // SAFETY: the caller vouches for sixteen values; the write is unaligned.
        unsafe { to.cast::<Self::F>().write_unaligned(x) };
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, x: Self::F, count: usize) {
        for (i, x) in x.into_iter().enumerate().take(count) {
            // SAFETY: the caller vouches for `count` values.
            unsafe { *to.add(i) = x };
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::F {
        // SAFETY: the caller vouches for sixteen values.
        from_fn(|i| unsafe { *from.add(i) }.to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::F {
        // SAFETY: the caller vouches for sixteen values.
        from_fn(|i| unsafe { *from.add(i) }.to_f32())
    }

    #[inline(always)]
    fn load_nf4(self, codes: [u8; 8], scale: f32) -> Self::F {
        from_fn(|i| {
            let byte = codes[i / 2];
            CODE[usize::from(if i % 2 == 0 { byte >> 4 } else { byte & 15 })] * scale
        })
    }

    #[inline(always)]
    fn load_nibbles(self, bytes: [u8; LANES], high: bool) -> Self::F {
        bytes.map(|byte| f32::from(if high { byte >> 4 } else { byte & 15 }))
    }

    #[inline(always)]
    fn load_signed(self, bytes: [u8; LANES]) -> Self::F {
        bytes.map(|byte| f32::from(byte as i8))
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        a.map(f32::sqrt)
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn select_gt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { x[i] } else { y[i] })
    }

    #[inline(always)]
    fn exponent(self, a: Self::F, bias: u32) -> Self::F {
        a.map(|a| f32::from_bits((a.to_bits() << 23).wrapping_add(bias)))
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Self::F; LANES]) {
        let from = *rows;
        *rows = from_fn(|i| from_fn(|j| from[j][i]));
    }
}
