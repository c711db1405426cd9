//! One register of sixteen lanes.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{LANES, Simd};
use crate::nf4::CODE;

/// Proof that AVX-512 F, BW, DQ and VL are there, and all that [`super::avx2::Avx2`] proves.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
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
            unsafe { $intrinsic($($argument),+) }
        })+
    };
}

impl Simd for Avx512 {
    type F = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves the features.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: the caller vouches for sixteen values.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_partial(self, from: *const f32, count: usize) -> Self::F {
        // SAFETY: the mask admits the `count` values that the caller vouches for.
        unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as __mmask16, from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::F) {
        // SAFETY: the caller vouches for sixteen values.
        unsafe { _mm512_storeu_ps(to, x) };
    }

    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, x: Self::F, count: usize) {
        // SAFETY: the mask admits the `count` values that the caller vouches for.
        unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as __mmask16, x) };
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::F {
        // SAFETY: the caller vouches for sixteen values of two bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::F {
        // SAFETY: the caller vouches for sixteen values of two bytes.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    fn load_nibbles(self, bytes: [u8; LANES], high: bool) -> Self::F {
        // SAFETY: the token proves the features; `bytes` are sixteen.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let shifted = if high { _mm_srli_epi16::<4>(bytes) } else { bytes };
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(shifted, _mm_set1_epi8(15))))
        }
    }

    #[inline(always)]
    fn load_signed(self, bytes: [u8; LANES]) -> Self::F {
        // SAFETY: the token proves the features; `bytes` are sixteen.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_nf4(self, codes: [u8; 8], scale: f32) -> Self::F {
        // SAFETY: the token proves the features; `CODE` holds sixteen values.
        unsafe {
            let table = _mm512_loadu_ps(CODE.as_ptr());
            let words = _mm512_set1_epi64(i64::from_le_bytes(codes));
            let halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            let shifts = _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
            // The table lookup reads four bits of each index, so the bits above need no mask.
            let index = _mm512_srlv_epi32(_mm512_permutexvar_epi32(halves, words), shifts);
            _mm512_mul_ps(_mm512_permutexvar_ps(index, table), _mm512_set1_ps(scale))
        }
    }

    lanewise! {
        add(a, b) = _mm512_add_ps;
        sub(a, b) = _mm512_sub_ps;
        mul(a, b) = _mm512_mul_ps;
        div(a, b) = _mm512_div_ps;
        sqrt(a) = _mm512_sqrt_ps;
        fma(a, b, c) = _mm512_fmadd_ps;
        max(a, b) = _mm512_max_ps;
    }

    #[inline(always)]
    fn select_gt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        // SAFETY: the token proves the features.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), y, x) }
    }

    #[inline(always)]
    fn exponent(self, a: Self::F, bias: u32) -> Self::F {
        // SAFETY: the token proves the features.
        unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(a));
            _mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(bias as i32)))
        }
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Self::F; LANES]) {
        // SAFETY: the token proves the features.
        unsafe {
            let r = *rows;
            let mut pairs = r;
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            // Within each group of four rows: lane-wise 4 by 4 transposes.
            let mut quads = r;
            for i in 0..4 {
                let p = &pairs[4 * i..4 * i + 4];
                quads[4 * i] = _mm512_shuffle_ps::<0x44>(p[0], p[2]);
                quads[4 * i + 1] = _mm512_shuffle_ps::<0xEE>(p[0], p[2]);
                quads[4 * i + 2] = _mm512_shuffle_ps::<0x44>(p[1], p[3]);
                quads[4 * i + 3] = _mm512_shuffle_ps::<0xEE>(p[1], p[3]);
            }
            // quads[4 g + c] holds, in 128-bit lane l, column 4 l + c of rows 4 g .. 4 g + 4.
            for c in 0..4 {
                let low = _mm512_shuffle_f32x4::<0x88>(quads[c], quads[4 + c]);
                let high = _mm512_shuffle_f32x4::<0xDD>(quads[c], quads[4 + c]);
                let low2 = _mm512_shuffle_f32x4::<0x88>(quads[8 + c], quads[12 + c]);
                let high2 = _mm512_shuffle_f32x4::<0xDD>(quads[8 + c], quads[12 + c]);
                // low: lanes 0, 2 of rows 0..4, then of rows 4..8.
                rows[c] = _mm512_shuffle_f32x4::<0x88>(low, low2);
                rows[8 + c] = _mm512_shuffle_f32x4::<0xDD>(low, low2);
                rows[4 + c] = _mm512_shuffle_f32x4::<0x88>(high, high2);
                rows[12 + c] = _mm512_shuffle_f32x4::<0xDD>(high, high2);
            }
        }
    }
}
