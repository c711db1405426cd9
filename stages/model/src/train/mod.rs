//! Training: which samples when, at which rate, and the state that survives a kill.
//!
//! A step's gradient is that of the sum of its samples' losses divided by the number of trained tokens of the whole step,
//! so a batch of 16 and 16 accumulated batches of 1 are the same step. Everything random is a function of the seed and a
//! name or position.

mod checkpoint;
mod loss_scale;
mod optimizer;
mod order;
pub(crate) mod overflow;
mod page_layout;
mod pager;
mod pages;
mod probe;
mod results;
mod schedule;
mod spec;
mod state_layout;
mod step_batches;
mod trainer;
mod watchdog;

pub use checkpoint::{Checkpoint, StepRecord};
pub use loss_scale::LossScale;
pub use order::DataOrder;
pub use schedule::Schedule;
pub use spec::{Duration, OptimizerSpec, StateFormat, TrainSpec};
pub use trainer::{StepReport, Trainer, micro_batch_capacity};
pub use watchdog::Watchdog;

pub(crate) use optimizer::{OptimizerBytes, Paging};
pub(crate) use results::STEP_BYTES;
