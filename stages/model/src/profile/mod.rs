//! What a training step costs on this machine: time by operation, share of the peak rate, memory beside its plan.

mod flops;
mod measure;
mod peak;
mod synthetic;

pub use flops::StepFlops;
pub use measure::{ProfileRequest, TrainProfile, profile};
pub use peak::{product_rate, resident_peak};
pub use synthetic::synthetic_tokens;
