//! Every kernel as a candle custom operation with a backward pass.
//!
//! Several of candle's own fused operations (`rms_norm`, `softmax_last_dim`, `rope`, `QMatMul`) cut the gradient without
//! a word; these do not. They take contiguous tensors of `f32`. Gradients are detached: there is no second derivative.
//!
//! An operation is written once, against the engine's device interface, and runs where its tensors are: on the CPU, with
//! the kernels' bits, and with the feature `candle-cuda` on candle's CUDA devices, in candle's memory and on its stream.
//! That feature enables candle's own `cuda`, which needs `nvcc` and a linked CUDA toolkit.

mod attention;
mod cross_entropy;
#[cfg(feature = "candle-cuda")]
pub mod cuda;
mod gated;
mod host;
mod linear;
mod operation;
mod placed;
mod rms_norm;
mod rope;

pub use attention::attention;
pub use cross_entropy::{cross_entropy, cross_entropy_rows};
pub use gated::{geglu, swiglu};
pub use linear::{FrozenWeight, linear};
pub use rms_norm::rms_norm;
pub use rope::{RotaryTable, rope};
