//! One live instance of a plugin, with its configured session. Dropped and made anew after any trap.

use std::time::Duration;

use wasmtime::{Store, Trap};

use crate::batch::TextBatch;
use crate::component::OpenError;
use crate::deadline::{Deadline, is_deadline};
use crate::engine::FilterEngine;
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
    calls: Calls,
    guest: Guest,
    /// Instructions of the last call, if the engine counts them.
    spent: Option<u64>,
}

/// A store, and what each call into it is granted.
struct Calls {
    store: Store<HostState>,
    deadline: Deadline,
    limits: Limits,
    metered: bool,
}

impl Calls {
    fn new(engine: &FilterEngine, limits: &Limits) -> Self {
        let mut store = Store::new(engine.inner(), HostState::new(limits));
        store.limiter(|state| &mut state.limiter);
        let deadline = engine.deadlines().add(&mut store);
        Self { store, deadline, limits: *limits, metered: engine.meters_fuel() }
    }

    /// Makes one call, which has its time and its fuel.
    fn call<R>(&mut self, call: impl FnOnce(&mut Store<HostState>) -> wasmtime::Result<R>) -> Result<R, Fault> {
        if self.metered {
            // Set on every metered store, so it cannot fail; a guest without budget would trap at once.
            let _ = self.store.set_fuel(self.limits.fuel.unwrap_or(u64::MAX));
        }
        let time = Duration::from_millis(self.limits.timeout_ms);
        let (answer, over) = self.deadline.during(&mut self.store, time, call);
        answer.map_err(|error| fault_of(&error, self.store.data(), &self.limits, over))
    }
}

/// What went wrong, from the trap, what the host saw before it, and whether the time was over.
fn fault_of(error: &wasmtime::Error, state: &HostState, limits: &Limits, over: bool) -> Fault {
    if let Some((place, message)) = state.panic() {
        return Fault::Panic { place: place.clone(), message: message.clone() };
    }
    if state.limiter.refused {
        return Fault::Memory(limits.memory_mib);
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) if is_deadline(*trap, over) => Fault::Deadline(limits.timeout_ms),
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
        Calls::new(engine, limits).call(|store| pre.describe(store))
    }

    pub(crate) fn open(
        engine: &FilterEngine,
        pre: &GuestPre,
        limits: &Limits,
        config: &str,
    ) -> Result<Self, OpenError> {
        let mut calls = Calls::new(engine, limits);
        match calls.call(|store| pre.open(store, config)) {
            Ok(Ok(guest)) => Ok(Self { calls, guest, spent: None }),
            Ok(Err(Declined::Config(issues))) => Err(OpenError::Config(
                issues.into_iter().take(MOST_ISSUES).map(|(path, message)| (tame(&path), tame(&message))).collect(),
            )),
            Ok(Err(Declined::Other(why))) => Err(OpenError::Fault(Fault::Other(tame(&why)))),
            Err(fault) => Err(OpenError::Fault(fault)),
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
        let Self { calls, guest, .. } = self;
        calls.store.data_mut().limiter.refused = false;
        let before = calls.limits.fuel.unwrap_or(u64::MAX);
        let answer = calls.call(|store| guest.process(store, rows, batch));
        self.spent = calls.metered.then(|| before - calls.store.get_fuel().unwrap_or_default());
        answer.flatten()
    }

    pub(crate) fn spent(&self) -> Option<u64> {
        self.spent
    }

    /// What the guest logged since the last call of this.
    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        self.calls.store.data_mut().take_lines()
    }
}
