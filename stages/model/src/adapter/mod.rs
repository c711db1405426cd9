//! Low-rank adapters: which projections get one, their parameters, and PEFT's files.

mod magnitudes;
mod peft;
mod peft_config;
mod set;
mod spec;
mod targets;

pub(crate) use magnitudes::floats as magnitude_floats;
pub use peft::{AdapterFiles, AdapterStamp, write_adapter};
pub use peft_config::PeftConfig;
pub use set::{AdapterSet, Slot, parameters};
pub use spec::{Initialization, LoraSpec};
pub use targets::{Selected, Targets};
