//! The memory of a training run, before it starts: the bytes of every buffer that the engine would allocate, from the
//! model's shape alone.

mod accelerator;
mod plan;
mod shape;

pub use accelerator::{AcceleratorOptions, AcceleratorPeaks, AcceleratorPlan};
pub use plan::{HostPlan, MemoryPlan, PhasePeaks, WeightTypes};
pub use shape::RunShape;
