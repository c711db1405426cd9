//! Elementary functions of single numbers in `f64`, the same bits on every platform; for what is made of kernels'
//! results (perplexities, intervals) and must be as reproducible as they are.

pub use crate::simd::math::{exp_f64 as exp, ln, sin_cos};
