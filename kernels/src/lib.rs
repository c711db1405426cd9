//! Numeric kernels on host memory: slices in, slices out, `f32`, row-major.
//!
//! # The numeric law: class `cpu-f32`
//! A result is the same bits for every thread count, every batch composition and every CPU backend, so that a lock
//! written on one machine reproduces on another:
//!
//! - Every `f32` sum of products is a chain of fused multiply-adds in one fixed order. In a matrix product an output
//!   element accumulates over `k` in ascending order inside blocks whose length depends on `k` alone; block totals are
//!   folded into the output in ascending order. Tile shapes, the number of rows, columns and threads never enter.
//! - Horizontal reductions have sixteen lanes and one fixed folding tree, whatever the width of the registers.
//! - `exp`, `ln`, `sin`, `cos` and everything made of them are polynomials of this crate, evaluated with fused
//!   multiply-adds; the platform's `libm` is never asked for anything that IEEE 754 does not round exactly.
//! - Losses and norms accumulate in `f64`, in a fixed shape.
//! - Work is split by shapes or not at all observable: no atomics, no arrival order.
//!
//! [`Backend::Reference`] (scalar, `f32::mul_add`) defines the bits; [`Backend::Avx2`] and [`Backend::Avx512`] must
//! equal it. The backend is chosen once at run time; `LUTHIER_BACKEND=reference|avx2|avx512` forces one.
//!
//! # Calling convention
//! Functions run inside whatever rayon pool the caller is in. They check slice lengths with assertions: a wrong length
//! is an error of the calling code, not of a user's input.

mod backend;
mod gated;
mod parallel;
mod scratch;
mod simd;

pub mod attention;
pub mod blocks;
pub mod cross_entropy;
pub mod device;
pub mod divergence;
pub mod dora;
pub mod elementwise;
pub mod embedding;
pub mod geglu;
pub mod matmul;
pub mod nf4;
pub mod optimizer;
pub mod optimizer_8bit;
pub mod random;
pub mod rms_norm;
pub mod rope;
pub mod sampling;
pub mod scalar;
pub mod swiglu;
pub mod testkit;
mod weight;

pub use backend::{Backend, NUMERIC_CLASS};
pub use blocks::{BlockKind, BlockView};
pub use nf4::{AbsMax, Nf4View};
pub use weight::Weight;
