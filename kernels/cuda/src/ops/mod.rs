//! The operations: which kernels an operation is, and with what they are launched.

pub mod attention;
pub mod cross_entropy;
pub mod dora;
pub mod elementwise;
pub mod embedding;
pub mod geglu;
pub mod linear;
pub mod matmul;
pub mod matrix;
pub mod nf4;
pub mod optimizer;
pub mod random;
pub mod rms_norm;
pub mod rope;
pub mod sampling;
pub mod swiglu;
