//! `NAME.lock`: what a pipeline's results were, committed beside it.

mod difference;
mod error;

pub use difference::LockDifference;
pub use error::LockError;
