//! One live instance of a plugin, with its configured session. Dropped and made anew after any trap.

use wasmtime::{Store, Trap};

use crate::batch::TextBatch;
use crate::component::OpenError;
use crate::engine::{FilterEngine, TICK};
use crate::fault::{Fault, tame};
use crate::guest::{Declined, Guest, GuestPre};
use crate::host_state::HostState;
use crate::limits::Limits;
use crate::manifest::RawManifest;
use crate::verdict::RawVerdicts;

/// Issues with a configuration that are shown; a guest may find any number.
const MOST_ISSUES: usize = 100;

/// An opened plugin.
pub(crate) struct Session {
    store: Store<HostState>,
    guest: Guest,
    limits: Limits,
    metered: bool,
    /// Instructions of the last call, if the engine counts them.
    spent: Option<u64>,
}

fn new_store(engine: &FilterEngine, limits: &Limits) -> Store<HostState> {
    let mut store = Store::new(engine.inner(), HostState::new(limits));
    store.limiter(|state| &mut state.limiter);
    store.epoch_deadline_trap();
    store
}

/// Grants one call its time and fuel.
fn arm(store: &mut Store<HostState>, limits: &Limits, metered: bool) {
    let ticks = limits.timeout_ms.div_ceil(u64::try_from(TICK.as_millis()).unwrap_or(1)).max(1);
    store.set_epoch_deadline(ticks + 1);
    if metered {
        // Set on every metered store, so it cannot fail; a guest without budget would trap at once.
        let _ = store.set_fuel(limits.fuel.unwrap_or(u64::MAX));
    }
}

/// What went wrong, from the trap and what the host saw before it.
fn fault_of(error: &wasmtime::Error, state: &HostState, limits: &Limits) -> Fault {
    if let Some((place, message)) = state.panic() {
        return Fault::Panic { place: place.clone(), message: message.clone() };
    }
    if state.limiter.refused {
        return Fault::Memory(limits.memory_mib);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Fault::Deadline(limits.timeout_ms),
        Some(Trap::OutOfFuel) => Fault::Fuel(limits.fuel.unwrap_or(u64::MAX)),
        Some(Trap::StackOverflow) => Fault::Stack,
        Some(trap) => Fault::Trap(trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
        None => {
            let text = format!("{error:#}");
            match text.split("unknown import: `").nth(1).and_then(|rest| rest.split('`').next()) {
                Some(import) => Fault::Forbidden(import.to_owned()),
                None => Fault::Lie(tame(&text)),
            }
        }
    }
}

impl Session {
    pub(crate) fn describe(engine: &FilterEngine, pre: &GuestPre, limits: &Limits) -> Result<RawManifest, Fault> {
        let mut store = new_store(engine, limits);
        arm(&mut store, limits, engine.meters_fuel());
        pre.describe(&mut store).map_err(|error| fault_of(&error, store.data(), limits))
    }

    pub(crate) fn open(
        engine: &FilterEngine,
        pre: &GuestPre,
        limits: &Limits,
        config: &str,
    ) -> Result<Self, OpenError> {
        let metered = engine.meters_fuel();
        let mut store = new_store(engine, limits);
        arm(&mut store, limits, metered);
        match pre.open(&mut store, config) {
            Ok(Ok(guest)) => Ok(Self { store, guest, limits: *limits, metered, spent: None }),
            Ok(Err(Declined::Config(issues))) => Err(OpenError::Config(
                issues.into_iter().take(MOST_ISSUES).map(|(path, message)| (tame(&path), tame(&message))).collect(),
            )),
            Ok(Err(Declined::Other(why))) => Err(OpenError::Fault(Fault::Other(tame(&why)))),
            Err(error) => Err(OpenError::Fault(fault_of(&error, store.data(), limits))),
        }
    }

    /// Judges a batch. After an error other than a refusal the session must not be used again.
    pub(crate) fn process(&mut self, batch: &TextBatch<'_>) -> Result<RawVerdicts, Fault> {
        let rows = u32::try_from(batch.rows()).map_err(|_| Fault::Other("the batch is too large".to_owned()))?;
        self.call(rows, batch)
    }

    /// Hands the batch over and asks about none of its rows: what remains is the cost of the boundary.
    pub(crate) fn cross(&mut self, batch: &TextBatch<'_>) -> Result<(), Fault> {
        self.call(0, batch).map(|_| ())
    }

    fn call(&mut self, rows: u32, batch: &TextBatch<'_>) -> Result<RawVerdicts, Fault> {
        arm(&mut self.store, &self.limits, self.metered);
        self.store.data_mut().limiter.refused = false;
        let before = self.store.get_fuel().unwrap_or_default();
        let answer = self.guest.process(&mut self.store, rows, batch);
        self.spent = self.metered.then(|| before - self.store.get_fuel().unwrap_or_default());
        answer.unwrap_or_else(|error| Err(fault_of(&error, self.store.data(), &self.limits)))
    }

    pub(crate) fn spent(&self) -> Option<u64> {
        self.spent
    }

    /// What the guest logged since the last call of this.
    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        self.store.data_mut().take_lines()
    }
}
