//! Elementary functions as polynomials with fused multiply-adds: the same bits on every backend and platform.

use super::Simd;

/// Below this `exp` is 0; results under 2^-125 do not matter to any softmax.
const EXP_LOW: f32 = -86.5;
/// Above this `exp` is infinite.
const EXP_HIGH: f32 = 88.722_83;
/// Adding this rounds to an integer, to the nearest, ties to even, and leaves it in the low bits.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2, split so that `n · LN2_HIGH` is exact for |n| < 2^9.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `e^x`, within 1.5 ulp; 0 below -86.5; NaN stays NaN.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    let c = |value: f32| simd.splat(value);
    let t = simd.fma(x, c(std::f32::consts::LOG2_E), c(ROUNDER));
    let n = simd.sub(t, c(ROUNDER));
    let r = simd.fma(n, c(-LN2_HIGH), x);
    let r = simd.fma(n, c(-LN2_LOW), r);
    // Taylor to the seventh power: |r| <= ln 2 / 2 leaves an error under 6e-9.
    let mut p = c(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = simd.fma(p, r, c(coefficient));
    }
    // 2^(n-1), then doubled, so that n = 128 has an exponent.
    let half = simd.exponent(t, 0x3F00_0000);
    let y = simd.mul(simd.mul(p, half), c(2.0));
    let y = simd.select_gt(c(EXP_LOW), x, c(0.0), y);
    simd.select_gt(x, c(EXP_HIGH), c(f32::INFINITY), y)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<S: Simd>(simd: S, x: S::F) -> S::F {
    let e = exp(simd, simd.mul(x, simd.splat(-1.0)));
    simd.div(simd.splat(1.0), simd.add(simd.splat(1.0), e))
}

/// Hyperbolic tangent, within 1.2e-7 of the exact value.
#[inline(always)]
pub fn tanh<S: Simd>(simd: S, x: S::F) -> S::F {
    let one = simd.splat(1.0);
    let size = simd.max(x, simd.mul(x, simd.splat(-1.0)));
    let e = exp(simd, simd.mul(size, simd.splat(-2.0)));
    let bent = simd.div(simd.sub(one, e), simd.add(one, e));
    simd.select_gt(simd.splat(0.0), x, simd.mul(bent, simd.splat(-1.0)), bent)
}

/// Natural logarithm in `f64`, for normal positive `x` (others as IEEE 754 says); within 1 ulp.
#[must_use]
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * 18_014_398_509_481_984.0, -54) } else { (x, 0) };
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i64) - 1023 + shift;
    let mut mantissa = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh s with s = (m - 1) / (m + 1), |s| < 0.1716.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let z = s * s;
    let mut p = 1.0 / 23.0;
    for odd in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        p = f64::mul_add(p, z, 1.0 / odd);
    }
    let tail = 2.0 * s * z * p;
    let e = exponent as f64;
    // The high part of ln 2 has 32 bits, so its product with the exponent is exact.
    e * 0.693_147_180_369_123_8 + (2.0 * s + (tail + e * 1.908_214_929_270_587_7e-10))
}

const INVERSE_FACTORIALS: [f64; 15] = {
    let mut table = [1.0; 15];
    let mut i = 1;
    while i < 15 {
        table[i] = table[i - 1] / i as f64;
        i += 1;
    }
    table
};

/// `e^x` in `f64`, for |x| < 700.
#[must_use]
pub fn exp_f64(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 709.0 {
        return f64::INFINITY;
    }
    if x < -708.0 {
        return 0.0;
    }
    let n = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = f64::mul_add(n, -0.693_147_180_369_123_8, x);
    let r = f64::mul_add(n, -1.908_214_929_270_587_7e-10, r);
    let mut p = INVERSE_FACTORIALS[14];
    for coefficient in INVERSE_FACTORIALS[..14].iter().rev() {
        p = f64::mul_add(p, r, *coefficient);
    }
    p * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// Sine and cosine in `f64`, for |x| < 2^20; within 2 ulp of a value of size 1.
#[must_use]
pub fn sin_cos(x: f64) -> (f64, f64) {
    let quadrant = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    // pi/2 in three parts of 33 bits, 33 bits and the rest.
    let r = f64::mul_add(quadrant, -1.570_796_326_734_125_6, x);
    let r = f64::mul_add(quadrant, -6.077_100_506_303_966e-11, r);
    let r = f64::mul_add(quadrant, -2.022_266_248_795_950_6e-21, r);
    let z = r * r;
    let series = |first: f64, divisors: [f64; 9]| {
        let mut p = 1.0;
        for divisor in divisors {
            p = f64::mul_add(p, -z / divisor, 1.0);
        }
        p * first
    };
    let sine = series(r, [342.0, 272.0, 210.0, 156.0, 110.0, 72.0, 42.0, 20.0, 6.0]);
    let cosine = series(1.0, [306.0, 240.0, 182.0, 132.0, 90.0, 56.0, 30.0, 12.0, 2.0]);
    match (quadrant as i64) & 3 {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::scalar::Scalar;

    fn relative(found: f64, expected: f64) -> f64 {
        ((found - expected) / expected).abs()
    }

    #[test]
    fn exp_is_close_and_handles_the_ends() {
        for step in -8650..8872 {
            let x = step as f32 / 100.0;
            let found = exp(Scalar, [x; 16])[0];
            assert!(relative(f64::from(found), f64::from(x).exp()) < 1.2e-7, "{x}: {found}");
        }
        let at = |x: f32| exp(Scalar, [x; 16])[0];
        assert_eq!((at(0.0), at(-87.0), at(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert_eq!((at(89.0), at(f32::INFINITY)), (f32::INFINITY, f32::INFINITY));
        assert!(at(f32::NAN).is_nan());
    }

    #[test]
    fn ln_exp_sin_cos_are_close_to_the_platform() {
        for step in 1..20_000 {
            let x = f64::from(step) * 0.01;
            assert!((ln(x) - x.ln()).abs() <= 4e-16 * x.ln().abs().max(1.0), "ln {x}");
            assert!((ln(x * 1e-300) - (x * 1e-300).ln()).abs() <= 2.3e-13, "ln {x}e-300");
            assert!(relative(exp_f64(x), x.exp()) < 1e-15, "exp {x}");
            assert!(relative(exp_f64(-x), (-x).exp()) < 1e-15, "exp -{x}");
            let angle = x * 500.0 + 0.123;
            let (sine, cosine) = sin_cos(angle);
            assert!((sine - angle.sin()).abs() < 5e-16 && (cosine - angle.cos()).abs() < 5e-16, "{angle}");
        }
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f64::NEG_INFINITY);
        assert_eq!(sin_cos(0.0), (0.0, 1.0));
    }
}
