//! Tables of sixteen entries, looked up by halves of bytes.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_mm_and_si128, _mm_or_si128, _mm_set1_epi8, _mm_shuffle_epi8, _mm_srli_epi16};

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use std::arch::wasm32::{u8x16_shr, u8x16_splat, u8x16_swizzle, v128_and, v128_any_true, v128_or};

use super::Bytes;

/// Whether [`Bytes::pick`] may be called; nearly every x86-64 processor has it, but not by definition.
pub fn can_pick() -> bool {
    #[cfg(target_arch = "x86_64")]
    let can = std::is_x86_feature_detected!("ssse3");
    #[cfg(not(target_arch = "x86_64"))]
    let can = cfg!(all(target_arch = "wasm32", target_feature = "simd128"));
    can
}

#[cfg(target_arch = "x86_64")]
impl Bytes {
    /// The entry of this table at each of `places`, which are below 16.
    ///
    /// # Safety
    /// [`can_pick`] says so.
    #[inline(always)]
    pub unsafe fn pick(self, places: Self) -> Self {
        // SAFETY: the caller has asked.
        Self(unsafe { _mm_shuffle_epi8(self.0, places.0) })
    }

    /// Sets the bits that are set in `mask`.
    #[inline(always)]
    pub fn with(self, mask: u8) -> Self {
        // SAFETY: every x86-64 processor has SSE2.
        Self(unsafe { _mm_or_si128(self.0, _mm_set1_epi8(mask as i8)) })
    }

    /// The lower four bits of each, and the higher four.
    #[inline(always)]
    pub fn halves(self) -> [Self; 2] {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe {
            let mask = _mm_set1_epi8(0x0f);
            [Self(_mm_and_si128(self.0, mask)), Self(_mm_and_si128(_mm_srli_epi16::<4>(self.0), mask))]
        }
    }

    /// Whether any is not 0.
    #[inline(always)]
    pub fn any(self) -> bool {
        self.is(0).bits() != 0xffff
    }
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
impl Bytes {
    #[inline(always)]
    pub unsafe fn pick(self, places: Self) -> Self {
        Self(u8x16_swizzle(self.0, places.0))
    }

    #[inline(always)]
    pub fn with(self, mask: u8) -> Self {
        Self(v128_or(self.0, u8x16_splat(mask)))
    }

    #[inline(always)]
    pub fn halves(self) -> [Self; 2] {
        [Self(v128_and(self.0, u8x16_splat(0x0f))), Self(u8x16_shr(self.0, 4))]
    }

    #[inline(always)]
    pub fn any(self) -> bool {
        v128_any_true(self.0)
    }
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
impl Bytes {
    pub unsafe fn pick(self, places: Self) -> Self {
        Self(places.0.map(|place| self.0[usize::from(place & 15)]))
    }

    pub fn with(self, mask: u8) -> Self {
        Self(self.0.map(|byte| byte | mask))
    }

    pub fn halves(self) -> [Self; 2] {
        [Self(self.0.map(|byte| byte & 15)), Self(self.0.map(|byte| byte >> 4))]
    }

    pub fn any(self) -> bool {
        self.0 != [0; 16]
    }
}

#[cfg(test)]
mod tests {
    use super::super::WIDTH;
    use super::*;

    #[test]
    fn picks_by_halves() {
        let table: [u8; WIDTH] = std::array::from_fn(|at| 1 << (at % 8));
        for byte in 0..=u8::MAX {
            let [low, high] = Bytes::new(&[byte; WIDTH]).halves();
            assert_eq!(low.is(byte & 15).bits(), 0xffff);
            assert_eq!(high.is(byte >> 4).bits(), 0xffff);
            assert_eq!(Bytes::new(&[byte; WIDTH]).with(3).is(byte | 3).bits(), 0xffff);
            assert_eq!(Bytes::new(&[byte; WIDTH]).any(), byte != 0);
            if can_pick() {
                // SAFETY: asked.
                let found = unsafe { Bytes::new(&table).pick(low) };
                assert_eq!(found.is(table[usize::from(byte & 15)]).bits(), 0xffff);
            }
        }
    }
}
