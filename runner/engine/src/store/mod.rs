//! The content-addressed store of artifacts and the records of what made them.

mod error;
mod record;

pub use error::StoreError;
pub use record::StageRecord;
