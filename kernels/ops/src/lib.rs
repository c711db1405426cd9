//! Every kernel as a candle custom operation with a backward pass.
//!
//! Several of candle's own fused operations (`rms_norm`, `softmax_last_dim`, `rope`, `QMatMul`) cut the gradient without
//! a word; these do not. They run on the CPU in `f32`, on contiguous tensors, and give the kernels' bits. Gradients are
//! detached: there is no second derivative.

mod attention;
mod cross_entropy;
mod gated;
mod linear;
mod rms_norm;
mod rope;
mod tensors;

pub use attention::attention;
pub use cross_entropy::cross_entropy;
pub use gated::{geglu, swiglu};
pub use linear::{FrozenWeight, linear};
pub use rms_norm::rms_norm;
pub use rope::rope;
