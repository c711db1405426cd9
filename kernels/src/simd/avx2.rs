//! Two registers of eight lanes.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{LANES, Simd};
use crate::nf4::CODE;

/// Proof that AVX2, FMA and F16C are there.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Self(())
    }
}

macro_rules! lanewise {
    ($($name:ident($($argument:ident),+) = $intrinsic:ident;)+) => {
        $(#[inline(always)]
        fn $name(self, $($argument: Self::F),+) -> Self::F {
            // SAFETY: the token proves the features.
            unsafe { ($intrinsic($($argument.0),+), $intrinsic($($argument.1),+)) }
        })+
    };
}

impl Simd for Avx2 {
    type F = (__m256, __m256);

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves the features.
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: the caller vouches for sixteen values.
        unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_partial(self, from: *const f32, count: usize) -> Self::F {
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller vouches for `count` values, fewer than sixteen.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            self.load(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::F) {
        // SAFETY: the caller vouches for sixteen values.
        unsafe {
            _mm256_storeu_ps(to, x.0);
            _mm256_storeu_ps(to.add(8), x.1);
        }
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, x: Self::F, count: usize) {
        let lanes = self.to_array(x);
        // SAFETY: the caller vouches for `count` values, fewer than sixteen.
        unsafe { std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count) };
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::F {
        // SAFETY: the caller vouches for sixteen values of two bytes.
        unsafe {
            let from = from.cast::<__m128i>();
            (_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from.add(1))))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::F {
        // SAFETY: the caller vouches for sixteen values of two bytes.
        unsafe {
            let from = from.cast::<__m128i>();
            let widen = |half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)));
            (widen(_mm_loadu_si128(from)), widen(_mm_loadu_si128(from.add(1))))
        }
    }

    #[inline(always)]
    fn load_nibbles(self, bytes: [u8; LANES], high: bool) -> Self::F {
        // SAFETY: the token proves the features; `bytes` are sixteen.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let shifted = if high { _mm_srli_epi16::<4>(bytes) } else { bytes };
            let nibbles = _mm_and_si128(shifted, _mm_set1_epi8(15));
            let widen = |eight| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
            (widen(nibbles), widen(_mm_srli_si128::<8>(nibbles)))
        }
    }

    #[inline(always)]
    fn load_signed(self, bytes: [u8; LANES]) -> Self::F {
        // SAFETY: the token proves the features; `bytes` are sixteen.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let widen = |eight| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
            (widen(bytes), widen(_mm_srli_si128::<8>(bytes)))
        }
    }

    #[inline(always)]
    fn load_nf4(self, codes: [u8; 8], scale: f32) -> Self::F {
        // SAFETY: the token proves the features; `CODE` holds sixteen values.
        unsafe {
            let low = _mm256_loadu_ps(CODE.as_ptr());
            let high = _mm256_loadu_ps(CODE.as_ptr().add(8));
            let scale = _mm256_set1_ps(scale);
            let shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
            let decode = |word: i32| {
                let index = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
                // Bit 3 of the code, moved to the sign, chooses the half of the table.
                let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
                let value = _mm256_blendv_ps(
                    _mm256_permutevar8x32_ps(low, index),
                    _mm256_permutevar8x32_ps(high, index),
                    upper,
                );
                _mm256_mul_ps(value, scale)
            };
            let word = u64::from_le_bytes(codes);
            (decode(word as i32), decode((word >> 32) as i32))
        }
    }

    lanewise! {
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        sqrt(a) = _mm256_sqrt_ps;
        fma(a, b, c) = _mm256_fmadd_ps;
        max(a, b) = _mm256_max_ps;
    }

    #[inline(always)]
    fn select_gt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        // SAFETY: the token proves the features.
        unsafe {
            (
                _mm256_blendv_ps(y.0, x.0, _mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(y.1, x.1, _mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1)),
            )
        }
    }

    #[inline(always)]
    fn exponent(self, a: Self::F, bias: u32) -> Self::F {
        // SAFETY: the token proves the features.
        unsafe {
            let bias = _mm256_set1_epi32(bias as i32);
            let shift =
                |a| _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32::<23>(_mm256_castps_si256(a)), bias));
            (shift(a.0), shift(a.1))
        }
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Self::F; LANES]) {
        let from = *rows;
        let quarter = |part: fn(&Self::F) -> __m256, first: usize| {
            let rows: [__m256; 8] = std::array::from_fn(|i| part(&from[first + i]));
            // SAFETY: the token proves the features.
            unsafe { transpose8(rows) }
        };
        let top_left = quarter(|row| row.0, 0);
        let top_right = quarter(|row| row.1, 0);
        let bottom_left = quarter(|row| row.0, 8);
        let bottom_right = quarter(|row| row.1, 8);
        let (low, high) = rows.split_at_mut(8);
        for (row, halves) in low.iter_mut().zip(top_left.into_iter().zip(bottom_left)) {
            *row = halves;
        }
        for (row, halves) in high.iter_mut().zip(top_right.into_iter().zip(bottom_right)) {
            *row = halves;
        }
    }
}

/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let pairs: [__m256; 8] = [
            _mm256_unpacklo_ps(r[0], r[1]),
            _mm256_unpackhi_ps(r[0], r[1]),
            _mm256_unpacklo_ps(r[2], r[3]),
            _mm256_unpackhi_ps(r[2], r[3]),
            _mm256_unpacklo_ps(r[4], r[5]),
            _mm256_unpackhi_ps(r[4], r[5]),
            _mm256_unpacklo_ps(r[6], r[7]),
            _mm256_unpackhi_ps(r[6], r[7]),
        ];
        let quads: [__m256; 8] = [
            _mm256_shuffle_ps::<0x44>(pairs[0], pairs[2]),
            _mm256_shuffle_ps::<0xEE>(pairs[0], pairs[2]),
            _mm256_shuffle_ps::<0x44>(pairs[1], pairs[3]),
            _mm256_shuffle_ps::<0xEE>(pairs[1], pairs[3]),
            _mm256_shuffle_ps::<0x44>(pairs[4], pairs[6]),
            _mm256_shuffle_ps::<0xEE>(pairs[4], pairs[6]),
            _mm256_shuffle_ps::<0x44>(pairs[5], pairs[7]),
            _mm256_shuffle_ps::<0xEE>(pairs[5], pairs[7]),
        ];
        [
            _mm256_permute2f128_ps::<0x20>(quads[0], quads[4]),
            _mm256_permute2f128_ps::<0x20>(quads[1], quads[5]),
            _mm256_permute2f128_ps::<0x20>(quads[2], quads[6]),
            _mm256_permute2f128_ps::<0x20>(quads[3], quads[7]),
            _mm256_permute2f128_ps::<0x31>(quads[0], quads[4]),
            _mm256_permute2f128_ps::<0x31>(quads[1], quads[5]),
            _mm256_permute2f128_ps::<0x31>(quads[2], quads[6]),
            _mm256_permute2f128_ps::<0x31>(quads[3], quads[7]),
        ]
    }
}
