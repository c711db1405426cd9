//! Sixteen lanes of `f32` on every backend.
//!
//! A kernel is written once, generic over [`Simd`], and compiled once per backend by [`kernel!`]. Every operation of
//! the trait is elementwise and rounds once, so the backends cannot disagree; what they may disagree on (the order of a
//! horizontal sum, the polynomial of `exp`) is written here in terms of those operations.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod math;
pub mod scalar;

/// Lanes of [`Simd::F`].
pub const LANES: usize = 16;

/// A token that proves that the processor can run a backend, and the backend's operations.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen `f32`.
    type F: Copy;

    fn splat(self, x: f32) -> Self::F;

    /// # Safety
    /// Sixteen values are readable at `from`.
    unsafe fn load(self, from: *const f32) -> Self::F;

    /// # Safety
    /// `count < 16` values are readable at `from`. The other lanes are zero.
    unsafe fn load_partial(self, from: *const f32, count: usize) -> Self::F;

    /// # Safety
    /// Sixteen values are writable at `to`.
    unsafe fn store(self, to: *mut f32, x: Self::F);

    /// # Safety
    /// `count < 16` values are writable at `to`.
    unsafe fn store_partial(self, to: *mut f32, x: Self::F, count: usize);

    /// # Safety
    /// Sixteen values are readable at `from`.
    unsafe fn load_f16(self, from: *const half::f16) -> Self::F;

    /// # Safety
    /// Sixteen values are readable at `from`.
    unsafe fn load_bf16(self, from: *const half::bf16) -> Self::F;

    /// Sixteen NF4 codes from eight bytes, high nibble first, times `scale`.
    fn load_nf4(self, codes: [u8; 8], scale: f32) -> Self::F;

    /// The low or high four bits of sixteen bytes.
    fn load_nibbles(self, bytes: [u8; LANES], high: bool) -> Self::F;

    /// Sixteen signed bytes.
    fn load_signed(self, bytes: [u8; LANES]) -> Self::F;

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;

    /// `a · b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// `a > b ? a : b`: the second if either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;

    /// `a > b ? x : y`, lane by lane.
    fn select_gt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;

    /// The `f32` whose bits are `(bits(a) << 23) + bias`, wrapping.
    fn exponent(self, a: Self::F, bias: u32) -> Self::F;

    /// Transposes a 16 by 16 matrix.
    fn transpose(self, rows: &mut [Self::F; LANES]);

    #[inline(always)]
    fn to_array(self, x: Self::F) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: `lanes` holds sixteen values.
        unsafe { self.store(lanes.as_mut_ptr(), x) };
        lanes
    }

    #[inline(always)]
    fn of_array(self, lanes: [f32; LANES]) -> Self::F {
        // SAFETY: `lanes` holds sixteen values.
        unsafe { self.load(lanes.as_ptr()) }
    }

    /// The sum of the lanes by halves: lane `i` takes lane `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    #[inline(always)]
    fn reduce_add(self, x: Self::F) -> f32 {
        let mut lanes = self.to_array(x);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        lanes[0]
    }

    /// The greatest lane, by halves as [`Simd::reduce_add`].
    #[inline(always)]
    fn reduce_max(self, x: Self::F) -> f32 {
        let mut lanes = self.to_array(x);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                if lanes[i + half] > lanes[i] {
                    lanes[i] = lanes[i + half];
                }
            }
        }
        lanes[0]
    }

    /// Sixteen values of a slice from `at`, those beyond its end zero.
    #[inline(always)]
    fn get(self, from: &[f32], at: usize) -> Self::F {
        let left = from.len() - at;
        // SAFETY: `left` values are readable from `at`.
        unsafe {
            let from = from.as_ptr().add(at);
            if left >= LANES { self.load(from) } else { self.load_partial(from, left) }
        }
    }

    /// Writes sixteen values of a slice from `at`, dropping those beyond its end.
    #[inline(always)]
    fn put(self, to: &mut [f32], at: usize, x: Self::F) {
        let left = to.len() - at;
        // SAFETY: `left` values are writable from `at`.
        unsafe {
            let to = to.as_mut_ptr().add(at);
            if left >= LANES { self.store(to, x) } else { self.store_partial(to, x, left) }
        }
    }
}

/// Defines a function that takes a [`crate::Backend`] first and runs its body with that backend's [`Simd`] token.
/// What the body calls must be `#[inline(always)]`, or it is compiled without the backend's instructions.
macro_rules! kernel {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($simd:ident $(, $argument:ident: $type:ty)* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        $visibility fn $name(backend: $crate::Backend $(, $argument: $type)*) $(-> $result)? {
            #[inline(always)]
            fn body<S: $crate::simd::Simd>($simd: S $(, $argument: $type)*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                // SAFETY: this function is only called where the features were detected.
                body(unsafe { $crate::simd::avx2::Avx2::new() } $(, $argument)*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                // SAFETY: this function is only called where the features were detected.
                body(unsafe { $crate::simd::avx512::Avx512::new() } $(, $argument)*)
            }

            match backend {
                $crate::Backend::Reference => body($crate::simd::scalar::Scalar $(, $argument)*),
                // SAFETY: `Backend::current` and `Backend::with` only give out backends that the processor supports.
                #[cfg(target_arch = "x86_64")]
                $crate::Backend::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Backend::Avx512 => unsafe { avx512($($argument),*) },
                #[cfg(not(target_arch = "x86_64"))]
                $crate::Backend::Avx2 | $crate::Backend::Avx512 => body($crate::simd::scalar::Scalar $(, $argument)*),
            }
        }
    };
}

pub(crate) use kernel;
