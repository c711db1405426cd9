//! The memory of a training run, before it starts: the bytes of every buffer that the engine would allocate, from the
//! model's shape alone.

mod plan;
mod shape;

pub use plan::{MemoryPlan, PhasePeaks, WeightTypes};
pub use shape::RunShape;
