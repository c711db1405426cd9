//! Why a stage runs again, down to the field; and what two locks have different.

mod cause;
mod compare;
mod cost;
mod explanation;
mod finished;
mod render;
#[cfg(test)]
mod tests;

pub use cause::Cause;
pub use compare::{FieldChange, LockDiff, StageChange, diff};
pub use cost::Cost;
pub use explanation::{Explanation, explain, overview};
pub use finished::of_run;
