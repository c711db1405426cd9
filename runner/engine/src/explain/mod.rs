//! Why a stage runs again, down to the field; and what two locks have different.

mod cause;
mod compare;
#[cfg(test)]
mod tests;

pub use cause::{Cause, Explanation, explain};
pub use compare::{FieldChange, LockDiff, StageChange, diff};
