//! What a plugin may use.

use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

/// Ceilings for one instance of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memory of an instance, MiB. No memory is as large as 2 GiB, whatever this says.
    pub memory_mib: u32,
    /// Wall time of one call, milliseconds. It never decides an output: exceeding it is an error, not a verdict.
    pub timeout_ms: u64,
    /// Instructions of one call, roughly; metering costs up to half of the speed. The deterministic way to stop a loop.
    pub fuel: Option<u64>,
}

impl Limits {
    pub const DEFAULT: Self = Self { memory_mib: 256, timeout_ms: 5_000, fuel: None };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Refuses growth past the ceiling and remembers that it did, because the guest then traps for a reason of its own.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    ceiling: usize,
    used: usize,
    pub(crate) refused: bool,
}

/// Entries of all tables together; a table holds function pointers, of which a compiled language needs thousands.
const TABLE_ELEMENTS: usize = 1 << 20;

impl MemoryLimiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { ceiling: (limits.memory_mib as usize) << 20, used: 0, refused: false }
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.used - current.min(self.used) + desired;
        if total > self.ceiling {
            self.refused = true;
            return Ok(false);
        }
        self.used = total;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS {
            self.refused = true;
        }
        Ok(desired <= TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    /// As many as instances: a module without a memory gets an empty one for what its code looks at.
    fn memories(&self) -> usize {
        64
    }
}
