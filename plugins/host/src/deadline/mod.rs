//! Stopping guests when their time is over.
//!
//! Wherever a guest's code may go on for long it looks at a page of its memory ([`polls`]). A thread of the engine takes the
//! page away when the deadline of a call has passed, so that the next look traps ([`memory`]). Where there are no such
//! pages, and where instructions are counted, wasmtime's own checks of its epoch do the same at a higher price.

#[cfg(unix)]
mod memory;
#[cfg(unix)]
mod polls;
#[cfg(all(test, unix))]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Config, Engine, Store, Trap};

/// Deadlines are looked after this often.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Why code cannot be read.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

/// How an engine stops its guests.
#[derive(Clone)]
pub(crate) enum Deadlines {
    Epochs,
    #[cfg(unix)]
    Pages(Arc<memory::Brakes>),
}

/// How one store is stopped.
pub(crate) enum Deadline {
    Epochs,
    #[cfg(unix)]
    Page(Arc<memory::Brake>),
}

impl Deadlines {
    /// Looks at a page would count as instructions, so `fuel` excludes them.
    pub(crate) fn new(fuel: bool) -> Self {
        #[cfg(unix)]
        if !fuel && cfg!(target_pointer_width = "64") {
            return Self::Pages(Arc::default());
        }
        let _ = fuel;
        Self::Epochs
    }

    pub(crate) fn configure(&self, config: &mut Config) {
        match self {
            Self::Epochs => {
                config.epoch_interruption(true);
            }
            #[cfg(unix)]
            Self::Pages(_) => {
                // The look must reach its page: no check of bounds comes before it. Data is copied into our memories.
                config
                    .memory_init_cow(false)
                    .memory_reservation(4 << 30)
                    .memory_guard_size(32 << 20)
                    .memory_may_move(false)
                    .signals_based_traps(true)
                    .wasm_memory64(false)
                    .wasm_features(wasmtime::WasmFeatures::THREADS, true)
                    .with_host_memory(Arc::new(memory::GuestMemories));
            }
        }
    }

    /// Stops what has run for too long.
    pub(crate) fn tick(&self, engine: &Engine) {
        match self {
            Self::Epochs => engine.increment_epoch(),
            #[cfg(unix)]
            Self::Pages(brakes) => brakes.tick(),
        }
    }

    /// A component that can be stopped once it is compiled.
    pub(crate) fn prepare<'a>(&self, component: &'a [u8]) -> Result<Cow<'a, [u8]>, Broken> {
        match self {
            Self::Epochs => Ok(Cow::Borrowed(component)),
            #[cfg(unix)]
            Self::Pages(_) => polls::insert(component).map(Cow::Owned),
        }
    }

    /// Names what [`Self::prepare`] does.
    pub(crate) fn version(&self) -> &'static [u8] {
        match self {
            Self::Epochs => b"epochs",
            #[cfg(unix)]
            Self::Pages(_) => polls::VERSION,
        }
    }

    /// For a new store.
    pub(crate) fn add<T>(&self, store: &mut Store<T>) -> Deadline {
        match self {
            Self::Epochs => {
                store.epoch_deadline_trap();
                Deadline::Epochs
            }
            #[cfg(unix)]
            Self::Pages(brakes) => Deadline::Page(brakes.add()),
        }
    }
}

impl Deadline {
    /// Does `work` with what is in the store, for which it has this much time. With the result comes whether that was over.
    pub(crate) fn during<T, R>(
        &self,
        store: &mut Store<T>,
        time: Duration,
        work: impl FnOnce(&mut Store<T>) -> R,
    ) -> (R, bool) {
        match self {
            Self::Epochs => {
                let ticks = time.as_nanos().div_ceil(TICK.as_nanos()).max(1);
                store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX / 2) + 1);
                (work(store), false)
            }
            #[cfg(unix)]
            Self::Page(brake) => {
                brake.arm(time);
                let result = brake.hold(|| work(store));
                (result, brake.disarm())
            }
        }
    }
}

/// Whether a trap is the end of a guest's time, which `over` says may have come.
pub(crate) fn is_deadline(trap: Trap, over: bool) -> bool {
    trap == Trap::Interrupt || over && trap == Trap::MemoryOutOfBounds
}
