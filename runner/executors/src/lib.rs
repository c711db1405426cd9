//! Executors that run stages as jobs of another system: Slurm, and any program that speaks a small protocol.
//!
//! Each implements [`BatchExecutor`]; the engine follows the jobs. What a job did is read from the store, which both sides
//! must see under the same path.

mod external;
mod slurm;
mod tool;

use std::sync::Arc;

use luthier_core::{BatchExecutor, ExecutorSpec, StageError, StageResult};

pub use external::External;
pub use slurm::Slurm;

/// The executor that a specification names.
///
/// # Errors
/// It cannot be had on this machine, or is the runner's own.
pub fn make(spec: &ExecutorSpec) -> StageResult<Arc<dyn BatchExecutor>> {
    match spec {
        ExecutorSpec::Slurm { arguments } => Ok(Arc::new(Slurm::new(arguments.clone())?)),
        ExecutorSpec::External { command } => Ok(Arc::new(External::new(command.clone())?)),
        ExecutorSpec::Local | ExecutorSpec::Child => {
            Err(StageError::new("executor::own", format!("`{spec}` is the runner's own executor"))
                .hint("this is a defect of luthier; please report it"))
        }
    }
}
